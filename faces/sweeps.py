"""Paced jobs that finish what a request began: each repeats safely from any point."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping
from typing import Any

from pymongo import DeleteOne, UpdateOne

from faces import documents, identity
from faces.database import (
    ALIASES,
    COLLECTIONS,
    CROPS,
    FACES,
    IN_FLIGHT_S,
    MEDIA,
    SUBJECTS,
    TOMBSTONES,
    Db,
    Document,
    Session,
    translate,
)
from faces.errors import NotFound
from faces.job_run import JobRun, Replaced
from faces.records import FieldType
from faces.store_links import CHUNK

PAUSE_S = 0.02
"""Between two bulks, so that requests get their turn."""


def delete_collection(run: JobRun) -> dict[str, Any]:
    """Removes all that a hidden collection holds, then the collection. No orphan stays.

    A write that began before the collection was hidden may still be on its way: the sweep is
    repeated once none can be. Tombstones of erased people stay, as nothing ever lifts them.
    """
    name = run.collection or ""
    counts = {"faces": 0, "media": 0, "subjects": 0}
    counts.update(run.state)
    run.other = (COLLECTIONS, {"_id": name, "deleting": {"$ne": run.job_id}})
    with contextlib.suppress(Replaced):
        _sweep(run, name, counts)
    return {"collection": name, **counts}


def _sweep(run: JobRun, name: str, counts: dict[str, int]) -> None:
    run.transaction(lambda session: None)  # one that was done with before begins nothing
    with translate():
        total = run.store.db[FACES].count_documents({"collection": name})
    run.progress(total=total + counts["faces"], flush=True)
    for last in (False, True):
        if last:
            _wait_for_writers(run)
        for where, label in ((FACES, "faces"), (MEDIA, "media"), (SUBJECTS, "subjects")):
            counts[label] += _empty(run, where, {"collection": name}, counts, label)
        _empty(run, CROPS, {"collection": name}, counts, "")
        _empty(run, ALIASES, {"collection": name}, counts, "")
        _empty(run, TOMBSTONES, {"collection": name, "kind": {"$ne": "person"}}, counts, "")
    with translate():
        run.store.db[COLLECTIONS].delete_one({"_id": name, "deleting": run.job_id})


def delete_subject(run: JobRun) -> dict[str, Any]:
    """Takes the subject off all its faces, which stay, then removes it."""
    db, collection = run.store.db, run.collection or ""
    subject_id: str = run.params["subject_id"]
    done = int(run.state.get("unassigned", 0))
    query = {"collection": collection, "subject_id": subject_id}
    person = {"_id": identity.subject_key(collection, subject_id)}
    run.other = (SUBJECTS, {**person, "job_id": {"$ne": run.job_id}})
    with translate():
        run.progress(total=done + db[FACES].count_documents(query), flush=True)

    def some(session: Session) -> int:
        rows = db[FACES].find(query, {"_id": 1}, session=session).limit(CHUNK)
        free = {"$set": {"subject_id": None}}
        writes = [UpdateOne({"_id": row["_id"]}, free) for row in rows]
        if writes:
            db[FACES].bulk_write(writes, ordered=False, session=session)
        return len(writes)

    with contextlib.suppress(Replaced):
        while count := run.transaction(some):
            done += count
            run.state["unassigned"] = done
            run.progress(done=done, faces=done)
            time.sleep(PAUSE_S)
        run.transaction(lambda session: db[SUBJECTS].delete_one(person, session=session))
    return {"subject_id": subject_id, "faces_unassigned": done}


def _declared(run: JobRun) -> dict[str, Any] | None:
    """The declared fields; None when a later declaration has a job of its own.

    Raises NotFound when the collection was deleted.
    """
    with translate():
        document = run.store.db[COLLECTIONS].find_one({"_id": run.collection or ""})
    if document is None or document.get("deleting"):
        raise NotFound("The collection was deleted.")
    if document.get("facets_job") != run.job_id:
        return None
    fields: dict[str, Any] = document["metadata_fields"]
    return fields


def redeclare(run: JobRun) -> dict[str, Any]:
    """Rewrites the facets of a collection for its newly declared fields, then opens the fields."""
    db, name = run.store.db, run.collection or ""
    if _declared(run) is not None:  # else many declarations in a row would each be waited for
        _wait_for_writers(run)
    declared = _declared(run)
    if declared is None:
        return {"collection": name, "superseded": True}
    run.other = (COLLECTIONS, {"_id": name, "facets_job": {"$ne": run.job_id}})
    changed, seen = int(run.state.get("changed", 0)), int(run.state.get("seen", 0))
    with translate():
        run.progress(total=db[FACES].count_documents({"collection": name}), flush=True)
    while True:
        query: Document = {"collection": name}
        if run.cursor is not None:
            query["$or"] = [
                {"media_id": run.cursor[0], "_id": {"$gt": run.cursor[1]}},
                {"media_id": {"$gt": run.cursor[0]}},
            ]
        try:
            rows, count = run.transaction(functools.partial(_rewrite, db, query, declared))
        except Replaced:  # another worker is at a later declaration, or done with it
            return {"collection": name, "superseded": True}
        changed += count
        if not rows:
            break
        seen += len(rows)
        run.state.update(changed=changed, seen=seen)
        run.progress(done=seen, faces=changed, cursor=[rows[-1]["media_id"], rows[-1]["_id"]])
        time.sleep(PAUSE_S)
    with translate():
        db[COLLECTIONS].update_one(
            {"_id": name, "facets_job": run.job_id},
            {"$set": {"pending_fields": []}, "$unset": {"facets_job": ""}},
        )
    return {"collection": name, "faces_changed": changed}


def _rewrite(
    db: Db, query: Document, declared: Mapping[str, FieldType], session: Session
) -> tuple[list[Document], int]:
    """The next faces of the query, and how many of them have other facets now."""
    found = db[FACES].find(query, {"media_id": 1, "metadata": 1, "facets": 1}, session=session)
    rows = list(found.sort([("collection", 1), ("media_id", 1), ("_id", 1)]).limit(CHUNK))
    writes = [
        UpdateOne({"_id": row["_id"]}, {"$set": {"facets": facets}})
        for row in rows
        if (facets := documents.facets(row["metadata"], declared)) != row["facets"]
    ]
    if writes:
        db[FACES].bulk_write(writes, ordered=False, session=session)
    return rows, len(writes)


def assign(run: JobRun) -> dict[str, Any]:
    """Assigns the faces of a large request."""
    subjects = run.store.subjects
    return _chunks(run, subjects.assign_chunk, "faces_assigned")


def unassign(run: JobRun) -> dict[str, Any]:
    """Unassigns the faces of a large request."""
    subjects = run.store.subjects
    return _chunks(run, subjects.unassign_chunk, "faces_unassigned")


def _chunks(run: JobRun, call: Any, label: str) -> dict[str, Any]:
    ids, subject_id = run.params["face_ids"], run.params["subject_id"]
    start, changed = int(run.cursor or 0), int(run.state.get("changed", 0))
    if birth := run.params.get("birth"):
        person = {"_id": identity.subject_key(run.collection or "", subject_id)}
        run.other = (SUBJECTS, {**person, "birth": {"$ne": birth}})
    run.progress(done=start, total=len(ids), flush=True)
    while start < len(ids):
        changed += call(run.collection or "", subject_id, ids[start : start + CHUNK], run.guard)
        start += CHUNK
        run.state["changed"] = changed
        run.progress(done=min(start, len(ids)), faces=changed, cursor=start)
        time.sleep(PAUSE_S)
    return {"subject_id": subject_id, label: changed}


def _empty(run: JobRun, where: str, query: Document, counts: dict[str, int], label: str) -> int:
    """How many documents of a query were removed, bulk by bulk."""
    removed, place = 0, run.store.db[where]

    def some(session: Session) -> int:
        rows = place.find(query, {"_id": 1}, session=session).limit(CHUNK)
        writes = [DeleteOne({"_id": row["_id"]}) for row in rows]
        if writes:
            place.bulk_write(writes, ordered=False, session=session)
        return len(writes)

    while count := run.transaction(some):
        removed += count
        if label:
            run.state.update({**counts, label: counts[label] + removed})
        done = run.state.get("faces", 0)
        run.progress(done=done, faces=done)
        time.sleep(PAUSE_S)
    return removed


def _wait_for_writers(run: JobRun) -> None:
    """Returns when no transaction from before the job's first start can still be committed."""
    began = run.started_at
    while (left := IN_FLIGHT_S - (run.store.now() - began).total_seconds()) > 0:
        run.progress()
        time.sleep(min(0.25, left))
