"""What the Rekognition dialect's calls leave of what others do between their reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.rekognition import faces, images, users
from app.rekognition.faults import InvalidParameter
from faces.records import Item
from faces.store import Store
from faces.types import Analysis, MediaInfo, MediaRef
from tests.contract.store.conftest import Searching
from tests.faces_made import analysis, face, row_of_faces

REF = MediaRef("default", "ann", "api", "ann")
CONTENT = row_of_faces().picture.sha256


def call(store: Store, finder: object = None, **given: object) -> Any:
    """A call as the operations see it."""
    settings = SimpleNamespace(keep_crops="off")
    parts = SimpleNamespace(store=store, settings=settings, finder=finder)
    return SimpleNamespace(
        collection="default",
        given=given,
        parts=parts,
        client=None,
        model=store.active_model(),
    )


def put(store: Store, made: Analysis, info: MediaInfo | None = None) -> list[str]:
    stored = store.put_item(REF, info or MediaInfo(), made, content=CONTENT, keep_other=True)
    return [found.face_id for found in stored.faces]


def chosen(*wanted: int) -> Analysis:
    """A picture with three faces, of which some were chosen."""
    places = [face(100 * i, seed=i if i in wanted else None) for i in range(3)]
    return analysis(*places)


def index(
    store: Store,
    old: Item | None,
    look: Callable[..., Analysis],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    monkeypatch.setattr(images, "bar", lambda call: 0.0)
    monkeypatch.setattr(images, "analyse", look)
    since = store.collection("default").created_at
    return faces._index(call(store), since, b"", "ann", old)


def test_a_photo_that_is_deleted_while_it_is_looked_at_stays_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, chosen(0), MediaInfo(title="Ann"))

    def look(*_: object, **__: object) -> Analysis:
        store.delete_item("default", "ann", source="api", tombstone=True)
        return chosen(0, 1)

    with pytest.raises(InvalidParameter, match="deleted while this picture"):
        index(store, store.item("default", "ann"), look, monkeypatch)
    assert store.items("default").items == ()


def test_faces_that_another_call_chose_meanwhile_stay(store: Store) -> None:
    put(store, chosen(0))
    store.forget_picture("default", "ann")
    every = put(store, chosen(0, 1, 2))
    store.forget_picture("default", "ann")
    assert sorted(put(store, chosen(0, 1))) == sorted(every)
    item = store.item("default", "ann")
    assert (item.face_count, len(item.faces), item.unindexed) == (3, 3, ())


class Between(Store):
    """A store in which somebody does something right after the first look at faces."""

    def __init__(self, store: Store, then: Callable[[], object]) -> None:
        super().__init__(store.db)
        self._then: list[Callable[[], object]] = [then]

    def faces_by_id(self, *args: Any) -> Any:
        found = super().faces_by_id(*args)
        if self._then:
            self._then.pop()()
        return found


def test_a_face_goes_to_the_user_who_had_it_first(searching: Searching) -> None:
    store = searching.store
    first, second = put(store, row_of_faces(1, 2))
    for user in ("ann", "bob"):
        store.subjects.create("default", user)
    late = Between(store, lambda: store.subjects.assign("default", "bob", [first]))
    given = {"UserId": "ann", "FaceIds": [first, second], "UserMatchThreshold": 0.0}
    told = users.associate(call(late, searching.finder, **given))
    assert told["AssociatedFaces"] == [{"FaceId": second}]
    refused = {"FaceId": first, "Reasons": ["ASSOCIATED_TO_A_DIFFERENT_USER"], "UserId": "bob"}
    assert told["UnsuccessfulFaceAssociations"] == [refused]
    assert store.face(first).subject_id == "bob"


def test_a_face_that_was_given_to_a_user_is_not_deleted(store: Store) -> None:
    first, second = put(store, row_of_faces(1, 2))
    store.subjects.create("default", "bob")
    late = Between(store, lambda: store.subjects.assign("default", "bob", [first]))
    told = faces.delete(call(late, FaceIds=[first, second]))
    assert told["DeletedFaces"] == [second]
    refused = {"FaceId": first, "UserId": "bob", "Reasons": ["ASSOCIATED_TO_AN_EXISTING_USER"]}
    assert told["UnsuccessfulFaceDeletions"] == [refused]
    assert store.face(first).subject_id == "bob"


def test_the_faces_of_a_user_who_is_being_deleted_are_nobodys(
    searching: Searching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shown as free: one was called deleted and stayed, the other was left unmentioned."""
    store = searching.store
    first, second = put(store, row_of_faces(1, 2))
    for user in ("ann", "bob"):
        store.subjects.create("default", user)
    store.subjects.assign("default", "bob", [first, second])
    monkeypatch.setattr("faces.store_subjects.BULK", 0)  # however few, a job does it
    store.subjects.delete("default", "bob")
    assert faces.delete(call(store, FaceIds=[first]))["DeletedFaces"] == [first]
    assert list(store.faces_by_id("default", [first, second])) == [second]
    given = {"UserId": "ann", "FaceIds": [second], "UserMatchThreshold": 0.0}
    told = users.associate(call(store, searching.finder, **given))
    assert told["AssociatedFaces"] == [{"FaceId": second}]
    assert store.face(second).subject_id == "ann"
