"""Erasing a person with proof, as a job that resumes wherever it was cut."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from pymongo import DeleteOne
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from faces import canary, documents, identity, tombstones
from faces.database import BULK, CROPS, FACES, SUBJECTS, TOMBSTONES, Document, Session, translate
from faces.errors import DatabaseUnavailable, IndexNotReady
from faces.job_run import JobRun, Replaced
from faces.records import ActiveModel
from faces.store_removal import RemovalStore
from faces.watch import explain, list_indexes

_PAGE = 100
NOTES = (
    "Backups hold the erased faces until they expire; import the tombstones after restoring one.",
    "A new picture of the person cannot be recognised as theirs and will be indexed.",
    "The tombstones that stay hold ids and relative boxes only.",
)


def erase(run: JobRun) -> dict[str, Any]:
    """Removes every face of the subject, proves it and returns the receipt.

    The tombstones come first, so that nothing brings back what goes meanwhile; then the faces go by
    item, each in one transaction with its tombstone, then the subject. The proof: no
    face, crop or link is counted at majority, and a canary written after the last delete has been
    found by each vector index.
    """
    db, collection = run.store.db, run.collection or ""
    subject_id: str = run.params["subject_id"]
    receipt_id: str = run.params["receipt_id"]
    theirs: Document = {"collection": collection, "subject_id": subject_id}
    mine: Document | None = theirs
    person = {"_id": identity.subject_key(collection, subject_id)}
    run.other = (SUBJECTS, {**person, "job_id": {"$ne": run.job_id}})
    try:
        _remove(run, theirs, receipt_id)
    except Replaced:
        mine = None  # who has the id by now is another person; nobody is left of this one
    _drop_crops(run, receipt_id)
    count = _count_at_majority(run, mine, receipt_id)
    proofs = _proofs(run)
    with contextlib.suppress(Replaced):
        run.transaction(lambda session: db[SUBJECTS].delete_one(person, session=session))
    receipt = {
        "receipt_id": receipt_id,
        "subject_id": subject_id,
        "collection": collection,
        "state": "verified",
        "faces_deleted": count,
        "tombstones": count,
        "faces_left": 0,
        "indexes": proofs,
        "verified_at": documents.utc(dt.datetime.now(dt.UTC)).isoformat(),
        "notes": list(NOTES),
    }
    _audit(receipt)
    return receipt


def _remove(run: JobRun, mine: Document, receipt_id: str) -> None:
    """Removes the person's faces by item. Raises Replaced."""
    db, removal = run.store.db, RemovalStore(run.store.db)
    left = _entomb(run, mine, receipt_id)
    with translate():
        total = db[TOMBSTONES].count_documents({"receipt_id": receipt_id})
    erased = total - left
    run.progress(done=erased, total=total, flush=True)
    while True:
        with translate():
            rows = list(db[FACES].find(mine, {"media_id": 1}).limit(_PAGE))
        if not rows:
            break
        by_item: dict[str, list[str]] = {}
        for row in rows:
            by_item.setdefault(row["media_id"], []).append(row["_id"])
        for media_id, ids in by_item.items():
            erased += removal.remove_faces(
                mine["collection"],
                media_id,
                ids,
                reason="erased",
                receipt_id=receipt_id,
                guard=run.guard,
            )
            run.progress(done=erased, faces=erased)


def _entomb(run: JobRun, mine: Document, receipt_id: str) -> int:
    """How many faces are left to erase, each of which has its tombstone now."""
    db, left, after = run.store.db, 0, ""

    def entomb(session: Session) -> list[str]:
        found = db[FACES].find(
            {**mine, "_id": {"$gt": after}}, tombstones.FACE_FIELDS, session=session
        )
        rows = list(found.sort([("_id", 1)]).limit(_PAGE))
        now = dt.datetime.now(dt.UTC)
        stones = [tombstones.of_face(row, now, receipt_id=receipt_id) for row in rows]
        tombstones.write(db, stones, session)
        return [row["_id"] for row in rows]

    while ids := run.transaction(entomb):
        left += len(ids)
        after = ids[-1]
        run.progress()
    return left


def _proofs(run: JobRun) -> dict[str, dict[str, float | str]]:
    """What each vector index showed. Raises IndexNotReady while the active one cannot be asked."""
    proofs: dict[str, dict[str, float | str]] = {}
    active: ActiveModel | None = run.store.active_model()
    for model in (active, active.next) if active else ():
        if model is None:
            continue
        state = list_indexes(run.store.db).get(model.index)
        if state is None or not state.queryable:
            if model is active:
                raise IndexNotReady(explain(model.index, state))
            # It answers nobody yet, and is being built from what is left.
            proofs[model.index] = {"state": "not queryable yet"}
            continue
        took = canary.prove(run.store.db, model, tick=run.progress)
        proofs[model.index] = {"canary_found_after_s": round(took, 3)}
    return proofs


def _drop_crops(run: JobRun, receipt_id: str) -> None:
    """Removes crops that outlived their faces, as after a restored backup or a change by hand."""
    db = run.store.db
    with translate():
        for ids in _faces_of(db[TOMBSTONES], receipt_id):
            there = {row["_id"] for row in db[FACES].find({"_id": {"$in": ids}}, {"_id": 1})}
            if gone := [DeleteOne({"_id": face}) for face in ids if face not in there]:
                db[CROPS].bulk_write(gone, ordered=False)
            run.progress()


def _count_at_majority(run: JobRun, mine: Document | None, receipt_id: str) -> int:
    """The number of erased faces, once none of them and none of their crops is left.

    `mine` finds the person's faces, None when another person has the id.
    """
    majority = ReadConcern("majority")
    db = run.store.db
    faces = db[FACES].with_options(read_concern=majority)
    crops = db[CROPS].with_options(read_concern=majority)
    stones = db[TOMBSTONES].with_options(read_concern=majority)
    total = 0
    with translate():
        left = 0 if mine is None else faces.count_documents(mine)
        for ids in _faces_of(stones, receipt_id):
            total += len(ids)
            left += _present(faces, crops, ids)
    if left:
        raise DatabaseUnavailable("Faces were added while they were erased: going on.")
    return total


def _faces_of(stones: Collection[Document], receipt_id: str) -> Iterator[list[str]]:
    """The ids of the faces that a receipt is about, at most BULK at a time."""
    rows = stones.find({"receipt_id": receipt_id}, {"_id": 1})
    ids = (row["_id"].removeprefix("person/") for row in rows)
    while part := list(itertools.islice(ids, BULK)):
        yield part


def _present(faces: Any, crops: Any, ids: list[str]) -> int:
    query = {"_id": {"$in": ids}}
    found: int = faces.count_documents(query) + crops.count_documents(query)
    return found


def _audit(receipt: Mapping[str, Any]) -> None:
    """One line on the log: ids and counts only."""
    structlog.get_logger("likeness.audit").info(
        "erased",
        receipt_id=receipt["receipt_id"],
        collection=receipt["collection"],
        subject_id=receipt["subject_id"],
        faces_deleted=receipt["faces_deleted"],
        verified_at=receipt["verified_at"],
    )
