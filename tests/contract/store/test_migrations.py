"""Migrations against the embedded Atlas: plan, ledger, drift, refusals, and what old code does."""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pymongo import WriteConcern

from faces.database import FACES, JOBS, MIGRATIONS, OWN_COLLECTIONS, Db
from faces.errors import Conflict, DatabaseUnavailable, DeadlineExceeded, LeaseLost
from faces.leases import Holder, Lease, Leases
from faces.store import Store
from faces.watch import IndexState, list_indexes
from migrations import indexes
from migrations import runner as runner_module
from migrations.ledger import Ledger
from migrations.runner import LEASE, Plan, Runner
from migrations.step import Command, Step, discover
from tests.contract.store.conftest import SECONDS, connected
from tests.faces_made import MODEL

INDEX = "faces_facenet128_v1"


@pytest.fixture
def fresh(place: str) -> Iterator[Db]:
    """A database that nobody has migrated."""
    with connected(place) as client:
        mine = client.get_database(
            f"t_{secrets.token_hex(6)}", write_concern=WriteConcern(w="majority")
        )
        yield mine
        client.drop_database(mine)


def runner(db: Db, steps: Sequence[Step] | None = None) -> Runner:
    return Runner(db, discover() if steps is None else steps, lambda line: None)


def up(db: Db, steps: Sequence[Step] | None = None, **options: Any) -> Plan:
    return runner(db, steps).up(lambda: (MODEL, "b1"), **options)


def step(name: str, *commands: Command, phase: str = "pre", breaking: str | None = None) -> Step:
    return Step(
        name=name,
        phase="post" if phase == "post" else "pre",
        checksum=f"sum-{name}",
        up=lambda: [{"create": FACES}, *commands],
        down=lambda: [{"drop": name}],
        breaking=breaking,
    )


def test_a_plan_touches_nothing_and_up_sends_what_it_says(fresh: Db) -> None:
    plan = runner(fresh).plan()
    assert fresh.list_collection_names() == []
    assert [s.name for s in plan.steps] == ["0001_pre_collections", "0002_pre_aliases"]
    json.dumps([command for s in plan.steps for command in s.up()])
    up(fresh)
    assert set(OWN_COLLECTIONS) <= set(fresh.list_collection_names())
    for command in plan.steps[0].up():
        if "createIndexes" in command:
            made = fresh[command["createIndexes"]].index_information()
            assert {index["name"] for index in command["indexes"]} <= set(made)
    assert fresh["likeness_collections"].find_one({"_id": "default"})


def test_up_again_does_nothing(fresh: Db) -> None:
    up(fresh)
    before = {name: list(fresh[name].find()) for name in fresh.list_collection_names()}
    runner(fresh).wait([INDEX], SECONDS)
    again = up(fresh)
    assert (again.steps, again.index_actions) == ((), ())
    for name, rows in before.items():
        if name != "likeness_leases":
            assert list(fresh[name].find()) == rows
    assert runner(fresh).plan().empty


def test_the_ledger_says_when_by_whom_and_how_long(fresh: Db) -> None:
    up(fresh)
    entry = Ledger(fresh).applied()["0001_pre_collections"]
    assert entry.checksum == discover()[0].checksum
    assert entry.duration_ms >= 0
    assert "@" in entry.by
    assert entry.release


def test_a_changed_step_that_was_applied_is_refused(fresh: Db) -> None:
    up(fresh, [step("0001_pre_a")])
    changed = dataclasses.replace(step("0001_pre_a"), checksum="other")
    with pytest.raises(Conflict, match="0001_pre_a was changed"):
        up(fresh, [changed])


def test_pre_and_post_steps_run_apart_and_up_to_a_step(fresh: Db) -> None:
    steps = [
        step("0001_pre_a", {"create": "a"}),
        step("0002_post_b", {"create": "b"}, phase="post"),
        step("0003_pre_c", {"create": "c"}),
    ]
    up(fresh, steps, to="0001_pre_a")
    assert set(Ledger(fresh).applied()) == {"0001_pre_a"}
    plan = up(fresh, steps)
    assert [s.name for s in plan.steps] == ["0003_pre_c"]
    assert [s.name for s in plan.later] == ["0002_post_b"]
    up(fresh, steps, post=True)
    assert set(Ledger(fresh).applied()) == {s.name for s in steps}
    with pytest.raises(Conflict):
        up(fresh, steps, to="0009_pre_unknown")


def test_down_reverts_the_last_step_only(fresh: Db) -> None:
    steps = [step("0001_pre_a", {"create": "0001_pre_a"}), step("0002_pre_b", {"create": "b"})]
    up(fresh, steps)
    down = runner(fresh, steps).down()
    assert down is not None
    assert down.name == "0002_pre_b"
    assert set(Ledger(fresh).applied()) == {"0001_pre_a"}
    runner(fresh, steps).down()
    assert runner(fresh, steps).down() is None
    assert "0001_pre_a" not in fresh.list_collection_names()


def test_down_takes_back_the_steps_there_are_although_an_index_is_gone(fresh: Db) -> None:
    up(fresh)
    fresh[JOBS].drop_index("old")
    while runner(fresh).down():
        pass
    assert Ledger(fresh).applied() == {}
    for name in (FACES, JOBS):
        assert [each["name"] for each in fresh[name].list_indexes()] == ["_id_"]
    up(fresh)
    assert "old" in [each["name"] for each in fresh[JOBS].list_indexes()]


def test_a_step_that_is_cut_is_run_again(fresh: Db) -> None:
    index_on_x = {"key": {"x": 1}, "name": "x"}
    commands: list[Command] = [{"create": "a"}, {"createIndexes": "a", "indexes": [index_on_x]}]
    Ledger(fresh).send(commands[:1])  # and killed
    up(fresh, [step("0001_pre_a", *commands)])
    assert "x" in fresh["a"].index_information()
    assert set(Ledger(fresh).applied()) == {"0001_pre_a"}


class TestOldCode:
    def test_unknown_steps_are_a_warning(self, fresh: Db) -> None:
        up(fresh, [step("0001_pre_a"), step("0002_pre_newer")])
        assert up(fresh, [step("0001_pre_a")]).unknown == ("0002_pre_newer",)

    def test_unless_one_is_breaking_which_names_the_release(self, fresh: Db) -> None:
        up(fresh, [step("0001_pre_a"), step("0002_pre_newer", breaking="2.0")])
        with pytest.raises(Conflict, match=r"release 2\.0"):
            up(fresh, [step("0001_pre_a")])


class TestTwoAtOnce:
    def test_each_step_is_applied_once(self, fresh: Db) -> None:
        sent: list[str] = []

        def counted() -> list[Command]:
            sent.append("up")
            return [{"create": FACES}]

        steps = [dataclasses.replace(step("0001_pre_a"), up=counted)]
        threads = [threading.Thread(target=up, args=(fresh, steps)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sent == ["up"]
        assert set(list_indexes(fresh)) == {INDEX}

    def test_the_second_gives_up_with_a_sentence(self, fresh: Db) -> None:
        held = Leases(fresh).acquire(LEASE, Holder("elsewhere", 1, 1), 60)
        assert held is not None
        with (
            pytest.raises(LeaseLost, match="Another migration is running"),
            runner(fresh).lease(wait_s=0.1),
        ):
            pass

    def test_its_lease_is_renewed_again_after_a_database_that_was_away(
        self, fresh: Db, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renewed, real = threading.Event(), Lease.renew
        away = iter([True])

        def renew(lease: Lease) -> None:
            if next(away, False):
                raise DatabaseUnavailable("away")
            real(lease)
            renewed.set()

        monkeypatch.setattr(runner_module, "LEASE_S", 0.3)
        monkeypatch.setattr(Lease, "renew", renew)
        with runner(fresh).lease():
            assert renewed.wait(SECONDS)


class TestDrift:
    def changed(self, db: Db, **changes: Any) -> None:
        """Redefines the live index behind our back."""
        live = list_indexes(db)[INDEX].definition
        fields = [{**f, **changes} if f["type"] == "vector" else f for f in live["fields"]]
        definition = {"fields": [f for f in fields if f["path"] != "hidden"]}
        db.command({"updateSearchIndex": FACES, "name": INDEX, "definition": definition})

    def test_is_shown_as_a_diff_and_repaired_by_up_only(self, fresh: Db) -> None:
        up(fresh)
        runner(fresh).wait([INDEX], SECONDS)
        self.changed(fresh, quantization="scalar")
        (action,) = runner(fresh).plan().index_actions
        assert [line[0] for line in action.diff] == ["-", "+", "+"]
        assert any("scalar" in line for line in action.diff if line[0] == "-")
        assert any("hidden" in line for line in action.diff if line[0] == "+")
        assert action.rebuild
        assert next(iter(action.command)) == "updateSearchIndex"
        assert not runner(fresh).plan().empty, "status exits 1"
        up(fresh)
        assert runner(fresh).plan().empty

    def test_a_dropped_index_is_made_again(self, fresh: Db) -> None:
        up(fresh)
        runner(fresh).wait([INDEX], SECONDS)
        fresh.command({"dropSearchIndex": FACES, "name": INDEX})
        (action,) = runner(fresh).plan().index_actions
        assert next(iter(action.command)) == "createSearchIndexes"
        up(fresh)
        runner(fresh).wait([INDEX], SECONDS)

    def test_the_definition_never_depends_on_the_environment(self, fresh: Db) -> None:
        up(fresh)
        active = Store(fresh).active_model()
        (wanted,) = indexes.wanted(active)
        assert wanted.name == INDEX
        assert indexes.differences(wanted.definition, list_indexes(fresh)[INDEX].definition) == ()


def test_waiting_for_an_index_has_a_deadline(fresh: Db) -> None:
    up(fresh)
    with pytest.raises(DeadlineExceeded, match="not queryable within"):
        runner(fresh).wait(["no_such_index"], 0.2)


def test_waiting_for_an_index_that_failed_says_so_at_once(
    fresh: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(fresh)
    failed = {INDEX: IndexState(INDEX, "FAILED", False, {})}
    monkeypatch.setattr(runner_module, "list_indexes", lambda db: failed)
    with pytest.raises(Conflict, match="failed"):
        runner(fresh).wait([INDEX], 60)


def test_the_first_model_is_chosen_once(fresh: Db) -> None:
    up(fresh)
    runner(fresh).up(lambda: ("sface", "b2"))
    active = Store(fresh).active_model()
    assert active is not None
    assert (active.key, active.build, active.index) == (MODEL, "b1", INDEX)
    assert fresh[MIGRATIONS].count_documents({}) == 2
