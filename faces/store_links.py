"""Which faces are whose: assigning, unassigning, rejecting. All of it is exact.

Every assignment touches the documents of the subjects that it takes from and gives to, so that it
cannot slip past an erasure or a deletion that begins at the same moment.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateOne

from faces import documents, identity
from faces.database import (
    BULK,
    FACES,
    SUBJECTS,
    Db,
    Document,
    Session,
    in_transaction,
    translate,
)
from faces.errors import Conflict, FieldError, InvalidRequest, NotFound
from faces.jobs import Jobs
from faces.leases import Guard
from faces.records import Subject
from faces.store_lists import ListStore

CHUNK = 100
MAX_IDS = 20_000
MAX_REJECTED = 1000


class SubjectLinks:
    """Reads one subject, and changes the faces of subjects; `SubjectStore` does the rest."""

    def __init__(self, db: Db, jobs: Jobs, lists: ListStore) -> None:
        self._db = db
        self._jobs = jobs
        self._lists = lists

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

    def assign(self, collection: str, subject_id: str, face_ids: Sequence[str]) -> int | str:
        """How many faces are now the subject's; above 500 the id of the job that does it.

        A face of another subject changes hands. Raises NotFound when a face or the subject is not
        there, and then changes nothing.
        """
        ids = _ids(face_ids)
        self.get(collection, subject_id)
        self._check_faces(collection, ids)
        if len(ids) > BULK:
            return self._later("assign", collection, subject_id, ids)
        chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        return sum(self.assign_chunk(collection, subject_id, chunk) for chunk in chunks)

    def assign_chunk(
        self, collection: str, subject_id: str, ids: Sequence[str], guard: Guard = lambda _: None
    ) -> int:
        """Assigns a few faces in one transaction; how many of them are now the subject's."""

        def work(session: Session) -> int:
            guard(session)
            self._touch(collection, subject_id, session, lifted=ids)
            query = {"_id": {"$in": list(ids)}, "collection": collection}
            rows = list(self._db[FACES].find(query, {"subject_id": 1}, session=session))
            for other in sorted({row["subject_id"] for row in rows} - {None, subject_id}):
                self._touch_old(collection, other, session)
            moved = [(r["_id"], r["subject_id"]) for r in rows if r["subject_id"] != subject_id]
            self._set_subject(moved, subject_id, session)
            return len(rows)

        return in_transaction(self._db, work)

    def assign_free(self, collection: str, subject_id: str, face_ids: Sequence[str]) -> set[str]:
        """Those of at most 100 faces that are now the subject's; another's faces stay with it."""

        def work(session: Session) -> set[str]:
            self._touch(collection, subject_id, session, lifted=face_ids)
            query = {"_id": {"$in": list(face_ids)}, "collection": collection}
            rows = list(self._db[FACES].find(query, {"subject_id": 1}, session=session))
            kept = taken(self._db, collection, rows, session) - {subject_id}
            whose = {r["_id"]: r["subject_id"] for r in rows if r["subject_id"] not in kept}
            free = [(face, old) for face, old in whose.items() if old != subject_id]
            self._set_subject(free, subject_id, session)
            return set(whose)

        return in_transaction(self._db, work)

    def unassign(self, collection: str, subject_id: str, face_ids: Sequence[str]) -> int | str:
        """How many of the faces were the subject's and no longer are; above 500 a job's id."""
        ids = _ids(face_ids)
        self.get(collection, subject_id)
        if len(ids) > BULK:
            return self._later("unassign", collection, subject_id, ids)
        chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
        return sum(self.unassign_chunk(collection, subject_id, chunk) for chunk in chunks)

    def unassign_chunk(
        self, collection: str, subject_id: str, ids: Sequence[str], guard: Guard = lambda _: None
    ) -> int:
        """Unassigns a few faces in one transaction; how many were the subject's."""

        def work(session: Session) -> int:
            guard(session)
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

    def _later(self, kind: str, collection: str, subject_id: str, ids: Sequence[str]) -> str:
        """The id of a job for this subject, and for no later one of the same id."""
        with translate():
            subject = self._db[SUBJECTS].find_one(
                {"_id": identity.subject_key(collection, subject_id)}, {"birth": 1}
            )
        birth = (subject or {}).get("birth")
        params = {"subject_id": subject_id, "face_ids": ids, "birth": birth}
        return self._jobs.enqueue(kind, collection, params)

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

    def _set_subject(
        self, faces: Sequence[tuple[str, str | None]], subject_id: str | None, session: Session
    ) -> None:
        writes = [
            UpdateOne({"_id": face, "subject_id": old}, {"$set": {"subject_id": subject_id}})
            for face, old in faces
        ]
        if writes:
            self._db[FACES].bulk_write(writes, ordered=False, session=session)


def taken(db: Db, collection: str, faces: Sequence[Document], session: Session) -> set[str]:
    """Whose faces these are, without those who are being deleted: their faces are shown as free."""
    subjects = {face["subject_id"] for face in faces} - {None}
    if not subjects:
        return set()
    keys = [identity.subject_key(collection, subject) for subject in sorted(subjects)]
    query = {"_id": {"$in": keys}, "state": "deleting"}
    rows = db[SUBJECTS].find(query, {"subject_id": 1}, session=session)
    return subjects - {row["subject_id"] for row in rows}


def _ids(face_ids: Sequence[str]) -> list[str]:
    ids = list(dict.fromkeys(face_ids))
    if not 0 < len(ids) <= MAX_IDS:
        raise InvalidRequest(errors=[FieldError("face_ids", f"must hold 1 to {MAX_IDS} ids")])
    return ids
