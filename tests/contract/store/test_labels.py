"""What the Rekognition dialect asks of the store: kept pictures, forgotten ones, short names."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from faces.database import ALIASES, Db
from faces.errors import NotFound, OtherPicture
from faces.records import PutResult
from faces.search import SearchRequest
from faces.store import Store
from faces.types import Analysis, Box, MediaInfo, MediaRef
from tests.contract.store.conftest import Searching
from tests.faces_made import analysis, face, near, row_of_faces, vector

REF = MediaRef("default", "ann", "api", "ann")


def put(store: Store, made: Analysis, content: str = "s1", *, keep: bool = True) -> PutResult:
    return store.put_item(REF, MediaInfo(), made, content=content, keep_other=keep)


class TestOtherPictures:
    def test_another_picture_is_kept_when_that_is_asked_for(self, store: Store) -> None:
        first = put(store, row_of_faces(1))
        with pytest.raises(OtherPicture):
            put(store, row_of_faces(2), "s2")
        assert store.item("default", "ann").faces == first.faces
        assert put(store, row_of_faces(1)).unchanged
        assert put(store, row_of_faces(2), "s2", keep=False).item.sha256 == "s2"

    def test_a_deleted_item_is_no_other_picture(self, store: Store) -> None:
        put(store, row_of_faces(1))
        store.delete_item("default", "ann", source="api", tombstone=True)
        assert put(store, row_of_faces(2), "s2").created


class TestForgottenPictures:
    def test_deleted_faces_can_be_indexed_again(self, store: Store) -> None:
        first = put(store, row_of_faces(1, 2))
        store.delete_faces("default", first.faces[:1])
        assert len(put(store, row_of_faces(1, 2)).faces) == 1
        store.forget_picture("default", "ann")
        again = put(store, row_of_faces(1, 2))
        assert [f.face_id for f in again.faces] == [f.face_id for f in first.faces]
        assert again.unindexed == ()

    def test_faces_of_erased_people_cannot(self, store: Store) -> None:
        first = put(store, row_of_faces(1))
        face_id = first.faces[0].face_id
        store._removal.remove_faces("default", "ann", [face_id], reason="erased", receipt_id="r")
        store.forget_picture("default", "ann")
        again = put(store, row_of_faces(1))
        assert again.faces == ()
        assert [entry.reason for entry in again.unindexed] == ["erased"]

    def test_of_two_small_faces_side_by_side_each_is_erased_for_good(self, store: Store) -> None:
        crowd = analysis(face(100, side=40, seed=1), face(145, side=40, seed=2), size=(6400, 6400))
        for left in (1, 0):
            faces = put(store, crowd).faces
            first = min(faces, key=lambda found: found.box.x).face_id
            store._removal.remove_faces("default", "ann", [first], reason="erased", receipt_id="r")
            store.delete_item("default", "ann", source="api", tombstone=True)
            assert len(put(store, crowd).faces) == left

    def test_an_item_that_is_not_there_is_no_error(self, store: Store) -> None:
        store.forget_picture("default", "absent")


def test_faces_are_read_by_id_with_the_frame_of_their_picture(store: Store) -> None:
    stored = put(store, analysis(face(0), size=(640, 480))).faces[0]
    absent = "01234567-89ab-cdef-0123-456789abcdef"
    assert store.faces_by_id("default", [absent, stored.face_id]) == {stored.face_id: stored}
    assert stored.frame == (640, 480)
    assert stored.box.relative(*stored.frame).width == pytest.approx(50 / 640)
    store.create_collection("other")
    assert store.faces_by_id("other", [stored.face_id]) == {}
    with pytest.raises(NotFound):
        store.faces_by_id("absent", [stored.face_id])


def test_an_item_is_found_by_what_its_source_calls_it(store: Store) -> None:
    ref = MediaRef("default", "a/b.jpg", "folder-1", "A/B.jpg")
    store.put_item(ref, MediaInfo(), row_of_faces(1), content="s1")
    found = store.item_of_source("folder-1", "A/B.jpg")
    assert found is not None
    assert (found.collection, found.media_id) == ("default", "a/b.jpg")
    assert store.item_of_source("folder-2", "A/B.jpg") is None
    store.delete_item("default", "a/b.jpg", source="folder-1", tombstone=False)
    assert store.item_of_source("folder-1", "A/B.jpg") is None


def test_a_text_is_found_by_its_hash_in_its_collection(store: Store, db: Db) -> None:
    kept = store.aliases.keep("default", ["one", "two"])
    assert store.aliases.find("default", kept["one"]) == "one"
    assert store.aliases.find("other", kept["one"]) is None
    assert store.aliases.keep("default", ["one"]) == {"one": kept["one"]}
    position = store.aliases.keep("", ["three"])["three"]
    assert store.aliases.find("", position) == "three"
    # Only what belongs to no collection expires by itself.
    dated = [row for row in db[ALIASES].find() if "at" in row]
    assert [row["text"] for row in dated] == ["three"]
    assert isinstance(dated[0]["at"], dt.datetime)


class TestSearches:
    def test_only_faces_with_a_subject_are_searched_when_that_is_asked_for(
        self, searching: Searching
    ) -> None:
        store = searching.store
        stored = put(store, row_of_faces(1, 2, 3)).faces
        store.subjects.create("default", "ann")
        store.subjects.assign("default", "ann", [stored[1].face_id])
        request = SearchRequest(limit=10, group_by="subject", assigned="some")
        found = searching.until(
            lambda: searching.finder.vectors(request, [vector(1)]),
            lambda found: len(found.faces[0]) == 1,
        )
        assert [match.subject_id for match in found.faces[0]] == ["ann"]
        # A face that was unassigned a moment ago is dropped, though the index may still have it.
        store.subjects.unassign("default", "ann", [stored[1].face_id])
        assert searching.finder.vectors(request, [vector(1)]).faces == ((),)

    def test_more_than_a_thousand_matches_come_when_asked_for(self, searching: Searching) -> None:
        made = face(0)
        for picture in range(3):
            faces = [
                dataclasses.replace(
                    made,
                    detection=dataclasses.replace(
                        made.detection, box=Box(40 * (i % 25), 40 * (i // 25), 30, 30)
                    ),
                    embedding=near(1, 0.5, 1000 * picture + i),
                )
                for i in range(400)
            ]
            ref = MediaRef("default", f"crowd-{picture}", "api", f"crowd-{picture}")
            searching.store.put_item(
                ref, MediaInfo(), analysis(*faces, size=(1000, 1000)), content=f"c{picture}"
            )
        request = SearchRequest(limit=4096, min_similarity=0.0)
        found = searching.until(
            lambda: searching.finder.vectors(request, [vector(1)]),
            lambda found: len(found.faces[0]) == 1200,
        )
        assert found.complete
        likeness = [match.similarity for match in found.faces[0]]
        assert likeness == sorted(likeness, reverse=True)

    def test_stored_vectors_are_read_by_face_and_by_subject(self, searching: Searching) -> None:
        store = searching.store
        one, two = put(store, row_of_faces(1, 2)).faces
        active = store.active_model()
        assert active is not None
        found = searching.finder.stored("default", active, face_ids=[one.face_id])
        assert found[one.face_id] == pytest.approx(vector(1), abs=1e-6)
        store.subjects.create("default", "ann")
        store.subjects.assign("default", "ann", [two.face_id])
        assert list(searching.finder.stored("default", active, subject_id="ann")) == [two.face_id]
