"""Dropping what is not the active model's, while somebody else switches models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.collection import Collection

from faces.database import FACES, LEASES, Db, Session
from faces.errors import Conflict, LeaseLost
from faces.leases import Holder
from faces.store import Store
from faces.store_models import ModelStore
from faces.types import MediaInfo, MediaRef
from faces.watch import list_indexes
from migrations import indexes, switching
from migrations import runner as runner_module
from migrations.runner import LEASE, Runner
from migrations.step import discover
from migrations.switching import Switch, Wish
from tests.contract.store.conftest import SECONDS, database
from tests.faces_made import MODEL, row_of_faces

NEXT = "sface"


@pytest.fixture
def migrated(place: str) -> Iterator[Db]:
    """A database for each test: a prune drops the index that all others search."""
    with database(place) as made:
        yield made


@pytest.fixture
def switch(store: Store, db: Db, monkeypatch: pytest.MonkeyPatch) -> Switch:
    """A switch to `sface` that could flip at once: every face has both vectors."""
    monkeypatch.setattr(switching, "DRAIN_S", 0.0)
    monkeypatch.setattr(switching, "IN_FLIGHT_S", 0.0)
    ref = MediaRef("default", "a", "api", "a")
    store.put_item(
        ref, MediaInfo(), row_of_faces(1), content="s", also=[row_of_faces(1, model=NEXT)]
    )
    return Switch(db, Runner(db, discover(), lambda line: None), lambda run: {}, lambda line: None)


def change(switch: Switch, db: Db) -> None:
    """Another operator switches, from the beginning to the flip."""
    index = switch.begin(Wish(NEXT, "b1")).next
    assert index is not None
    Runner(db, discover(), lambda line: None).wait([index.index], SECONDS)
    switch.prepare(NEXT)
    switch.flip(NEXT)


def test_nobody_switches_while_models_are_dropped(
    switch: Switch, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[LeaseLost] = []
    lease = Runner.lease
    monkeypatch.setattr(Runner, "lease", lambda self, wait_s=0.0: lease(self, wait_s))

    def other(*_: object) -> None:
        try:
            change(switch, db)
        except LeaseLost as error:
            refused.append(error)

    monkeypatch.setattr(Switch, "_let_requests_end", other)
    switch.prune()
    assert refused, "another operator has to wait"
    assert db[FACES].count_documents({f"builds.{NEXT}": {"$exists": True}}) == 0


def test_one_that_lost_its_turn_leaves_the_model_alone_that_is_active_by_now(
    switch: Switch, store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paused(*_: object) -> None:
        db[LEASES].update_one({"_id": LEASE}, {"$set": {"expires_ms": 0}})
        change(switch, db)

    monkeypatch.setattr(runner_module, "LEASE_S", 600.0)  # renewed by nobody meanwhile
    monkeypatch.setattr(Switch, "_let_requests_end", paused)
    with pytest.raises(LeaseLost):
        switch.prune()
    both_are_there(store, db)


def test_a_model_that_is_switched_to_keeps_the_vectors_that_are_left(
    switch: Switch, store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = Switch._other_models

    def first(*args: Any) -> Any:
        found = others(*args)
        change(switch, db)
        return found

    monkeypatch.setattr(Switch, "_other_models", first)
    with pytest.raises(Conflict, match="A switch to sface has begun"):
        switch.prune()
    both_are_there(store, db)


def test_nobody_rolls_back_while_models_are_dropped(
    switch: Switch, store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(switch, db)
    refused: list[LeaseLost] = []
    lease, forget = Runner.lease, ModelStore.forget
    monkeypatch.setattr(Runner, "lease", lambda self, wait_s=0.0: lease(self, wait_s))

    def other(models: ModelStore, index: str) -> None:
        try:
            switch.roll_back()
        except LeaseLost as error:
            refused.append(error)
        forget(models, index)

    monkeypatch.setattr(ModelStore, "forget", other)
    switch.prune()
    assert refused, "another operator has to wait"
    active = store.active_model()
    assert active is not None
    assert (active.key, active.next, active.previous) == (NEXT, None, None)


def test_a_prune_that_was_paused_before_its_last_write_does_not_make_it(
    switch: Switch, store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ModelStore.wanted
    paused: list[bool] = []

    def then(models: ModelStore, session: Session) -> set[str]:
        found = wanted(models, session)
        if not paused:
            paused.append(True)
            change(switch, db)
            db[FACES].update_many({}, {"$set": {"quality": 0.9}})
        return found

    monkeypatch.setattr(ModelStore, "wanted", then)
    with pytest.raises(Conflict, match="A switch to sface has begun"):
        switch.prune()
    both_are_there(store, db)


def test_vectors_that_are_few_among_many_are_looked_for_without_a_deadline(
    switch: Switch, store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune that was killed begins anew, and passing what it had done took longer than 5 s."""
    find, sessions = Collection.find, []

    def seen(self: Collection[Any], query: Any = None, *args: Any, **options: Any) -> Any:
        if "$gt" in str(query) and "builds." in str(query):
            sessions.append(options.get("session"))
        return find(self, query, *args, **options)

    change(switch, db)
    monkeypatch.setattr(Collection, "find", seen)
    assert any("vectors of" in dropped for dropped in switch.prune())
    assert sessions
    assert not any(sessions)


def test_an_up_that_lost_its_turn_changes_no_index(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []

    def paused(*_: object) -> None:
        db[LEASES].update_one({"_id": LEASE}, {"$set": {"expires_ms": 0}})
        assert store.leases.acquire(LEASE, Holder("elsewhere", 1, 1), 60) is not None

    monkeypatch.setattr(Runner, "_note_build", paused)
    monkeypatch.setattr(indexes, "actions", lambda *_: [indexes.Action({}, "of an old release")])
    monkeypatch.setattr(Runner, "send", lambda _, action: sent.append(action))
    with pytest.raises(LeaseLost):
        Runner(db, discover(), lambda line: None).up(lambda: None)
    assert sent == []


def both_are_there(store: Store, db: Db) -> None:
    """The switch was made, and nothing of either model is missing."""
    active = store.active_model()
    assert active is not None
    assert active.key == NEXT
    assert active.index in list_indexes(db)
    assert db[FACES].count_documents({f"builds.{NEXT}": {"$exists": True}}) == 1
    assert db[FACES].count_documents({f"builds.{MODEL}": {"$exists": True}}) == 1
