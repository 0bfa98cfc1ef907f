"""Items: what indexing a picture, indexing it again and deleting it leave in the database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from collections import Counter
from typing import Any

import pytest

from faces.database import CROPS, FACES, LEASES, MEDIA, Db
from faces.errors import Busy, Conflict, InvalidRequest, LeaseLost, NotFound, Tombstoned
from faces.leases import Holder, Lease
from faces.records import PutResult
from faces.store import Store
from faces.types import Analysis, MediaInfo, MediaRef
from tests.faces_made import analysis, face, row_of_faces

API = MediaRef("default", "a/b.jpg", "api", "a/b.jpg")
FOLDER = MediaRef("default", "a/b.jpg", "folder-1", "a/b.jpg")


def put(
    store: Store, made: Analysis, content: str = "s1", ref: MediaRef = API, **more: Any
) -> PutResult:
    info = more.pop("info", MediaInfo())
    return store.put_item(ref, info, made, content=content, **more)


def ids(result: PutResult) -> list[str]:
    return [found.face_id for found in result.faces]


def test_a_new_picture_is_created_with_its_faces_largest_first(store: Store) -> None:
    result = put(store, analysis(face(0, side=50), face(200, side=90)))
    assert (result.created, result.unchanged) == (True, False)
    assert [found.box.width for found in result.faces] == [90, 50]
    assert store.item("default", "a/b.jpg").faces == result.faces
    assert result.faces[0].models == ("facenet128",)


def test_the_same_bytes_again_write_nothing(store: Store, db: Db) -> None:
    first = put(store, row_of_faces(1, 2))
    before = list(db[FACES].find()) + list(db[MEDIA].find())
    again = put(store, row_of_faces(1, 2))
    assert (again.created, again.unchanged, ids(again)) == (False, True, ids(first))
    assert list(db[FACES].find()) + list(db[MEDIA].find()) == before


def test_a_replaced_picture_keeps_ids_and_subjects_of_overlapping_faces(store: Store) -> None:
    first = put(store, analysis(face(0, seed=1), face(300, seed=2)))
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [first.faces[0].face_id])
    moved = analysis(face(8, seed=1), face(600, seed=3))
    second = put(store, moved, "s2")
    kept = next(f for f in second.faces if f.face_id == first.faces[0].face_id)
    assert kept.subject_id == "ann"
    assert kept.box.x == 8
    assert first.faces[1].face_id not in ids(second)
    assert not second.created


def test_a_picture_that_comes_back_smaller_keeps_its_ids(store: Store) -> None:
    first = put(store, analysis(face(100, 100, 80), size=(1000, 1000)))
    second = put(store, analysis(face(50, 50, 40), size=(500, 500)), "s2")
    assert ids(second) == ids(first)


def test_a_new_picture_drops_the_vectors_that_other_models_made_of_the_old(
    store: Store, db: Db
) -> None:
    both = row_of_faces(1, model="sface")
    put(store, row_of_faces(1), also=[both])
    assert put(store, row_of_faces(1), "s2").faces[0].models == ("facenet128",)
    assert set(db[FACES].find_one({})["embeddings"]) == {"facenet128"}  # type: ignore[index]


def test_faces_without_vector_or_quality_are_listed_as_unindexed(store: Store) -> None:
    poor = dataclasses.replace(face(200), quality=0.1, reasons=("low_sharpness",))
    result = put(store, analysis(face(0), poor, face(400, seed=None)), min_quality=0.5)
    assert len(result.faces) == 1
    assert [entry.reason for entry in result.unindexed] == ["low_sharpness", "low_quality"]
    assert put(store, row_of_faces(1)).unindexed == result.unindexed


def test_a_picture_without_faces_is_an_item(store: Store) -> None:
    result = put(store, analysis())
    assert (result.item.state, result.faces) == ("no_face", ())
    assert put(store, analysis()).unchanged


def test_what_the_source_says_changes_without_touching_vectors(store: Store, db: Db) -> None:
    store.redeclare("default", {"album": "string"})
    put(store, row_of_faces(1), info=MediaInfo(title="old"))
    info = MediaInfo(title="new", metadata={"album": "a"}, hidden=True)
    store.update_info(API, info)
    stored = db[FACES].find_one({})
    assert stored is not None
    assert (stored["metadata"], stored["facets"], stored["hidden"]) == (
        {"album": "a"},
        ["album=a"],
        True,
    )
    assert store.item("default", "a/b.jpg").title == "new"


def test_fifty_puts_of_one_item_at_once_create_it_once(store: Store, db: Db) -> None:
    made = row_of_faces(1, 2, 3)
    outcomes: list[str] = []

    def one() -> None:
        result = put(store, made)
        outcomes.append("created" if result.created else "unchanged" if result.unchanged else "?")

    threads = [threading.Thread(target=one) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"created": 1, "unchanged": 49}
    assert db[FACES].count_documents({}) == 3


def test_different_pictures_of_one_item_at_once_leave_one_of_them_whole(
    store: Store, db: Db
) -> None:
    def one(number: int) -> None:
        put(store, row_of_faces(*range(number + 1)), f"s{number}")

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    item = store.item("default", "a/b.jpg")
    assert item.sha256 == f"s{len(item.faces) - 1}"
    assert {found.image_id for found in item.faces} == {item.image_id}
    assert db[FACES].count_documents({}) == len(item.faces)
    assert item.rev == 8


class TestDeleting:
    def test_removes_faces_and_crops_and_leaves_no_word_about_the_picture(
        self, store: Store, db: Db
    ) -> None:
        info = MediaInfo(title="t", url="https://x/y", metadata={"a": "b"})
        put(store, row_of_faces(1, 2), info=info, crops={0: b"jpeg"})
        assert db[CROPS].count_documents({}) == 1
        assert store.delete_item("default", "a/b.jpg", source="api", tombstone=True) == 2
        assert (db[FACES].count_documents({}), db[CROPS].count_documents({})) == (0, 0)
        left = db[MEDIA].find_one({})
        assert left is not None
        assert not {"title", "url", "metadata", "sha256", "image_id"} & set(left)
        with pytest.raises(NotFound):
            store.item("default", "a/b.jpg")
        with pytest.raises(NotFound):
            store.delete_item("default", "a/b.jpg", source="api", tombstone=True)

    def test_a_put_that_began_before_the_delete_is_refused(self, store: Store, db: Db) -> None:
        put(store, row_of_faces(1))
        began = store.rev("default", "a/b.jpg")
        store.delete_item("default", "a/b.jpg", source="api", tombstone=True)
        with pytest.raises(Conflict, match="deleted"):
            put(store, row_of_faces(1), "s2", began_rev=began)
        assert db[FACES].count_documents({}) == 0
        late = store.rev("default", "a/b.jpg")
        assert put(store, row_of_faces(1), "s2", began_rev=late).created

    def test_no_source_brings_back_what_the_api_deleted_until_a_put_lifts_it(
        self, store: Store
    ) -> None:
        put(store, row_of_faces(1), ref=FOLDER)
        store.delete_item("default", "a/b.jpg", source="api", tombstone=True)
        assert store.tombstoned("default", ["a/b.jpg", "other"]) == {"a/b.jpg"}
        with pytest.raises(Tombstoned):
            put(store, row_of_faces(1), ref=FOLDER)
        with pytest.raises(Tombstoned):
            store.record_failure(FOLDER, MediaInfo(), "InvalidImage", True)
        assert put(store, row_of_faces(1)).created
        with pytest.raises(Conflict, match="put through the API"):
            put(store, row_of_faces(1), ref=FOLDER)

    def test_a_source_may_bring_back_what_it_took_away(self, store: Store) -> None:
        put(store, row_of_faces(1), ref=FOLDER)
        store.delete_item("default", "a/b.jpg", source="folder-1", tombstone=False)
        assert put(store, row_of_faces(1), ref=FOLDER).created

    def test_one_deleted_face_stays_away_until_the_item_is_put_again(self, store: Store) -> None:
        first = put(store, analysis(face(0, seed=1), face(300, seed=2)))
        store.delete_face(first.faces[0].face_id)
        assert len(store.item("default", "a/b.jpg").faces) == 1
        again = put(store, analysis(face(2, seed=1), face(300, seed=2)), "s2")
        assert [entry.reason for entry in again.unindexed] == ["deleted"]
        store.delete_item("default", "a/b.jpg", source="api", tombstone=True)
        assert len(put(store, analysis(face(0, seed=1), face(300, seed=2))).faces) == 2


class TestOwnership:
    def test_the_api_does_not_overwrite_a_source_nor_the_other_way(self, store: Store) -> None:
        put(store, row_of_faces(1), ref=FOLDER)
        with pytest.raises(Conflict):
            put(store, row_of_faces(1), "s2")
        with pytest.raises(Conflict):
            store.delete_item("default", "a/b.jpg", source="folder-2", tombstone=False)

    def test_two_keys_of_a_source_cannot_share_an_id(self, store: Store) -> None:
        put(store, row_of_faces(1), ref=FOLDER)
        other = dataclasses.replace(FOLDER, source_key="other/spelling")
        with pytest.raises(Conflict):
            put(store, row_of_faces(1), ref=other)

    def test_one_key_of_a_source_cannot_have_two_ids(self, store: Store) -> None:
        put(store, row_of_faces(1), ref=FOLDER)
        with pytest.raises(Conflict, match="same key"):
            put(store, row_of_faces(1), ref=dataclasses.replace(FOLDER, media_id="elsewhere"))

    def test_the_api_may_use_one_id_in_two_collections(self, store: Store) -> None:
        store.create_collection("other")
        put(store, row_of_faces(1))
        assert put(store, row_of_faces(1), ref=dataclasses.replace(API, collection="other")).created

    def test_known_items_are_the_sources_own_by_key(self, store: Store) -> None:
        for name in ("b", "a", "c"):
            put(store, row_of_faces(1), ref=MediaRef("default", name, "folder-1", f"k{name}"))
        put(store, row_of_faces(1))
        store.delete_item("default", "c", source="folder-1", tombstone=False)
        known = {item.source_key: item for item in store.known_items("folder-1", "default")}
        assert {key: item.media_id for key, item in known.items()} == {"ka": "a", "kb": "b"}
        ids = ["b", "c", "zz", API.media_id, *(f"{n}" for n in range(200))]
        assert store.known_by_ids("folder-1", "default", ids) == {"b": known["kb"]}
        assert store.known_by_ids("folder-1", "other", ids) == {}


class TestFailures:
    def test_attempts_count_one_error_of_one_version(self, store: Store) -> None:
        def fail(error: str, etag: str) -> int:
            info = MediaInfo(etag=etag)
            return store.record_failure(FOLDER, info, error, False, None, NOW).attempts

        now = store.now()
        NOW = now - dt.timedelta(seconds=1)
        assert [fail("Timeout", "1"), fail("Timeout", "1"), fail("Other", "1")] == [1, 2, 1]
        assert fail("Other", "2") == 1
        assert [item.source_key for item in store.due_items("folder-1", "default")] == ["a/b.jpg"]

    def test_the_faces_of_the_last_good_picture_stay(self, store: Store) -> None:
        put(store, row_of_faces(1), ref=FOLDER)
        store.record_failure(FOLDER, MediaInfo(), "InvalidImage", True)
        item = store.item("default", "a/b.jpg")
        assert (item.state, item.error, len(item.faces)) == ("failed", "InvalidImage", 1)
        again = put(store, row_of_faces(1), ref=FOLDER)
        assert (again.item.state, again.item.error, again.created) == ("done", None, False)


class TestFences:
    def lease(self, store: Store) -> Lease:
        lease = store.leases.acquire("indexer/x", Holder("elsewhere", 1, 1), 60)
        assert lease is not None
        return lease

    def test_a_holder_that_lost_its_lease_writes_nothing(self, store: Store, db: Db) -> None:
        old = self.lease(store)
        old.release()
        new = self.lease(store)
        with pytest.raises(LeaseLost):
            put(store, row_of_faces(1), ref=FOLDER, fence=old.fence)
        with pytest.raises(LeaseLost):
            store.record_failure(FOLDER, MediaInfo(), "E", True, old.fence)
        assert db[MEDIA].count_documents({}) == 0
        assert put(store, row_of_faces(1), ref=FOLDER, fence=new.fence).created
        with pytest.raises(LeaseLost):
            store.delete_item(
                "default", "a/b.jpg", source="folder-1", tombstone=False, fence=old.fence
            )

    def test_a_lease_that_somebody_removed_is_granted_anew(self, store: Store, db: Db) -> None:
        for number in range(3):
            old = self.lease(store)
            put(store, row_of_faces(1), f"s{number}", ref=FOLDER, fence=old.fence)
            old.release()
        db[LEASES].delete_many({})  # by hand, as what seems to be stuck
        new = self.lease(store)
        put(store, row_of_faces(2), "new", ref=FOLDER, fence=new.fence)
        with pytest.raises(LeaseLost):
            put(store, row_of_faces(3), "old", ref=FOLDER, fence=old.fence)


class TestRefusals:
    def test_a_collection_has_to_be_created_first(self, store: Store) -> None:
        with pytest.raises(NotFound):
            put(store, row_of_faces(1), ref=dataclasses.replace(API, collection="nowhere"))

    def test_vectors_of_another_than_the_active_model_are_not_stored(self, store: Store) -> None:
        with pytest.raises(Busy):
            put(store, row_of_faces(1, model="sface"))

    def test_while_a_switch_is_prepared_both_vectors_are_needed(self, store: Store, db: Db) -> None:
        db["likeness_models"].update_one(
            {"_id": "active"},
            {
                "$set": {
                    "next": {"model": "sface", "build": "", "index": "i", "quantization": "none"},
                    "enforced": True,
                }
            },
        )
        with pytest.raises(Busy):
            put(store, row_of_faces(1))
        made = put(store, row_of_faces(1), also=[row_of_faces(1, model="sface")])
        assert made.faces[0].models == ("facenet128", "sface")

    @pytest.mark.parametrize(
        "metadata", [{"a.b": "x"}, {"$x": "y"}, {"a": "x" * 5000}, {"n": float("inf")}, {"": "x"}]
    )
    def test_metadata_that_cannot_be_kept_is_named(
        self, store: Store, metadata: dict[str, str]
    ) -> None:
        with pytest.raises(InvalidRequest) as raised:
            put(store, row_of_faces(1), info=MediaInfo(metadata=dict(metadata)))
        assert raised.value.errors[0].field.startswith("metadata")

    def test_the_api_keeps_to_declared_types_and_a_source_is_forgiven(self, store: Store) -> None:
        store.create_collection("typed", {"year": "number"})
        info = MediaInfo(metadata={"year": "2001"})
        ref = dataclasses.replace(API, collection="typed")
        with pytest.raises(InvalidRequest):
            put(store, row_of_faces(1), ref=ref, info=info)
        made = put(store, row_of_faces(1), ref=dataclasses.replace(ref, source="s"), info=info)
        assert made.faces[0].metadata == {"year": "2001"}
