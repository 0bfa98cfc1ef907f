"""A worker that was paused until another one had ended its job changes nothing that came since."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from faces.database import FACES, JOBS, SUBJECTS, TOMBSTONES, Db
from faces.errors import LeaseLost
from faces.job_handlers import HANDLERS
from faces.job_run import JobRun, run_next
from faces.leases import Holder
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from tests.contract.store.conftest import Searching, end_ann
from tests.faces_made import row_of_faces

HERE = Holder.this_process("worker")
AWAY = Holder("elsewhere", 1, 1)


class Paused(JobRun):
    """One that is paused right after it said how far it is: it does not know yet."""

    def save(self) -> None:
        pass


def put(store: Store, collection: str) -> list[str]:
    ref = MediaRef(collection, "a", "api", "a")
    made = store.put_item(ref, MediaInfo(), row_of_faces(7, 8), content="a")
    return [face.face_id for face in made.faces]


def late(store: Store, db: Db, kind: str, then: Callable[[], Any]) -> None:
    """Run the one job by a holder that claims it, is paused, and wakes after `then`."""
    claimed = store.jobs.claim([kind], AWAY)
    assert claimed is not None
    db[JOBS].update_one({"_id": claimed["_id"]}, {"$set": {"expires_ms": 0}})
    while run_next(store, HANDLERS, holder=HERE):
        pass
    assert store.jobs.get(claimed["_id"]).state == "succeeded"
    then()
    run = Paused(store, claimed, threading.Event())
    with pytest.raises(LeaseLost):
        HANDLERS[kind](run)


def test_a_collection_that_is_there_again_keeps_what_it_holds(store: Store, db: Db) -> None:
    store.create_collection("press")
    put(store, "press")
    store.delete_collection("press")

    def again() -> None:
        store.create_collection("press")
        put(store, "press")

    late(store, db, "delete_collection", again)
    assert store.item("press", "a").face_count == 2
    assert db[FACES].count_documents({}) == 2


@pytest.mark.parametrize("kind", ["erase", "delete_subject"])
def test_a_person_of_the_same_id_keeps_their_faces(
    kind: str, searching: Searching, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = searching.store
    first, second = put(store, "default")
    end_ann(store, kind, first, monkeypatch)

    def again() -> None:
        store.subjects.create("default", "ann")
        store.subjects.assign("default", "ann", [second])

    late(store, db, kind, again)
    assert [face.face_id for face in store.faces("default", subject_id="ann").items] == [second]
    assert db[SUBJECTS].count_documents({}) == 1
    assert db[TOMBSTONES].count_documents({"_id": f"person/{second}"}) == 0


def test_faces_that_were_given_or_taken_since_stay_so(store: Store, db: Db) -> None:
    ids = put(store, "default")
    store.subjects.create("default", "ann")
    params = {"subject_id": "ann", "face_ids": ids}
    store.jobs.enqueue("assign", "default", params)
    late(store, db, "assign", lambda: store.subjects.unassign("default", "ann", ids))
    assert db[FACES].count_documents({"subject_id": "ann"}) == 0
    store.jobs.enqueue("unassign", "default", params)
    late(store, db, "unassign", lambda: store.subjects.assign("default", "ann", ids))
    assert db[FACES].count_documents({"subject_id": "ann"}) == 2
