"""Collections and lists: names, fields, hiding at once, and pages that hold still."""

from __future__ import annotations

import datetime as dt
import threading

import pytest

from faces import sweeps
from faces.database import (
    COLLECTIONS,
    CROPS,
    FACES,
    JOBS,
    MEDIA,
    OWN_COLLECTIONS,
    SUBJECTS,
    TOMBSTONES,
    Db,
)
from faces.errors import Conflict, InvalidRequest, MalformedRequest, NotFound
from faces.job_handlers import HANDLERS
from faces.job_run import run_next
from faces.leases import Holder
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from tests.faces_made import row_of_faces

HERE = Holder.this_process("worker")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction of these tests is under way when the jobs begin."""
    monkeypatch.setattr(sweeps, "IN_FLIGHT_S", 0.2)


def put(store: Store, name: str, *seeds: int, collection: str = "default", **info: object) -> None:
    ref = MediaRef(collection, name, "api", name)
    store.put_item(ref, MediaInfo(**info), row_of_faces(*seeds), content=name, crops={0: b"j"})


def work(store: Store) -> None:
    while run_next(store, HANDLERS, holder=HERE):
        pass


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "x" * 256, "$x", "~canary"])
def test_names_that_cannot_be(store: Store, name: str) -> None:
    with pytest.raises(InvalidRequest):
        store.create_collection(name)


@pytest.mark.parametrize(
    "fields", [{"a.b": "string"}, {"a": "text"}, {"": "bool"}, {f"f{n}": "bool" for n in range(33)}]
)
def test_fields_that_cannot_be(store: Store, fields: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        store.create_collection("x", fields)  # type: ignore[arg-type]  # what a client may send


def test_creating_twice_is_a_conflict_and_ensuring_is_not(store: Store) -> None:
    store.create_collection("x", {"a": "string"})
    with pytest.raises(Conflict):
        store.create_collection("x")
    assert store.ensure_collection("x").metadata_fields == {"a": "string"}
    assert store.ensure_collection("new").metadata_fields == {}
    assert [info.name for info in store.collections().items] == ["default", "new", "x"]
    page = store.collections(limit=2)
    assert [i.name for i in store.collections(limit=2, cursor=page.next_cursor).items] == ["x"]


def test_counts(store: Store) -> None:
    put(store, "a", 1, 2)
    put(store, "b", 3)
    store.subjects.create("default", "ann")
    info = store.collection("default", counts=True)
    assert (info.media, info.faces, info.subjects, info.left_behind) == (2, 3, 1, 0)


def test_faces_that_a_switch_left_behind_stay_named(store: Store, db: Db) -> None:
    put(store, "a", 1, 2)
    store.create_collection("x")
    put(store, "b", 1, collection="x")
    db[FACES].update_one({"media_id": "a"}, {"$set": {"builds.sface": "b"}})
    db["likeness_models"].update_one({}, {"$set": {"model": "sface", "left_behind": 2}})
    assert store.collection("default", counts=True).left_behind == 1
    assert store.collection("x", counts=True).left_behind == 1


@pytest.mark.usefixtures("quick")
class TestDeleting:
    def test_hides_at_once_and_leaves_no_orphan(self, store: Store, db: Db) -> None:
        store.create_collection("x")
        put(store, "kept", 9)
        for number in range(5):
            put(store, f"m{number}", 1, 2, collection="x")
        store.subjects.create("x", "ann")
        store.delete_item("x", "m0", source="api", tombstone=True)
        job_id = store.delete_collection("x")
        for call in (store.collection, store.items, store.faces, store.delete_collection):
            with pytest.raises(NotFound):
                call("x")
        with pytest.raises(NotFound):
            put(store, "late", 1, collection="x")
        with pytest.raises(Conflict):
            store.create_collection("x")
        assert "x" not in [info.name for info in store.collections().items]
        work(store)
        assert store.jobs.get(job_id).result == {
            "collection": "x",
            "faces": 8,
            "media": 5,
            "subjects": 1,
        }
        for name in set(OWN_COLLECTIONS) - {JOBS}:
            assert db[name].count_documents({"collection": "x"}) == 0
        assert db[FACES].count_documents({}) == 1
        store.create_collection("x")
        put(store, "m0", 1, collection="x")

    def test_writers_at_the_same_time_leave_nothing_behind(self, store: Store, db: Db) -> None:
        store.create_collection("x")
        stop = threading.Event()

        def write(number: int) -> None:
            count = 0
            while not stop.is_set():
                try:
                    put(store, f"{number}-{count}", 1, collection="x")
                except NotFound:
                    return
                count += 1

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        store.delete_collection("x")
        work(store)
        stop.set()
        for thread in threads:
            thread.join()
        for name in (FACES, MEDIA, CROPS, SUBJECTS, TOMBSTONES):
            assert db[name].count_documents({"collection": "x"}) == 0
        assert db[COLLECTIONS].find_one({"_id": "x"}) is None

    def test_a_picture_that_began_before_is_not_in_one_made_anew(
        self, store: Store, db: Db
    ) -> None:
        since = store.create_collection("press").created_at
        ref = MediaRef("press", "a", "api", "a")
        began = store.rev("press", "a")
        db[COLLECTIONS].delete_one({"_id": "press"})
        db[COLLECTIONS].insert_one(
            {"_id": "press", "rev": 1, "created_at": since + dt.timedelta(seconds=7)}
        )
        with pytest.raises(NotFound, match="deleted while this picture"):
            store.put_item(
                ref, MediaInfo(), row_of_faces(1), content="a", began_rev=began, since=since
            )
        since = store.collection("press").created_at
        store.put_item(ref, MediaInfo(), row_of_faces(1), content="a", since=since)

    def test_the_default_collection_stays(self, store: Store) -> None:
        with pytest.raises(Conflict):
            store.delete_collection("default")


@pytest.mark.usefixtures("quick")
class TestRedeclaring:
    def test_facets_follow_and_new_fields_wait_for_them(self, store: Store, db: Db) -> None:
        store.create_collection("x", {"album": "string"})
        for number in range(3):
            info = {"album": "a", "year": 2000 + number}
            put(store, f"m{number}", 1, collection="x", metadata=info)
        job_id = store.redeclare("x", {"album": "string", "year": "number"})
        info = store.collection("x")
        assert (info.facets_job, info.pending_fields) == (job_id, ("year",))
        put(store, "meanwhile", 1, collection="x", metadata={"year": 1999})
        work(store)
        assert store.jobs.get(job_id).result == {"collection": "x", "faces_changed": 3}
        after = store.collection("x")
        assert (after.facets_job, after.pending_fields) == (None, ())
        facets = sorted(tuple(face["facets"]) for face in db[FACES].find({"collection": "x"}))
        assert facets == [
            ("album=a", "year=2000"),
            ("album=a", "year=2001"),
            ("album=a", "year=2002"),
            ("year=1999",),
        ]

    def test_a_later_declaration_supersedes_an_earlier_one(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[str] = []
        monkeypatch.setattr(sweeps, "_wait_for_writers", lambda run: waited.append(run.job_id))
        store.create_collection("x")
        put(store, "m", 1, collection="x", metadata={"a": "1", "b": "2"})
        first = store.redeclare("x", {"a": "string"})
        second = store.redeclare("x", {"b": "string"})
        work(store)
        result = store.jobs.get(first).result
        assert result is not None
        assert result["superseded"]
        assert waited == [second]
        assert store.jobs.get(second).result == {"collection": "x", "faces_changed": 1}
        assert store.collection("x").metadata_fields == {"b": "string"}


class TestPages:
    def test_items_and_faces_neither_skip_nor_repeat_while_others_write(self, store: Store) -> None:
        for number in range(12):
            put(store, f"m{number:02}", 1, 2)
        items: list[str] = []
        faces: list[str] = []
        wanted = {face.face_id for face in store.faces("default", limit=1000).items}
        item_cursor = face_cursor = None
        for step in range(40):
            if step == 0 or item_cursor:
                page = store.items("default", limit=3, cursor=item_cursor)
                items += [item.media_id for item in page.items]
                item_cursor = page.next_cursor
            if step == 0 or face_cursor:
                found = store.faces("default", limit=5, cursor=face_cursor)
                faces += [face.face_id for face in found.items]
                face_cursor = found.next_cursor
            put(store, f"a{step:02}", 3)  # sorts before all
            put(store, f"z{step:02}", 3)  # sorts after all
            if not item_cursor and not face_cursor:
                break
        assert [name for name in items if name[0] == "m"] == [f"m{n:02}" for n in range(12)]
        assert len(items) == len(set(items))
        assert len(faces) == len(set(faces))
        assert wanted <= set(faces)

    def test_of_one_item_and_one_subject(self, store: Store) -> None:
        put(store, "a", 1, 2, 3)
        put(store, "b", 1)
        of_item = store.faces("default", media_id="a", limit=2)
        rest = store.faces("default", media_id="a", limit=2, cursor=of_item.next_cursor)
        assert len(of_item.items + rest.items) == 3
        store.subjects.create("default", "ann")
        ids = [face.face_id for face in of_item.items]
        store.subjects.assign("default", "ann", ids)
        listed = store.faces("default", subject_id="ann").items
        assert {face.face_id for face in listed} == set(ids)
        assert store.faces("default", subject_id="nobody").items == ()

    def test_a_cursor_of_another_list_is_malformed(self, store: Store) -> None:
        for number in range(3):
            put(store, f"m{number}", 1)
        cursor = store.items("default", limit=1).next_cursor
        with pytest.raises(MalformedRequest):
            store.faces("default", cursor=cursor)
        store.create_collection("x")
        with pytest.raises(MalformedRequest):
            store.items("x", cursor=cursor)


def test_a_picture_is_found_by_its_id_with_the_largest_faces_crop(store: Store) -> None:
    put(store, "a", 1)
    image = store.item("default", "a").image_id
    assert image is not None
    item, crop = store.picture("default", image)
    assert (item.media_id, crop) == ("a", b"j")
    store.create_collection("x")
    for collection, wanted in (("x", image), ("default", "no-such-picture")):
        with pytest.raises(NotFound):
            store.picture(collection, wanted)
    ref = MediaRef("default", "a", "api", "a")
    store.put_item(ref, MediaInfo(), row_of_faces(1), content="changed")
    assert store.picture("default", store.item("default", "a").image_id or "")[1] is None
