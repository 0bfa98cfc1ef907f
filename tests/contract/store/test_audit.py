"""What an audit deletes: with its crop, and nothing that waits for its erasure."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from faces import tombstones
from faces.audit import Audit, Finding
from faces.database import CROPS, FACES, MEDIA, Db
from faces.job_handlers import HANDLERS
from faces.job_run import run_next
from faces.leases import Holder
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from tests.contract.store.conftest import Searching
from tests.faces_made import row_of_faces


@pytest.fixture
def face_id(store: Store) -> str:
    ref = MediaRef("default", "ann", "api", "ann")
    made = store.put_item(ref, MediaInfo(), row_of_faces(7), content="ann", crops={0: b"jpeg"})
    return made.faces[0].face_id


def audit(store: Store) -> dict[str, Finding]:
    active = store.active_model()
    assert active is not None
    return Audit(store.db, active, collection=None, fix=True).run(lambda done: None)


def test_a_face_that_waits_for_its_erasure_is_left_alone(
    store: Store, db: Db, face_id: str
) -> None:
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [face_id])
    store.subjects.erase("default", "ann")
    assert {name: found.count for name, found in audit(store).items() if found.count} == {}
    assert db[FACES].count_documents({}) == db[CROPS].count_documents({}) == 1


@pytest.mark.parametrize("why", ["orphan", "face", "item"])
def test_the_crop_of_a_face_goes_with_it(why: str, store: Store, db: Db, face_id: str) -> None:
    now = dt.datetime.now(dt.UTC)
    face = db[FACES].find_one({"_id": face_id})
    assert face is not None
    assert db[CROPS].count_documents({}) == 1
    if why == "orphan":
        db[MEDIA].delete_many({})
    elif why == "face":
        tombstones.write(db, [tombstones.of_face(face, now)])
    else:
        tombstones.write(db, [tombstones.of_item("default", "ann", now)])
    found = audit(store)["orphan_faces" if why == "orphan" else "tombstone_violations"]
    assert (found.count, found.fixed) == (1, 1)
    assert db[FACES].count_documents({}) == db[CROPS].count_documents({}) == 0


def put(store: Store, *seeds: int) -> list[str]:
    ref = MediaRef("default", "ann", "api", "ann")
    made = store.put_item(ref, MediaInfo(), row_of_faces(*seeds), content="ann", crops={0: b"jpeg"})
    return [face.face_id for face in made.faces]


def delete(store: Store, *, tombstone: bool = True) -> None:
    store.delete_item("default", "ann", source="api", tombstone=tombstone)


def nothing(findings: dict[str, Finding]) -> bool:
    return not any(found.count for found in findings.values())


def test_a_face_that_is_deleted_during_an_audit_is_counted_off_once(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = put(store, 7, 8)
    stones = Audit._stones

    def meanwhile(*args: Any) -> Any:
        if db[FACES].count_documents({}) == 2:
            store.delete_face(first)
        return stones(*args)

    monkeypatch.setattr(Audit, "_stones", meanwhile)
    assert nothing(audit(store))
    assert [face["_id"] for face in db[FACES].find({})] == [second]
    assert [item["face_count"] for item in db[MEDIA].find({})] == [1]


def test_an_item_that_is_put_again_during_an_audit_keeps_its_faces(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = put(store, 7)
    judge, stones = Audit._faces, Audit._stones

    def deleted(*args: Any) -> None:
        delete(store)  # the page was read
        judge(*args)

    def again(*args: Any) -> Any:
        if not db[FACES].count_documents({}):
            assert put(store, 7) == before, "the same picture has the same face"
        return stones(*args)

    monkeypatch.setattr(Audit, "_faces", deleted)
    monkeypatch.setattr(Audit, "_stones", again)
    assert nothing(audit(store))
    assert [face["_id"] for face in db[FACES].find({})] == before
    assert db[CROPS].count_documents({}) == 1


def test_an_item_whose_tombstone_is_lifted_during_an_audit_stays(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 7)
    tombstones.write(db, [tombstones.of_item("default", "ann", dt.datetime.now(dt.UTC))])
    bury = Audit._bury

    def lifted(*args: Any) -> int:
        delete(store)
        put(store, 7)
        return bury(*args)

    monkeypatch.setattr(Audit, "_bury", lifted)
    audit(store)
    assert store.item("default", "ann").face_count == 1
    assert db[FACES].count_documents({}) == db[CROPS].count_documents({}) == 1


def test_an_item_that_is_written_between_two_looks_is_no_contradiction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 7)
    counts = Audit._face_counts

    def meanwhile(*args: Any) -> Any:
        if store.item("default", "ann").face_count == 1:
            delete(store, tombstone=False)
            put(store, 7, 8)
        return counts(*args)

    monkeypatch.setattr(Audit, "_face_counts", meanwhile)
    assert nothing(audit(store))


def test_a_subject_that_is_made_anew_at_this_moment_keeps_the_face_that_it_is_given(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = put(store, 7, 8)
    db[FACES].update_one({"_id": first}, {"$set": {"subject_id": "ann"}})  # by hand
    mend, met = Audit._mend, []

    def meanwhile(self: Audit, *args: Any) -> None:
        if not met:
            met.append(True)
            store.subjects.create("default", "ann")
            store.subjects.assign("default", "ann", [first])
        mend(self, *args)

    monkeypatch.setattr(Audit, "_mend", meanwhile)
    assert nothing(audit(store))
    assert store.face(first).subject_id == "ann"
    db["likeness_subjects"].delete_many({})
    assert audit(store)["dangling_subjects"].fixed == 1
    assert store.face(first).subject_id is None
    store.subjects.create("default", "ann")


def test_the_vectors_of_a_newer_release_are_left_alone(store: Store, db: Db) -> None:
    put(store, 7)
    newer = {"embeddings.facenet2048": b"\0" * 8, "builds.facenet2048": "b9"}
    db[FACES].update_many({}, {"$set": newer})
    assert nothing(audit(store))
    assert db[FACES].count_documents({"builds.facenet2048": "b9"}) == 1


def test_a_crop_without_its_face_goes_with_an_erasure_and_does_not_keep_it_from_ending(
    searching: Searching, db: Db
) -> None:
    store = searching.store
    first, second = put(store, 7, 8)
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [first, second])
    job_id = store.subjects.erase("default", "ann")
    db[FACES].delete_one({"_id": first})  # by hand: an audit of before left such crops
    while run_next(store, HANDLERS, holder=Holder.this_process("worker")):
        pass
    assert store.jobs.get(job_id).state == "succeeded"
    assert db[CROPS].count_documents({}) == 0
