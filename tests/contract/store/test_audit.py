"""What an audit deletes: with its crop, and nothing that waits for its erasure."""

from __future__ import annotations

import datetime as dt

import pytest

from faces import tombstones
from faces.audit import Audit, Finding
from faces.database import CROPS, FACES, MEDIA, Db
from faces.store import Store
from faces.types import MediaInfo, MediaRef
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
