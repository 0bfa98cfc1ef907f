"""What was asked of a job is not lost: a cancellation at a bad moment, a deletion that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pymongo.collection import Collection

from faces.database import COLLECTIONS, FACES, JOBS, SUBJECTS, Db
from faces.errors import Conflict, NotFound
from faces.job_handlers import HANDLERS
from faces.job_run import run_next
from faces.leases import Holder
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from tests.faces_made import row_of_faces

HERE = Holder.this_process("worker")


def test_a_job_that_is_put_back_at_this_moment_is_cancelled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = store.jobs.enqueue("assign", "default", {"subject_id": "ann", "face_ids": ["x"]})
    claimed = store.jobs.claim(["assign"], HERE)
    assert claimed is not None
    real, seen = Collection.update_one, []

    def then(self: Collection[Any], *args: Any, **options: Any) -> Any:
        done = real(self, *args, **options)
        if not seen:
            seen.append(True)
            store.jobs.put_back(job_id, claimed["epoch"], wait_s=0, error=None)
        return done

    monkeypatch.setattr(Collection, "update_one", then)
    store.jobs.cancel(job_id)
    assert store.jobs.get(job_id).cancelling
    assert run_next(store, HANDLERS, holder=HERE)
    assert store.jobs.get(job_id).state == "cancelled"


def test_a_job_that_can_begin_is_found_behind_many_that_wait(store: Store, db: Db) -> None:
    store.jobs.enqueue("sync", "default", {})
    one = db[JOBS].find_one({})
    assert one is not None
    later = one["created_at"].timestamp() * 1000 + 3_600_000
    db[JOBS].insert_many(
        [{**one, "_id": f"{one['_id']}-{n:03}", "expires_ms": int(later)} for n in range(250)]
    )
    db[JOBS].delete_one({"_id": one["_id"]})
    audit = store.jobs.enqueue("audit", "default", {})
    claimed = store.jobs.claim(["sync", "audit"], HERE)
    assert claimed is not None
    assert claimed["_id"] == audit
    assert not store.jobs.claimable(["sync", "audit"])


def collection(store: Store) -> object:
    return store.delete_collection("press")


def subject(store: Store) -> object:
    return store.subjects.delete("press", "ann")


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("delete", "where"), [(collection, COLLECTIONS), (subject, SUBJECTS)])
def test_a_deletion_whose_job_failed_or_was_lost_can_be_asked_for_again(
    delete: Callable[[Store], object],
    where: str,
    lost: bool,
    store: Store,
    db: Db,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("faces.sweeps.IN_FLIGHT_S", 0.0)
    monkeypatch.setattr("faces.store_subjects.BULK", 1)  # two are many
    store.create_collection("press")
    ref = MediaRef("press", "a", "api", "a")
    made = store.put_item(ref, MediaInfo(), row_of_faces(7, 8), content="a")
    store.subjects.create("press", "ann")
    store.subjects.assign("press", "ann", [face.face_id for face in made.faces])
    first = delete(store)
    with pytest.raises((Conflict, NotFound)):
        delete(store)
    if lost:
        db[JOBS].delete_many({})
    else:
        db[JOBS].update_many({}, {"$set": {"state": "failed"}})
    again = delete(store)
    assert again != first
    while run_next(store, HANDLERS, holder=HERE):
        pass
    assert store.jobs.get(str(again)).state == "succeeded"
    assert db[where].find_one({"_id": {"$in": ["press", "press/ann"]}}) is None
    assert db[FACES].count_documents({"subject_id": "ann"}) == 0
