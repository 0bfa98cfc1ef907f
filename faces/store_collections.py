"""Collections: names with declared metadata fields, hidden at once when they are deleted."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping
from typing import Any

from faces import cursors, documents
from faces.database import (
    COLLECTIONS,
    FACES,
    MEDIA,
    SUBJECTS,
    Db,
    Document,
    Session,
    in_transaction,
    insert_new,
    translate,
)
from faces.errors import Conflict, FieldError, InvalidRequest, NotFound
from faces.jobs import Jobs
from faces.records import DEFAULT_COLLECTION, CollectionInfo, FieldType, Page
from faces.store_models import ModelStore, missing_query

NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
MAX_FIELDS = 32


class CollectionStore:
    """Creates, lists, redeclares and deletes collections; `Store` is its public face."""

    def __init__(self, db: Db, jobs: Jobs) -> None:
        self._db = db
        self._jobs = jobs

    def create(self, name: str, fields: Mapping[str, FieldType]) -> CollectionInfo:
        """A new collection. Raises Conflict when it is there or still being deleted."""
        check_name(name)
        check_fields(fields)
        document: Document = {
            "_id": name,
            "metadata_fields": dict(fields),
            "created_at": documents.utc(dt.datetime.now(dt.UTC)),
            "rev": 1,
        }
        try:
            insert_new(self._db, COLLECTIONS, document)
        except Conflict:
            raise Conflict("A collection of this name is there, or still being deleted.") from None
        return documents.collection_record(document)

    def ensure(self, name: str) -> CollectionInfo:
        """The collection, made without declared fields when it is not there."""
        check_name(name)
        try:
            with translate():
                self._db[COLLECTIONS].update_one(
                    {"_id": name},
                    {
                        "$setOnInsert": {
                            "metadata_fields": {},
                            "created_at": documents.utc(dt.datetime.now(dt.UTC)),
                            "rev": 1,
                        }
                    },
                    upsert=True,
                )
        except Conflict:
            pass  # another process made it at the same moment
        return self.get(name)

    def get(self, name: str, *, counts: bool = False) -> CollectionInfo:
        """One collection, with the numbers of its items, faces and subjects when asked for."""
        with translate():
            document = self._db[COLLECTIONS].find_one({"_id": name})
            if document is None or document.get("deleting"):
                raise NotFound("There is no such collection.")
            return documents.collection_record(document, **(self._counts(name) if counts else {}))

    def page(
        self, limit: int, cursor: str | None, within: Collection[str] | None = None
    ) -> Page[CollectionInfo]:
        """Collections by name, or those of them that are among `within`."""
        scope = ("collections",)
        after = cursors.decode(cursor, scope, (str,))
        names: Document = {} if within is None else {"$in": sorted(within)}
        if after:
            names["$gt"] = after[0]
        query: Document = {"deleting": {"$exists": False}}
        if names:
            query["_id"] = names
        with translate():
            rows = list(self._db[COLLECTIONS].find(query).sort([("_id", 1)]).limit(limit + 1))
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(
            tuple(documents.collection_record(row) for row in rows),
            cursors.encode(scope, (rows[-1]["_id"],)) if more else None,
        )

    def redeclare(self, name: str, fields: Mapping[str, FieldType]) -> str:
        """The id of the job that rewrites the collection's facets for its new fields.

        A field that is new or of a new type cannot be filtered by until the job is done; other
        fields stay usable throughout.
        """
        check_fields(fields)

        def work(session: Session) -> str:
            document = self._present(name, session)
            old = document.get("metadata_fields") or {}
            still = set(document.get("pending_fields") or ())
            pending = sorted(
                field for field in fields if field in still or old.get(field) != fields[field]
            )
            job_id = self._jobs.enqueue(
                "redeclare", name, {"rev": document["rev"] + 1}, session=session
            )
            self._db[COLLECTIONS].update_one(
                {"_id": name},
                {
                    "$set": {
                        "metadata_fields": dict(fields),
                        "pending_fields": pending,
                        "facets_job": job_id,
                    },
                    "$inc": {"rev": 1},
                },
                session=session,
            )
            return job_id

        return in_transaction(self._db, work)

    def delete(self, name: str) -> str:
        """The id of the job that deletes the collection, which is hidden from now on.

        One whose job failed gets another. Raises NotFound, Conflict for `default`.
        """
        if name == DEFAULT_COLLECTION:
            raise Conflict("The collection `default` cannot be deleted.")

        made: set[str] = set()

        def work(session: Session) -> str:
            found = self._db[COLLECTIONS].find_one({"_id": name}, session=session) or {}
            if (under_way := found.get("deleting")) in made:
                return str(under_way)  # an attempt before came through after all
            if under_way is None or not self._jobs.came_to_nothing(under_way, session):
                self._present(name, session)
            job_id = self._jobs.enqueue("delete_collection", name, {}, session=session)
            made.add(job_id)
            self._db[COLLECTIONS].update_one(
                {"_id": name}, {"$set": {"deleting": job_id}, "$inc": {"rev": 1}}, session=session
            )
            return job_id

        return in_transaction(self._db, work)

    def _present(self, name: str, session: Session) -> Document:
        document = self._db[COLLECTIONS].find_one({"_id": name}, session=session)
        if document is None or document.get("deleting"):
            raise NotFound("There is no such collection.")
        return document

    def _counts(self, name: str) -> dict[str, Any]:
        here = {"collection": name}
        active = ModelStore(self._db).active()
        left = 0
        if active is not None and active.left_behind:
            lacking = {**missing_query(active.key), **here}
            left = self._db[FACES].count_documents(lacking)
        return {
            "left_behind": left,
            "media": self._db[MEDIA].count_documents({**here, "state": {"$ne": "gone"}}),
            "faces": self._db[FACES].count_documents(here),
            "subjects": self._db[SUBJECTS].count_documents({**here, "state": "active"}),
        }


def check_name(name: str) -> None:
    """Raises InvalidRequest unless it is a name that a collection may have."""
    if not NAME.fullmatch(name):
        raise InvalidRequest.field("collection", "must be 1 to 255 of A-Z a-z 0-9 _ . -")


def check_fields(fields: Mapping[str, object]) -> None:
    """Raises InvalidRequest unless these metadata fields can be declared."""
    errors = []
    if len(fields) > MAX_FIELDS:
        errors.append(FieldError("metadata_fields", f"has more than {MAX_FIELDS} names"))
    for name, declared in fields.items():
        if not documents.METADATA_NAME.fullmatch(name):
            errors.append(FieldError("metadata_fields", "names are 1 to 64 of A-Z a-z 0-9 _ -"))
        elif declared not in ("string", "number", "bool"):
            errors.append(FieldError(f"metadata_fields.{name}", "must be string, number or bool"))
    if errors:
        raise InvalidRequest(errors=errors)
