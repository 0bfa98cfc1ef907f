"""Subjects: people with several faces. Erasing leaves tombstones."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from faces import cursors, documents, identity, tombstones
from faces.database import (
    BULK,
    FACES,
    MEDIA,
    SUBJECTS,
    Document,
    Session,
    in_transaction,
    insert_new,
    translate,
)
from faces.errors import Conflict, InvalidRequest, NotFound
from faces.records import Item, Page, Scalar, Subject
from faces.store_links import SubjectLinks

MAX_NAME = 512
_FIELDS: Document = {"rejected": 0}
"""The projection of lists: a person may have a thousand rejected faces."""
_AFTER_ALL = "\U0010ffff"


class SubjectStore(SubjectLinks):
    """Reads and changes subjects."""

    def create(
        self,
        collection: str,
        subject_id: str,
        name: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
    ) -> Subject:
        """A new subject without faces. Raises Conflict when it is there or still going."""
        self._lists.check_collection(collection)
        documents.check_metadata(metadata or {})
        now = documents.utc(dt.datetime.now(dt.UTC))
        document: Document = {
            "_id": identity.subject_key(collection, subject_id),
            "collection": collection,
            "subject_id": subject_id,
            **_named(name),
            "metadata": dict(metadata or {}),
            "state": "active",
            "rev": 1,
            "links": 0,
            "created_at": now,
            "updated_at": now,
        }
        try:
            insert_new(self._db, SUBJECTS, document)
        except Conflict:
            raise Conflict("A subject of this id is there, or still being removed.") from None
        return documents.subject_record(document, 0)

    def list(
        self, collection: str, *, q: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Subject]:
        """Subjects by name, those whose name begins with `q` in any case when it is given."""
        self._lists.check_collection(collection)
        prefix = _folded(q)
        scope = ("subjects", collection, prefix)
        after = cursors.decode(cursor, scope, (str, str))
        query: Document = {"collection": collection, "state": "active"}
        if prefix:
            query["name_folded"] = {"$gte": prefix, "$lt": prefix + _AFTER_ALL}
        if after:
            later = {
                "$or": [
                    {"name_folded": after[0], "subject_id": {"$gt": after[1]}},
                    {"name_folded": {"$gt": after[0]}},
                ]
            }
            query = {"$and": [query, later]}
        with translate():
            found = self._db[SUBJECTS].find(query, _FIELDS)
            order = [("collection", 1), ("name_folded", 1), ("subject_id", 1)]
            rows = list(found.sort(order).limit(limit + 1))
        more = len(rows) > limit
        rows = rows[:limit]
        counts = self._counts(collection, [row["subject_id"] for row in rows])
        last = rows[-1] if more else None
        return Page(
            tuple(documents.subject_record(row, counts.get(row["subject_id"], 0)) for row in rows),
            cursors.encode(scope, (last["name_folded"], last["subject_id"])) if last else None,
        )

    def update(self, collection: str, subject_id: str, **changes: Any) -> Subject:
        """The subject with a new `name` or `metadata`. Raises NotFound."""
        fields: Document = {"updated_at": documents.utc(dt.datetime.now(dt.UTC))}
        if "name" in changes:
            fields |= _named(changes["name"])
        if "metadata" in changes:
            documents.check_metadata(changes["metadata"] or {})
            fields["metadata"] = dict(changes["metadata"] or {})
        self._lists.check_collection(collection)
        with translate():
            changed = self._db[SUBJECTS].update_one(
                {"_id": identity.subject_key(collection, subject_id), "state": "active"},
                {"$set": fields, "$inc": {"rev": 1}},
            )
        if not changed.matched_count:
            raise NotFound("There is no such subject.")
        return self.get(collection, subject_id)

    def delete(self, collection: str, subject_id: str) -> int | str:
        """How many faces lost the subject that is now gone; above 500 the id of the job.

        The faces stay. One whose job failed gets another. Raises NotFound, and Conflict while it
        is being erased or deleted.
        """
        self._lists.check_collection(collection)

        made: list[int | str] = []

        def work(session: Session) -> int | str:
            key = {"_id": identity.subject_key(collection, subject_id)}
            found = self._db[SUBJECTS].find_one(key, session=session) if made else {}
            if made and (found is None or found.get("job_id") == made[-1]):
                return made[-1]  # an attempt before came through after all
            subject = self._leaving(collection, subject_id, "deleting", session)
            query = {"collection": collection, "subject_id": subject_id}
            rows = list(self._db[FACES].find(query, {"_id": 1}, session=session).limit(BULK + 1))
            if len(rows) > BULK:
                job_id = self._jobs.enqueue(
                    "delete_subject", collection, {"subject_id": subject_id}, session=session
                )
                self._leave(subject, "deleting", job_id, session)
                made.append(job_id)
                return job_id
            self._set_subject([(row["_id"], subject_id) for row in rows], None, session)
            self._db[SUBJECTS].delete_one({"_id": subject["_id"]}, session=session)
            made.append(len(rows))
            return len(rows)

        return in_transaction(self._db, work)

    def erase(self, collection: str, subject_id: str) -> str:
        """The id of the job that erases every face of the person, who is hidden from now on.

        Asking again gives the same job. Raises NotFound, Conflict while it is being deleted.
        """
        self._lists.check_collection(collection)
        key = identity.subject_key(collection, subject_id)

        def work(session: Session) -> str:
            subject = self._db[SUBJECTS].find_one({"_id": key}, session=session)
            receipt_id = str(uuid.uuid4())
            if subject is not None and subject["state"] == "erasing":
                running: str = subject["job_id"]
                if not self._jobs.came_to_nothing(running, session):
                    return running
                receipt_id = subject["receipt_id"]
            else:
                subject = self._active(collection, subject_id, session)
            params = {"subject_id": subject_id, "receipt_id": receipt_id}
            job_id = self._jobs.enqueue("erase", collection, params, session=session)
            self._leave(subject, "erasing", job_id, session, receipt_id=receipt_id)
            # Before the job begins the item may be deleted and put again, or hold another picture
            # for a while: from now on none of it brings the face back.
            mine = {"collection": collection, "subject_id": subject_id}
            rows = self._db[FACES].find(mine, tombstones.FACE_FIELDS, session=session).limit(BULK)
            now = dt.datetime.now(dt.UTC)
            stones = [tombstones.of_face(row, now, receipt_id=receipt_id) for row in rows]
            tombstones.write(self._db, stones, session)
            return job_id

        return in_transaction(self._db, work)

    def media(
        self, collection: str, subject_id: str, *, limit: int = 100, cursor: str | None = None
    ) -> Page[Item]:
        """The items with a face of the subject, newest first by the date taken, else indexed."""
        self.get(collection, subject_id)
        scope = ("subject-media", collection, subject_id)
        after = cursors.decode(cursor, scope, (int, str))
        moment: Document = {"$max": {"$ifNull": ["$taken_at", "$created_at"]}}
        stages: list[Document] = [
            {"$match": {"collection": collection, "subject_id": subject_id}},
            {"$group": {"_id": "$media_id", "at": moment}},
            {"$set": {"at": {"$toLong": "$at"}}},
        ]
        if after:
            later = [{"at": {"$lt": after[0]}}, {"at": after[0], "_id": {"$gt": after[1]}}]
            stages.append({"$match": {"$or": later}})
        stages += [{"$sort": {"at": -1, "_id": 1}}, {"$limit": limit + 1}]
        with translate():
            rows = list(self._db[FACES].aggregate(stages))
            more = len(rows) > limit
            rows = rows[:limit]
            keys = [identity.media_key(collection, row["_id"]) for row in rows]
            items = self._db[MEDIA].find({"_id": {"$in": keys}}, documents.ITEM_FIELDS)
            found = {row["_id"]: row for row in items}
        return Page(
            tuple(documents.item_record(found[key]) for key in keys if key in found),
            cursors.encode(scope, (int(rows[-1]["at"]), rows[-1]["_id"])) if more else None,
        )

    def _counts(self, collection: str, subject_ids: Sequence[str]) -> dict[str, int]:
        stages: list[Document] = [
            {"$match": {"collection": collection, "subject_id": {"$in": list(subject_ids)}}},
            {"$group": {"_id": "$subject_id", "n": {"$sum": 1}}},
        ]
        with translate():
            return {row["_id"]: row["n"] for row in self._db[FACES].aggregate(stages)}

    def _leaving(self, collection: str, subject_id: str, state: str, session: Session) -> Document:
        """The subject: active, or in this state by a job that failed. Raises as `_active` does."""
        key = identity.subject_key(collection, subject_id)
        subject = self._db[SUBJECTS].find_one({"_id": key, "state": state}, session=session)
        if subject is not None and self._jobs.came_to_nothing(subject["job_id"], session):
            return subject
        return self._active(collection, subject_id, session)

    def _leave(
        self, subject: Document, state: str, job_id: str, session: Session, **fields: str
    ) -> None:
        self._db[SUBJECTS].update_one(
            {"_id": subject["_id"]},
            {"$set": {"state": state, "job_id": job_id, **fields}, "$inc": {"rev": 1}},
            session=session,
        )


def _named(name: str | None) -> Document:
    if name is not None and (len(name) > MAX_NAME or "\0" in name):
        raise InvalidRequest.field("name", f"must be at most {MAX_NAME} characters")
    return {"name": name, "name_folded": _folded(name)}


def _folded(name: str | None) -> str:
    return " ".join((name or "").casefold().split())
