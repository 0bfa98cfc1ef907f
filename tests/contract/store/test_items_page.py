"""Items of one page: their reads shared, their writes few, and stale knowledge harmless."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from faces import documents, item_writes
from faces.database import FACES, MEDIA, MODELS, Db
from faces.errors import Busy, LeaseLost, Tombstoned
from faces.item_before import Before
from faces.item_put import Put, Rules
from faces.leases import Holder
from faces.records import PutResult
from faces.store import Store
from faces.types import Analysis, MediaInfo, MediaRef
from tests.faces_made import analysis, face, row_of_faces, vector

NAMES = [f"{n}.jpg" for n in range(4)]
WRITES = ("insert", "update", "delete", "bulkWrite", "commitTransaction", "findAndModify")


def put(
    store: Store, name: str, made: Analysis, content: str, before: Before | None, **more: Any
) -> PutResult:
    ref = MediaRef("default", name, "cms", name)
    return store.put_item(ref, MediaInfo(), made, content=content, before=before, **more)


def picture(number: int, shift: int = 0) -> Analysis:
    """Two faces of picture `number`, moved by `shift` pixels."""
    return analysis(face(shift, seed=number), face(300 + shift, seed=number + 50))


RULES = Rules(0.0, "1", None)


def puts(store: Store, names: list[str], content: str, shift: int = 0) -> list[Put]:
    """Pictures to store, with what is stored of their items now."""
    before = store.before("default", names)
    return [
        Put(
            MediaRef("default", name, "cms", name),
            MediaInfo(),
            (picture(int(name.split(".")[0]), shift),),
            content,
            before=before,
        )
        for name in names
    ]


class Heard(monitoring.CommandListener):
    """Counts commands."""

    def __init__(self) -> None:
        self.commands: Counter[str] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands[event.command_name] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.mark.parametrize(("wire_version", "most"), [(25, 2), (999, 4)])
def test_a_changed_picture_costs_few_writes_and_no_read_of_its_own(
    store: Store, atlas: str, db: Db, monkeypatch: pytest.MonkeyPatch, wire_version: int, most: int
) -> None:
    monkeypatch.setattr(item_writes, "_MANY_COLLECTIONS", wire_version)
    heard = Heard()
    with MongoClient[dict[str, Any]](
        atlas, tz_aware=True, w="majority", event_listeners=[heard]
    ) as client:
        mine = Store(client[db.name])
        for content, shift in (("old", 0), ("new", 8)):
            before = mine.before("default", NAMES)
            for number, name in enumerate(NAMES):
                heard.commands.clear()
                result = put(mine, name, picture(number, shift), content + name, before)
                writes = sum(heard.commands[command] for command in WRITES)
                assert writes <= most, heard.commands
                assert heard.commands["find"] <= 3, heard.commands
                assert result.item == store.item("default", name)


def test_what_is_written_is_what_separate_writes_leave(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole() -> list[list[dict[str, Any]]]:
        left = []
        for name in (FACES, MEDIA):
            rows = list(db[name].find().sort("_id", 1))
            for row in rows:
                row.pop("created_at", None)
                row.pop("updated_at", None)
            left.append(rows)
        return left

    def run(page: Callable[[], Before | None]) -> list[list[dict[str, Any]]]:
        for name in (FACES, MEDIA):
            db[name].delete_many({})
        for content, shift in (("a", 0), ("b", 8), ("c", 200)):
            before = page()
            for number, name in enumerate(NAMES):
                put(store, name, picture(number, shift), content, before)
        return whole()

    by_page = run(lambda: store.before("default", NAMES))

    def run_together() -> list[list[dict[str, Any]]]:
        for name in (FACES, MEDIA):
            db[name].delete_many({})
        for content, shift in (("a", 0), ("b", 8), ("c", 200)):
            made = puts(store, NAMES, content, shift)
            assert store.put_together(made, RULES) == [2] * len(NAMES)
        return whole()

    assert run_together() == by_page
    monkeypatch.setattr(item_writes, "_MANY_COLLECTIONS", 999)
    assert run(lambda: None) == by_page
    assert store.put_together(puts(store, NAMES, "d"), RULES) == [None] * len(NAMES)


def test_a_face_deleted_since_the_page_was_read_stays_deleted(store: Store, db: Db) -> None:
    first = put(store, "0.jpg", picture(0), "a", None)
    before = store.before("default", NAMES)
    store.delete_face(first.faces[0].face_id)
    second = put(store, "0.jpg", picture(0), "b", before)
    assert [f.face_id for f in second.faces] == [first.faces[1].face_id]
    assert [entry.reason for entry in second.unindexed] == ["deleted"]
    assert db[FACES].count_documents({}) == 1


def test_an_item_deleted_through_the_api_since_then_stays_deleted(store: Store, db: Db) -> None:
    put(store, "0.jpg", picture(0), "a", None)
    before = store.before("default", NAMES)
    store.delete_item("default", "0.jpg", source="api", tombstone=True)
    with pytest.raises(Tombstoned):
        put(store, "0.jpg", picture(0), "b", before)
    with pytest.raises(Tombstoned):
        put(store, "0.jpg", picture(0), "b", store.before("default", NAMES))
    assert db[FACES].count_documents({}) == 0


def test_an_item_that_another_writer_made_since_then_is_matched(store: Store, db: Db) -> None:
    before = store.before("default", NAMES)
    first = put(store, "0.jpg", picture(0), "a", None)
    second = put(store, "0.jpg", picture(0, shift=8), "b", before)
    assert not second.created
    assert [f.face_id for f in second.faces] == [f.face_id for f in first.faces]
    assert db[FACES].count_documents({}) == 2


def test_a_subject_assigned_since_then_is_kept(store: Store) -> None:
    first = put(store, "0.jpg", picture(0), "a", None)
    before = store.before("default", NAMES)
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [first.faces[0].face_id])
    put(store, "0.jpg", picture(0, shift=8), "b", before)
    kept = {f.face_id: f.subject_id for f in store.item("default", "0.jpg").faces}
    assert kept[first.faces[0].face_id] == "ann"


def test_a_vector_embedded_since_then_goes_with_the_picture_that_it_was_made_of(
    store: Store, db: Db
) -> None:
    put(store, "0.jpg", picture(0), "a", None)
    before = store.before("default", NAMES)
    # A switch of the model is being prepared by another process.
    given = {"embeddings.sface": documents.pack_vector(vector(0, "sface")), "builds.sface": "b1"}
    db[FACES].update_many({}, {"$set": given})
    put(store, "0.jpg", picture(0, shift=8), "b", before)
    for row in db[FACES].find({}):
        assert set(row["embeddings"]) == set(row["builds"]) == {"facenet128"}


def test_a_lease_lost_since_then_writes_nothing(store: Store, db: Db) -> None:
    lease = store.leases.acquire("source:cms", Holder.this_process("one"), 60)
    assert lease is not None
    before = store.before("default", NAMES)
    lease.release()
    assert store.leases.acquire("source:cms", Holder.this_process("two"), 60) is not None
    with pytest.raises(LeaseLost):
        put(store, "0.jpg", picture(0), "a", before, fence=lease.fence)
    assert db[MEDIA].count_documents({}) == 0


def test_pictures_stored_together_cost_few_writes_in_all(atlas: str, db: Db) -> None:
    heard = Heard()
    with MongoClient[dict[str, Any]](
        atlas, tz_aware=True, w="majority", event_listeners=[heard]
    ) as client:
        mine = Store(client[db.name])
        for content, shift, most in (("old", 0, 3), ("new", 8, 2)):
            made = puts(mine, NAMES, content, shift)
            heard.commands.clear()
            assert mine.put_together(made, RULES) == [2] * len(NAMES)
            assert sum(heard.commands[command] for command in WRITES) == most, heard.commands
            assert heard.commands["find"] <= 3, heard.commands


def test_who_may_not_be_stored_is_left_to_itself_and_the_others_are(store: Store, db: Db) -> None:
    put(store, "0.jpg", picture(0), "a", None)
    store.delete_item("default", "0.jpg", source="api", tombstone=True)
    store.put_item(
        MediaRef("default", "1.jpg", "other", "1.jpg"), MediaInfo(), picture(1), content="a"
    )
    began = store.rev("default", "2.jpg")
    put(store, "2.jpg", picture(2), "a", None)
    store.delete_item("default", "2.jpg", source="cms", tombstone=False)
    made = puts(store, NAMES, "b")
    late = dataclasses.replace(made[2], began_rev=began)
    unknown = dataclasses.replace(made[3], before=None)
    foreign_id = puts(store, ["5.jpg"], "b")
    together = [made[0], made[1], late, unknown, *foreign_id]
    assert store.put_together(together, RULES) == [None, None, None, None, 2]
    assert {row["media_id"] for row in db[FACES].find()} == {"1.jpg", "5.jpg"}


def test_one_that_another_writer_changed_lets_nothing_be_written(store: Store, db: Db) -> None:
    made = puts(store, NAMES, "b")
    put(store, "3.jpg", picture(3), "a", None)
    before = db[MEDIA].find_one({"_id": "default/3.jpg"})
    assert store.put_together(made, RULES) == [None] * len(NAMES)
    assert list(db[MEDIA].find()) == [before]
    assert db[FACES].count_documents({}) == 2
    twice = puts(store, ["5.jpg"], "b") * 2
    assert store.put_together(twice, RULES) == [None, None]
    assert db[MEDIA].count_documents({}) == 1


@pytest.mark.parametrize("lost", ["lease", "model"])
def test_what_stops_one_stops_all(store: Store, db: Db, lost: str) -> None:
    lease = store.leases.acquire("source:cms", Holder.this_process("one"), 60)
    assert lease is not None
    made = puts(store, NAMES, "a")
    expected: type[Exception] = LeaseLost
    if lost == "lease":
        lease.release()
        assert store.leases.acquire("source:cms", Holder.this_process("two"), 60) is not None
    else:
        expected = Busy
        db[MODELS].update_one({"_id": "active"}, {"$set": {"model": "sface"}}, upsert=True)
    with pytest.raises(expected):
        store.put_together(made, Rules(0.0, "1", lease.fence))
    assert db[MEDIA].count_documents({}) == 0


def test_pictures_with_the_vectors_of_both_models_are_stored_together_during_a_switch(
    store: Store, db: Db
) -> None:
    coming = {"model": "sface", "build": "", "index": "i", "quantization": "none"}
    db[MODELS].update_one({"_id": "active"}, {"$set": {"next": coming, "enforced": True}})
    old, new = row_of_faces(1), row_of_faces(1, model="sface")
    both = [dataclasses.replace(one, analyses=(old, new)) for one in puts(store, NAMES, "a")]

    assert store.put_together(both, RULES) == [1] * len(NAMES)

    one_lacks_it = [dataclasses.replace(both[0], analyses=(old,)), *both[1:]]
    with pytest.raises(Busy):
        store.put_together(
            [dataclasses.replace(one, content="b") for one in one_lacks_it],
            RULES,
        )
