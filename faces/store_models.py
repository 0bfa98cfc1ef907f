"""The active model: one document, which wins over every process's environment.

A switch prepares the next model beside it and then flips; everybody sees one or the other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal, TypeAlias

from faces import documents
from faces.database import FACES, MODELS, Db, Document, in_transaction, translate
from faces.database import Session as DbSession
from faces.errors import Busy, Conflict, NotFound
from faces.records import ActiveModel, Quantization
from faces.search import index_name

ACTIVE = "active"
RESERVED = "~canary"
"""The collection of the index's canaries: not a client's, and never re-embedded."""
Stage: TypeAlias = Literal["idle", "load", "both", "enforced"]
"""`load`: processes load the next model. `both`: they give each new picture both vectors.
`enforced`: a picture without both is not stored."""
_STAGES: tuple[Stage, ...] = ("idle", "load", "both", "enforced")
_MODEL = ("model", "build", "index", "quantization")


class ModelStore:
    """Reads, chooses and switches the active model."""

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
            document = {"_id": ACTIVE, **_fields(key, build), "since": _now(), "rev": 1}
            self._db[MODELS].insert_one(document, session=session)
            return document

        try:
            return documents.model_record(in_transaction(self._db, work))
        except Conflict:
            if (active := self.active()) is not None:  # another process chose at the same moment
                return active
            raise

    def missing(self, key: str) -> int:
        """How many faces have no vector of the model."""
        with translate():
            return self._db[FACES].count_documents(missing_query(key))

    def begin_switch(
        self, key: str, build: str, index: str, quantization: Quantization = "none"
    ) -> ActiveModel:
        """The active model with `next` set; repeating it changes nothing.

        Raises Conflict while another switch is being prepared.
        """

        def work(session: DbSession) -> Document:
            document = self._present(session)
            wanted = _fields(key, build, index, quantization)
            upcoming = document.get("next")
            if upcoming is not None and (upcoming["model"], upcoming["index"]) == (key, index):
                return document
            if upcoming is not None:
                raise Conflict(
                    f"A switch to {upcoming['model']} is being prepared: finish it with "
                    f"`python -m migrations model {upcoming['model']}`, or drop it with "
                    "`python -m migrations model prune`."
                )
            if document["index"] == index:
                raise Conflict("This is the active model already.")
            return self._change(document, {"next": wanted, **_stage("idle")}, session)

        return documents.model_record(in_transaction(self._db, work))

    def set_stage(self, key: str, stage: Stage) -> None:
        """How far the preparation of the switch to `key` is; see `Stage`."""

        def work(session: DbSession) -> None:
            document = self._present(session)
            upcoming = document.get("next")
            if upcoming is None or upcoming["model"] != key:
                raise Conflict("The switch was changed by another process: begin again.")
            self._change(document, _stage(stage), session)

        in_transaction(self._db, work)

    def flip(self, key: str, left_behind: int) -> ActiveModel:
        """Makes the next model active: one document, seen by all within two seconds.

        Repeating it changes nothing. Raises Conflict when the switch was not prepared.
        """

        def work(session: DbSession) -> Document:
            document = self._present(session)
            upcoming = document.get("next")
            if upcoming is None and document["model"] == key:
                return document
            if upcoming is None or upcoming["model"] != key:
                raise Conflict(f"No switch to {key} is being prepared.")
            if not document.get("enforced") and key != document["model"]:
                raise Conflict("The switch is not prepared: the processes were not asked yet.")
            changes = {
                **upcoming,
                "previous": {name: document[name] for name in _MODEL},
                "next": None,
                **_stage("idle"),
                "left_behind": left_behind,
                "since": _now(),
            }
            return self._change(document, changes, session)

        return documents.model_record(in_transaction(self._db, work))

    def forget(self, index: str) -> None:
        """Takes the model with this index out of `next` and `previous`, before it is dropped."""

        def work(session: DbSession) -> None:
            document = self._present(session)
            gone: Document = {}
            for name in ("next", "previous"):
                if (entry := document.get(name)) is not None and entry["index"] == index:
                    gone[name] = None
            if "next" in gone:
                gone |= _stage("idle")
            if gone:
                self._change(document, gone, session)

        in_transaction(self._db, work)

    def settle(self, key: str, missing: int) -> None:
        """Stores how many faces the active model has left behind, after some were mended."""
        with translate():
            self._db[MODELS].update_one(
                {"_id": ACTIVE, "model": key}, {"$set": {"left_behind": missing}}
            )

    def _present(self, session: DbSession) -> Document:
        document = self._db[MODELS].find_one({"_id": ACTIVE}, session=session)
        if document is None:
            raise NotFound("The database has no active model: run `python -m migrations up`.")
        return document

    def _change(self, document: Document, changes: Document, session: DbSession) -> Document:
        changes = {**changes, "rev": document["rev"] + 1}
        self._db[MODELS].update_one({"_id": ACTIVE}, {"$set": changes}, session=session)
        return {**document, **changes}


def missing_query(key: str) -> Document:
    """The faces without a vector of the model."""
    return {"collection": {"$ne": RESERVED}, f"builds.{key}": {"$exists": False}}


def check_covered(db: Db, models: Sequence[str], session: DbSession) -> None:
    """Raises Busy unless the vectors about to be stored are of all models that count now.

    Those are the active one and, shortly before a flip, the next one: no face stored during a flip
    lacks the vector that is searched after it.
    """
    document = db[MODELS].find_one({"_id": ACTIVE}, session=session)
    if document is None:
        return
    needed = [document["model"]]
    if document.get("enforced") and document.get("next"):
        needed.append(document["next"]["model"])
    if not set(needed) <= set(models):
        raise Busy(
            "The model is being switched, and this picture was worked on with the other one: "
            "try again.",
            retry_after=1.0,
        )


def _fields(
    key: str, build: str, index: str | None = None, quantization: Quantization = "none"
) -> Document:
    return {
        "model": key,
        "build": build,
        "index": index or index_name(key),
        "quantization": quantization,
    }


def _stage(stage: Stage) -> Document:
    reached = _STAGES.index(stage)
    return {"preparing": reached >= 1, "both": reached >= 2, "enforced": reached >= 3}


def _now() -> dt.datetime:
    return documents.utc(dt.datetime.now(dt.UTC))
