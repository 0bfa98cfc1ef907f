"""Items of one page: their reads shared, their writes few, and stale knowledge harmless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from faces import item_writes
from faces.database import FACES, MEDIA, Db
from faces.errors import LeaseLost, Tombstoned
from faces.item_before import Before
from faces.leases import Holder
from faces.records import PutResult
from faces.store import Store
from faces.types import Analysis, MediaInfo, MediaRef
from tests.faces_made import analysis, face

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

    together = run(lambda: store.before("default", NAMES))
    monkeypatch.setattr(item_writes, "_MANY_COLLECTIONS", 999)
    assert run(lambda: None) == together


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


def test_a_lease_lost_since_then_writes_nothing(store: Store, db: Db) -> None:
    lease = store.leases.acquire("source:cms", Holder.this_process("one"), 60)
    assert lease is not None
    before = store.before("default", NAMES)
    lease.release()
    assert store.leases.acquire("source:cms", Holder.this_process("two"), 60) is not None
    with pytest.raises(LeaseLost):
        put(store, "0.jpg", picture(0), "a", before, fence=lease.fence)
    assert db[MEDIA].count_documents({}) == 0
