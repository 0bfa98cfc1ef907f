"""Subjects: people with several faces. Assigning is exact; erasing leaves tombstones.

Every assignment touches the documents of the subjects that it takes from and gives to, so that it
cannot slip past an erasure or a deletion that begins at the same moment.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import UpdateOne

from faces import cursors, documents, identity, tombstones
from faces.database import (
    BULK,
    FACES,
    JOBS,
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
from faces.leases import Fence, check_fence
from faces.records import Item, Page, Scalar, Subject
from faces.store_lists import ListStore

CHUNK = 100
MAX_IDS = 20_000
MAX_NAME = 512
MAX_REJECTED = 1000
_AFTER_ALL = "\U0010ffff"


class SubjectStore:
    """Reads and changes subjects."""

    def __init__(self, db: Db, jobs: Jobs, lists: ListStore) -> None:
        self._db = db
        self._jobs = jobs
        self._lists = lists

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

    def get(self, collection: str, subject_id: str) -> Subject:
        """One subject with its number of faces. Raises NotFound."""
        self._lists.check_collection(collection)
        with translate():
            document = self._db[SUBJECTS].find_one(
                {"_id": identity.subject_key(collection, subject_id), "state": "active"}
            )
            if document is None:
                raise NotFound("There is no such subject.")
            count = self._db[FACES].count_documents(
                {"collection": collection, "subject_id": subject_id}
            )
        return documents.subject_record(document, count)

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
            found = self._db[SUBJECTS].find(query)
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

    def assign(self, collection: str, subject_id: str, face_ids: Sequence[str]) -> int | str:
        """How many faces are now the subject's; above 500 the id of the job that does it.

        A face of another subject changes hands. Raises NotFound when a face or the subject is not
        there, and then changes nothing.
        """
        ids = _ids(face_ids)
        self.get(collection, subject_id)
        self._check_faces(collection, ids)
        if len(ids) > BULK:
            params = {"subject_id": subject_id, "face_ids": ids}
            return self._jobs.enqueue("assign", collection, params)
        chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        return sum(self.assign_chunk(collection, subject_id, chunk) for chunk in chunks)

    def assign_chunk(
        self, collection: str, subject_id: str, ids: Sequence[str], fence: Fence | None = None
    ) -> int:
        """Assigns a few faces in one transaction; how many of them are now the subject's."""

        def work(session: Session) -> int:
            check_fence(self._db, fence, session)
            self._touch(collection, subject_id, session, lifted=ids)
            query = {"_id": {"$in": list(ids)}, "collection": collection}
            rows = list(self._db[FACES].find(query, {"subject_id": 1}, session=session))
            for other in sorted({row["subject_id"] for row in rows} - {None, subject_id}):
                self._touch_old(collection, other, session)
            moved = [(r["_id"], r["subject_id"]) for r in rows if r["subject_id"] != subject_id]
            self._set_subject(moved, subject_id, session)
            return len(rows)

        return in_transaction(self._db, work)

    def unassign(self, collection: str, subject_id: str, face_ids: Sequence[str]) -> int | str:
        """How many of the faces were the subject's and no longer are; above 500 a job's id."""
        ids = _ids(face_ids)
        self.get(collection, subject_id)
        if len(ids) > BULK:
            params = {"subject_id": subject_id, "face_ids": ids}
            return self._jobs.enqueue("unassign", collection, params)
        chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        return sum(self.unassign_chunk(collection, subject_id, chunk) for chunk in chunks)

    def unassign_chunk(
        self, collection: str, subject_id: str, ids: Sequence[str], fence: Fence | None = None
    ) -> int:
        """Unassigns a few faces in one transaction; how many were the subject's."""

        def work(session: Session) -> int:
            check_fence(self._db, fence, session)
            self._touch(collection, subject_id, session)
            query = {"_id": {"$in": list(ids)}, "collection": collection, "subject_id": subject_id}
            rows = list(self._db[FACES].find(query, {"_id": 1}, session=session))
            self._set_subject([(row["_id"], subject_id) for row in rows], None, session)
            return len(rows)

        return in_transaction(self._db, work)

    def reject(self, collection: str, subject_id: str, face_ids: Sequence[str]) -> int:
        """How many of the faces are now known not to be the subject's; those that were are not.

        A rejected face is no match of a search by the subject; assigning it lifts that. The latest
        thousand are remembered. Raises NotFound as `assign` does.
        """
        ids = _ids(face_ids)[:MAX_REJECTED]
        self.get(collection, subject_id)
        self._check_faces(collection, ids)
        for start in range(0, len(ids), CHUNK):
            self.unassign_chunk(collection, subject_id, ids[start : start + CHUNK])
        key = identity.subject_key(collection, subject_id)

        def work(session: Session) -> None:
            subject = self._active(collection, subject_id, session)
            kept = [face for face in subject.get("rejected") or () if face not in set(ids)]
            rejected = [*kept, *ids][-MAX_REJECTED:]
            self._db[SUBJECTS].update_one(
                {"_id": key},
                {"$set": {"rejected": rejected}, "$inc": {"links": 1}},
                session=session,
            )

        in_transaction(self._db, work)
        return len(ids)

    def delete(self, collection: str, subject_id: str) -> int | str:
        """How many faces lost the subject that is now gone; above 500 the id of the job.

        The faces stay. Raises NotFound, Conflict while it is being erased.
        """
        self._lists.check_collection(collection)

        def work(session: Session) -> int | str:
            subject = self._active(collection, subject_id, session)
            query = {"collection": collection, "subject_id": subject_id}
            rows = list(self._db[FACES].find(query, {"_id": 1}, session=session).limit(BULK + 1))
            if len(rows) > BULK:
                job_id = self._jobs.enqueue(
                    "delete_subject", collection, {"subject_id": subject_id}, session=session
                )
                self._leave(subject, "deleting", job_id, session)
                return job_id
            self._set_subject([(row["_id"], subject_id) for row in rows], None, session)
            self._db[SUBJECTS].delete_one({"_id": subject["_id"]}, session=session)
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
                job = self._db[JOBS].find_one({"_id": running}, session=session)
                if job is not None and job["state"] != "failed":
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
            found = {row["_id"]: row for row in self._db[MEDIA].find({"_id": {"$in": keys}})}
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

    def _check_faces(self, collection: str, ids: Sequence[str]) -> None:
        erasing, _ = self._lists.leaving(collection)
        for start in range(0, len(ids), BULK):
            part = list(ids[start : start + BULK])
            query: Document = {"_id": {"$in": part}, "collection": collection}
            if erasing:
                query["subject_id"] = {"$nin": sorted(erasing)}
            with translate():
                present = self._db[FACES].count_documents(query)
            if present != len(part):
                raise NotFound("At least one of the faces is not in this collection.")

    def _active(self, collection: str, subject_id: str, session: Session) -> Document:
        subject = self._db[SUBJECTS].find_one(
            {"_id": identity.subject_key(collection, subject_id)}, session=session
        )
        if subject is None:
            raise NotFound("There is no such subject.")
        if subject["state"] != "active":
            raise Conflict("The subject is being removed.")
        return subject

    def _touch(
        self, collection: str, subject_id: str, session: Session, lifted: Sequence[str] = ()
    ) -> None:
        subject = self._active(collection, subject_id, session)
        update: Document = {"$inc": {"links": 1}}
        if lifted and set(lifted) & set(subject.get("rejected") or ()):
            update["$pullAll"] = {"rejected": list(lifted)}
        self._db[SUBJECTS].update_one({"_id": subject["_id"]}, update, session=session)

    def _touch_old(self, collection: str, subject_id: str, session: Session) -> None:
        """Marks the subject that loses a face. Raises NotFound while it is being erased."""
        key = identity.subject_key(collection, subject_id)
        subject = self._db[SUBJECTS].find_one({"_id": key}, session=session)
        if subject is None:
            return
        if subject["state"] == "erasing":
            raise NotFound("At least one of the faces is not in this collection.")
        self._db[SUBJECTS].update_one({"_id": key}, {"$inc": {"links": 1}}, session=session)

    def _leave(
        self, subject: Document, state: str, job_id: str, session: Session, **fields: str
    ) -> None:
        self._db[SUBJECTS].update_one(
            {"_id": subject["_id"]},
            {"$set": {"state": state, "job_id": job_id, **fields}, "$inc": {"rev": 1}},
            session=session,
        )

    def _set_subject(
        self, faces: Sequence[tuple[str, str | None]], subject_id: str | None, session: Session
    ) -> None:
        writes = [
            UpdateOne({"_id": face, "subject_id": old}, {"$set": {"subject_id": subject_id}})
            for face, old in faces
        ]
        if writes:
            self._db[FACES].bulk_write(writes, ordered=False, session=session)


def _named(name: str | None) -> Document:
    if name is not None and (len(name) > MAX_NAME or "\0" in name):
        raise InvalidRequest.field("name", f"must be at most {MAX_NAME} characters")
    return {"name": name, "name_folded": _folded(name)}


def _folded(name: str | None) -> str:
    return " ".join((name or "").casefold().split())


def _ids(face_ids: Sequence[str]) -> list[str]:
    ids = list(dict.fromkeys(face_ids))
    if not 0 < len(ids) <= MAX_IDS:
        raise InvalidRequest(errors=[FieldError("face_ids", f"must hold 1 to {MAX_IDS} ids")])
    return ids
