"""Subjects: exact assignment, lists, and erasure with proof that resumes after any cut."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from faces import tombstones
from faces.database import CROPS, FACES, JOBS, SUBJECTS, TOMBSTONES, Db
from faces.erase import erase
from faces.errors import Conflict, InvalidRequest, LeaseLost, NotFound
from faces.job_handlers import HANDLERS
from faces.job_run import JobRun, run_next
from faces.leases import Holder
from faces.records import Job
from faces.restore import apply
from faces.search import SearchRequest
from faces.store import Store
from faces.store_removal import RemovalStore
from faces.types import MediaInfo, MediaRef
from tests.contract.store.conftest import Searching
from tests.faces_made import analysis, face, row_of_faces, vector
from tests.private import MARK

HERE = Holder.this_process("worker")


def put(store: Store, name: str, *seeds: int, **info: object) -> list[str]:
    ref = MediaRef("default", name, "api", name)
    made = store.put_item(
        ref, MediaInfo(**info), row_of_faces(*seeds), content=name, crops={0: b"jpeg"}
    )
    return [found.face_id for found in made.faces]


def work(store: Store, job_id: str) -> Job:
    """The job after the worker has run what there is."""
    while run_next(store, HANDLERS, holder=HERE):
        pass
    return store.jobs.get(job_id)


class TestSubjects:
    def test_are_listed_by_name_and_found_by_its_beginning_in_any_case(self, store: Store) -> None:
        names = {"z": "Zoé", "a2": f"anna C {MARK}", "x": None, "s": "ßtein"}
        names["a1"] = f"Anna  Bell {MARK}"
        for subject, name in names.items():
            store.subjects.create("default", subject, name)
        listed = store.subjects.list("default").items
        assert [s.subject_id for s in listed] == ["x", "a1", "a2", "s", "z"]
        assert [s.subject_id for s in store.subjects.list("default", q="ANNA b").items] == ["a1"]
        assert [s.subject_id for s in store.subjects.list("default", q="SST").items] == ["s"]
        assert store.subjects.list("default", q="anna$").items == ()

    def test_pages_neither_skip_nor_repeat_while_others_come_and_go(self, store: Store) -> None:
        for number in range(20):
            store.subjects.create("default", f"s{number:02}", "Same Name")
        seen: list[str] = []
        cursor = None
        while True:
            page = store.subjects.list("default", limit=3, cursor=cursor)
            seen += [subject.subject_id for subject in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
            store.subjects.delete("default", seen[-1])
            store.subjects.create("default", f"{seen[-1]}-", "Another")
        assert [s for s in seen if "-" not in s] == [f"s{number:02}" for number in range(20)]

    def test_two_of_one_id_and_unknown_ones(self, store: Store) -> None:
        store.subjects.create("default", "ann")
        with pytest.raises(Conflict):
            store.subjects.create("default", "ann")
        for call in (store.subjects.get, store.subjects.delete, store.subjects.erase):
            with pytest.raises(NotFound):
                call("default", "nobody")

    def test_name_and_metadata_change_apart(self, store: Store) -> None:
        store.subjects.create("default", "ann", f"Ann {MARK}", {"team": "a"})
        store.subjects.update("default", "ann", name=f"Anne {MARK}")
        changed = store.subjects.update("default", "ann", metadata={"team": "b"})
        assert (changed.name, changed.metadata) == (f"Anne {MARK}", {"team": "b"})
        with pytest.raises(InvalidRequest):
            store.subjects.update("default", "ann", name=MARK * 150)

    def test_assigning_moves_a_face_and_unassigning_takes_only_its_own(self, store: Store) -> None:
        ids = put(store, "p", 1, 2, 3)
        for subject in ("ann", "bob"):
            store.subjects.create("default", subject)
        assert store.subjects.assign("default", "ann", ids) == 3
        assert store.subjects.assign("default", "bob", ids[:1]) == 1
        assert store.subjects.get("default", "ann").face_count == 2
        assert store.subjects.unassign("default", "ann", ids) == 2
        assert store.face(ids[0]).subject_id == "bob"

    def test_a_face_that_is_not_there_changes_nothing(self, store: Store) -> None:
        ids = put(store, "p", 1)
        store.subjects.create("default", "ann")
        with pytest.raises(NotFound):
            store.subjects.assign("default", "ann", [*ids, "no-such-face"])
        assert store.face(ids[0]).subject_id is None

    def test_many_at_once_are_a_job(self, store: Store, db: Db) -> None:
        ids = many_faces(store, db, 620)
        store.subjects.create("default", "ann")
        job_id = store.subjects.assign("default", "ann", ids)
        assert isinstance(job_id, str)
        assert work(store, job_id).result == {"subject_id": "ann", "faces_assigned": 620}
        assert store.subjects.get("default", "ann").face_count == 620
        gone = store.subjects.delete("default", "ann")
        assert isinstance(gone, str)
        with pytest.raises(NotFound):
            store.subjects.get("default", "ann")
        assert {f.subject_id for f in store.faces("default", limit=1000).items} == {None}
        assert work(store, gone).result == {"subject_id": "ann", "faces_unassigned": 620}
        assert db[FACES].count_documents({"subject_id": "ann"}) == 0

    def test_pictures_of_a_person_newest_first(self, store: Store) -> None:
        import datetime as dt

        store.subjects.create("default", "ann")
        for number in (3, 1, 2, 5, 4):
            taken = dt.datetime(2020, 1, number, tzinfo=dt.UTC)
            store.subjects.assign("default", "ann", put(store, f"p{number}", 1, 2, taken_at=taken))
        seen, cursor = [], None
        while True:
            page = store.subjects.media("default", "ann", limit=2, cursor=cursor)
            seen += [item.media_id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == ["p5", "p4", "p3", "p2", "p1"]

    def test_a_deletion_and_assignments_at_once_leave_no_dangling_subject(
        self, store: Store, db: Db
    ) -> None:
        ids = put(store, "p", *range(9))
        store.subjects.create("default", "ann")

        def assign(face_id: str) -> None:
            try:
                store.subjects.assign("default", "ann", [face_id])
            except (NotFound, Conflict):
                return

        threads = [threading.Thread(target=assign, args=(face_id,)) for face_id in ids]
        for thread in threads[:5]:
            thread.start()
        store.subjects.delete("default", "ann")
        for thread in threads[5:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert db[FACES].count_documents({"subject_id": "ann"}) == 0


def many_faces(store: Store, db: Db, count: int) -> list[str]:
    """So many faces, copied in the database from one that was indexed."""
    put(store, "p", 1)
    first = db[FACES].find_one({})
    assert first is not None
    copies = [
        {**first, "_id": f"copy-{number:05}", "media_id": f"m{number // 40}"}
        for number in range(count - 1)
    ]
    db[FACES].insert_many(copies)
    return [first["_id"], *(copy["_id"] for copy in copies)]


class TestErasing:
    def ann(self, searching: Searching) -> list[str]:
        store = searching.store
        ids = [face_id for n in range(5) for face_id in put(store, f"p{n}", 7, 100 + n)[:1]]
        store.subjects.create("default", "ann", "Ann")
        store.subjects.assign("default", "ann", ids)
        return ids

    def test_removes_every_face_and_proves_it(
        self, searching: Searching, db: Db, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ids = self.ann(searching)
        store = searching.store
        job_id = store.subjects.erase("default", "ann")
        assert store.subjects.erase("default", "ann") == job_id
        job = work(store, job_id)
        assert job.state == "succeeded"
        assert job.result is not None
        assert job.result["state"] == "verified"
        assert (job.result["faces_deleted"], job.result["tombstones"]) == (5, 5)
        assert job.result["verified_at"]
        assert job.result["indexes"]["faces_facenet128_v1"]["canary_found_after_s"] >= 0
        assert db[FACES].count_documents({"_id": {"$in": ids}}) == 0
        assert db[FACES].count_documents({}) == 5
        assert db[CROPS].count_documents({"_id": {"$in": ids}}) == 0
        assert db[SUBJECTS].count_documents({}) == 0
        for stone in db[TOMBSTONES].find():
            assert set(stone) == {
                "_id",
                "kind",
                "collection",
                "media_id",
                "box",
                "created_at",
                "receipt_id",
            }
            assert all(0 <= side <= 1 for side in stone["box"])
        found = searching.finder.vectors(SearchRequest(min_similarity=0.5), [vector(7)])
        assert found.faces == ((),)
        log = capsys.readouterr().out
        assert log.count("erased") == 1
        assert job.result["receipt_id"] in log
        assert "Ann" not in log

    def test_an_index_that_is_not_there_yet_delays_the_proof_or_is_named(
        self, searching: Searching, db: Db
    ) -> None:
        self.ann(searching)
        store = searching.store
        upcoming = {"model": "sface", "build": "", "index": "absent", "quantization": "none"}
        models = db["likeness_models"]
        models.update_one({}, {"$set": {"next": upcoming}})
        models.update_one({}, {"$set": {"index": "faces_absent_v1"}})
        job_id = store.subjects.erase("default", "ann")
        job = work(store, job_id)
        assert job.state == "queued", "it goes on when the index is there"
        assert job.last_error is not None
        assert "faces_absent_v1 does not exist" in job.last_error
        models.update_one({}, {"$set": {"index": "faces_facenet128_v1"}})
        db[JOBS].update_one({"_id": job_id}, {"$set": {"expires_ms": 0}})
        result = work(store, job_id).result
        assert result is not None
        assert result["faces_deleted"] == 5
        assert result["indexes"]["absent"] == {"state": "not queryable yet"}

    def test_an_erased_face_never_comes_back_by_anyone(self, searching: Searching) -> None:
        self.ann(searching)
        store = searching.store
        work(store, store.subjects.erase("default", "ann"))
        store.delete_item("default", "p1", source="api", tombstone=True)
        ref = MediaRef("default", "p1", "api", "p1")
        moved = analysis(face(4, seed=7), face(300, seed=8))
        again = store.put_item(ref, MediaInfo(), moved, content="new")
        assert [entry.reason for entry in again.unindexed] == ["erased"]
        assert len(again.faces) == 1

    @pytest.mark.parametrize("first", ["deleted", "replaced"])
    def test_an_erasure_that_has_not_begun_cannot_be_slipped_past(
        self, searching: Searching, first: str
    ) -> None:
        self.ann(searching)
        store = searching.store
        job_id = store.subjects.erase("default", "ann")
        ref = MediaRef("default", "p1", "api", "p1")
        if first == "deleted":
            store.delete_item("default", "p1", source="api", tombstone=True)
        else:
            store.put_item(ref, MediaInfo(), analysis(face(300, seed=8)), content="other")
        again = store.put_item(ref, MediaInfo(), analysis(face(4, seed=7)), content="new")
        assert ([entry.reason for entry in again.unindexed], again.faces) == (["erased"], ())
        job = work(store, job_id)
        assert job.result is not None
        assert (job.result["faces_deleted"], job.done, job.total) == (5, 5, 5)

    def test_a_put_does_not_show_who_is_being_erased(self, searching: Searching) -> None:
        self.ann(searching)
        store = searching.store
        item = store.item("default", "p1")
        assert store.shown("default", item.faces) == item.faces
        store.subjects.erase("default", "ann")
        assert all(face.subject_id != "ann" for face in store.shown("default", item.faces))
        assert len(store.shown("default", item.faces)) == len(item.faces) - 1

    def test_the_item_lists_what_was_erased(self, searching: Searching) -> None:
        self.ann(searching)
        work(searching.store, searching.store.subjects.erase("default", "ann"))
        item = searching.store.item("default", "p1")
        assert [entry.reason for entry in item.unindexed] == ["erased"]
        assert (item.face_count, len(item.faces)) == (1, 1)

    @pytest.mark.parametrize("calls", [1, 2, 4])
    def test_cut_after_any_item_it_resumes_with_one_exact_receipt(
        self, searching: Searching, monkeypatch: pytest.MonkeyPatch, calls: int
    ) -> None:
        self.ann(searching)
        store = searching.store
        job_id = store.subjects.erase("default", "ann")
        real, left = RemovalStore.remove_faces, [calls]

        def cut(self: RemovalStore, *args: object, **more: object) -> int:
            if not left[0]:
                raise KeyboardInterrupt  # as abrupt as a kill for what is stored
            left[0] -= 1
            return real(self, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(RemovalStore, "remove_faces", cut)
        with pytest.raises(KeyboardInterrupt):
            run_next(store, HANDLERS, holder=Holder(HERE.host, 2**22 - 1, 1))
        monkeypatch.undo()
        job = work(store, job_id)  # its holder is a process of this machine that is dead
        assert job.result is not None
        assert (job.state, job.result["faces_deleted"], job.attempts) == ("succeeded", 5, 2)

    def test_a_holder_that_lost_the_job_stops(self, searching: Searching) -> None:
        self.ann(searching)
        store = searching.store
        store.subjects.erase("default", "ann")
        claimed = store.jobs.claim(["erase"], Holder(HERE.host, 2**22 - 1, 1))
        assert claimed is not None
        assert store.jobs.claim(["erase"], HERE) is not None
        with pytest.raises(LeaseLost):
            erase(JobRun(store, claimed, threading.Event()))

    def test_a_restored_backup_brings_nobody_back(self, searching: Searching, db: Db) -> None:
        self.ann(searching)
        store = searching.store
        put(store, "deleted", 50)
        backup = {name: list(db[name].find()) for name in ("likeness_faces", "likeness_media")}
        work(store, store.subjects.erase("default", "ann"))
        store.delete_item("default", "deleted", source="api", tombstone=True)
        lines = [json.dumps(stone) for stone in tombstones.export(db)]
        for name, rows in backup.items():
            db[name].delete_many({})
            db[name].insert_many(rows)
        db[TOMBSTONES].delete_many({})
        stones = [tombstones.parse(json.loads(line), n) for n, line in enumerate(lines)]
        done = apply(db, stones)
        assert (done.tombstones, done.items_deleted, done.faces_deleted) == (6, 1, 5)
        assert db[FACES].count_documents({}) == 5
        assert [stone["_id"] for stone in tombstones.export(db)] == [s["_id"] for s in stones]
        assert apply(db, stones).faces_deleted == 0

    def test_an_assignment_cannot_take_a_face_out_of_an_erasure(
        self, searching: Searching, db: Db
    ) -> None:
        ids = self.ann(searching)
        store = searching.store
        store.subjects.create("default", "bob")
        store.subjects.erase("default", "ann")
        with pytest.raises(NotFound):
            store.subjects.assign("default", "bob", ids)
        with pytest.raises(NotFound):
            store.subjects.assign_chunk("default", "bob", ids)
        with pytest.raises((NotFound, Conflict)):
            store.subjects.unassign("default", "ann", ids)
        assert db[FACES].count_documents({"subject_id": "ann"}) == 5

    def test_deleting_one_that_is_erased_is_a_conflict(self, searching: Searching) -> None:
        self.ann(searching)
        store = searching.store
        store.subjects.erase("default", "ann")
        with pytest.raises(Conflict):
            store.subjects.delete("default", "ann")
        with pytest.raises(Conflict):
            store.jobs.cancel(str(store.subjects.erase("default", "ann")))

    def test_a_failed_erasure_is_taken_up_again_with_its_receipt(
        self, searching: Searching, db: Db
    ) -> None:
        self.ann(searching)
        store = searching.store
        first = store.subjects.erase("default", "ann")
        db[JOBS].update_one({"_id": first}, {"$set": {"state": "failed"}})
        second = store.subjects.erase("default", "ann")
        assert second != first
        old, new = store.jobs.get(first), work(store, second)
        assert new.result is not None
        assert new.result["receipt_id"] == old.params["receipt_id"]


@pytest.mark.parametrize(
    "change",
    [
        lambda stone: stone.pop("kind"),
        lambda stone: stone.update(box=[0, 0, 1]),
        lambda stone: stone.update(box=None),
        lambda stone: stone.update(kind="other"),
        lambda stone: stone.update(extra=1),
        lambda stone: stone.update(created_at="yesterday"),
        lambda stone: stone.update(media_id={"$gt": ""}),
    ],
)
def test_a_line_that_is_no_tombstone_is_named(
    change: Callable[[dict[str, object]], object],
) -> None:
    from faces.errors import ConfigError

    stone: dict[str, object] = {
        "_id": "person/x",
        "kind": "person",
        "collection": "default",
        "media_id": "m",
        "box": [0.1, 0.1, 0.2, 0.2],
        "created_at": "2024-01-01T00:00:00+00:00",
        "receipt_id": None,
    }
    tombstones.parse(dict(stone), 1)
    change(stone)
    with pytest.raises(ConfigError, match="Line 7"):
        tombstones.parse(stone, 7)
