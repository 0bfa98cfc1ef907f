"""A job that is run again after its last write, or late, leaves alone what has its name by then."""

from __future__ import annotations

import threading
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


@pytest.fixture(autouse=True)
def _no_writer_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faces.sweeps.IN_FLIGHT_S", 0.0)


def put(store: Store, collection: str, media_id: str = "a", *, desk: str = "news") -> list[str]:
    ref = MediaRef(collection, media_id, "api", media_id)
    info = MediaInfo(metadata={"desk": desk, "page": 3})
    made = store.put_item(ref, info, row_of_faces(7, 8), content=media_id)
    return [face.face_id for face in made.faces]


def claimed(store: Store, kind: str) -> JobRun:
    document = store.jobs.claim([kind], HERE)
    assert document is not None
    return JobRun(store, document, threading.Event())


def cut_at_the_end(store: Store, kind: str) -> str:
    """All that the job writes is written, and the database was away when its end was to be said."""
    run = claimed(store, kind)
    HANDLERS[kind](run)
    store.jobs.put_back(run.job_id, run.epoch, wait_s=0, error="away")
    return run.job_id


def work(store: Store) -> None:
    while run_next(store, HANDLERS, holder=HERE):
        pass


def test_a_collection_that_is_there_again_is_not_emptied(store: Store, db: Db) -> None:
    store.create_collection("press")
    put(store, "press")
    store.delete_collection("press")
    job_id = cut_at_the_end(store, "delete_collection")
    store.create_collection("press")
    put(store, "press")
    work(store)
    job = store.jobs.get(job_id)
    assert job.state == "succeeded"
    assert store.item("press", "a").face_count == 2
    assert db[FACES].count_documents({}) == 2


@pytest.mark.parametrize("kind", ["erase", "delete_subject"])
def test_a_person_of_the_same_id_keeps_their_faces(
    kind: str, searching: Searching, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = searching.store
    first, second = put(store, "default")
    end_ann(store, kind, first, monkeypatch)
    job_id = cut_at_the_end(store, kind)
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [second])
    work(store)
    job = store.jobs.get(job_id)
    assert job.state == "succeeded"
    if kind == "erase":
        assert (job.result or {})["faces_deleted"] == (job.result or {})["tombstones"] == 1
    assert [face.face_id for face in store.faces("default", subject_id="ann").items] == [second]
    assert db[SUBJECTS].count_documents({}) == 1
    assert db[TOMBSTONES].count_documents({"_id": f"person/{second}"}) == 0


def test_an_erasure_that_waited_until_its_collection_was_made_anew_spares_who_is_there(
    searching: Searching, db: Db
) -> None:
    store = searching.store
    store.create_collection("press")
    store.subjects.create("press", "ann")
    store.subjects.assign("press", "ann", put(store, "press")[:1])
    erasure = store.subjects.erase("press", "ann")
    store.delete_collection("press")
    HANDLERS["delete_collection"](claimed(store, "delete_collection"))
    store.create_collection("press")
    store.subjects.create("press", "ann")
    theirs = put(store, "press", "b")
    store.subjects.assign("press", "ann", theirs)
    work(store)
    assert store.jobs.get(erasure).state == "succeeded"
    found = store.faces("press", subject_id="ann").items
    assert sorted(face.face_id for face in found) == sorted(theirs)
    assert db[SUBJECTS].count_documents({}) == 1


@pytest.mark.parametrize("kind", ["assign", "unassign"])
def test_a_long_assignment_is_none_of_a_later_persons(
    kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = put(store, "default")
    store.subjects.create("default", "ann")
    monkeypatch.setattr("faces.store_links.BULK", 1)  # two are many
    job_id = getattr(store.subjects, kind)("default", "ann", ids)
    monkeypatch.undo()
    store.subjects.delete("default", "ann")
    store.subjects.create("default", "ann", "another")
    theirs = ids if kind == "unassign" else []
    if theirs:
        store.subjects.assign("default", "ann", theirs)
    work(store)
    assert store.jobs.get(job_id).state == "failed"
    found = store.faces("default", subject_id="ann").items
    assert sorted(face.face_id for face in found) == sorted(theirs)


class Overtaken(JobRun):
    """One that another worker overtakes after its first page."""

    def progress(self, **given: Any) -> None:
        super().progress(**given)
        if given.get("cursor") is not None and not self.state.get("overtaken"):
            self.state["overtaken"] = True
            self.store.redeclare("default", {"page": "number"})
            work(self.store)


def test_a_declaration_that_another_overtakes_writes_none_of_its_facets(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faces.sweeps.CHUNK", 1)
    put(store, "default")
    store.redeclare("default", {"desk": "string"})
    document = store.jobs.claim(["redeclare"], HERE)
    assert document is not None
    result = HANDLERS["redeclare"](Overtaken(store, document, threading.Event()))
    assert result == {"collection": "default", "superseded": True}
    assert [row["facets"] for row in db[FACES].find({})] == [["page=3"]] * 2


def test_a_job_that_was_given_up_writes_nothing_more(store: Store, db: Db) -> None:
    ids = put(store, "default")
    store.subjects.create("default", "ann")
    store.jobs.enqueue("assign", "default", {"subject_id": "ann", "face_ids": ids})
    run = claimed(store, "assign")
    db[JOBS].update_one({"_id": run.job_id}, {"$set": {"attempts": 5, "expires_ms": 0}})
    assert store.jobs.claim(["assign"], HERE) is None
    assert store.jobs.get(run.job_id).state == "failed"
    with pytest.raises(LeaseLost):
        run.transaction(lambda session: None)
