"""The active model: one document, which wins over every process's environment."""

from __future__ import annotations

import datetime as dt

from faces import documents
from faces.database import FACES, MODELS, Db, Document, in_transaction, translate
from faces.database import Session as DbSession
from faces.errors import Conflict
from faces.records import ActiveModel
from faces.search import index_name

ACTIVE = "active"


class ModelStore:
    """Reads and first chooses the active model. Switching it is the work of migrations."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def active(self) -> ActiveModel | None:
        """The active model, or None on a database that has none yet."""
        with translate():
            document = self._db[MODELS].find_one({"_id": ACTIVE})
        return documents.model_record(document) if document else None

    def choose(self, key: str, build: str) -> ActiveModel:
        """The active model; `key` becomes it only on a database without model and faces.

        Raises Conflict when there are faces but no active model: nobody can tell whose they are.
        """

        def work(session: DbSession) -> Document:
            document = self._db[MODELS].find_one({"_id": ACTIVE}, session=session)
            if document is not None:
                return document
            if self._db[FACES].find_one({}, {"_id": 1}, session=session):
                raise Conflict("The database holds faces but no active model.")
            document = {
                "_id": ACTIVE,
                "model": key,
                "build": build,
                "index": index_name(key),
                "quantization": "none",
                "since": documents.millis(dt.datetime.now(dt.UTC)),
                "rev": 1,
            }
            self._db[MODELS].insert_one(document, session=session)
            return document

        try:
            return documents.model_record(in_transaction(self._db, work))
        except Conflict:
            if (active := self.active()) is not None:  # another process chose at the same moment
                return active
            raise
