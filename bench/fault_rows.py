"""The rows of `make faults`: every fault by name."""

from __future__ import annotations

import functools
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import fault_scenarios as acts
from bench.fault_ledger import Client
from bench.fault_proxy import Kind
from bench.fault_scenarios import KILL, TERM

Act = Callable[[Client, random.Random], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row: its name, and what is done while it holds."""

    name: str
    act: Act
    quick: bool = True


def _net(name: str, kind: Kind, seconds: float, quick: bool = True, **how: float) -> Scenario:
    def act(client: Client, chance: random.Random) -> None:
        acts.network(kind, seconds, client, chance, **how)

    return Scenario(name, act, quick)


def _media(name: str, kind: Kind, count: int = 0, quick: bool = True) -> Scenario:
    return Scenario(name, functools.partial(acts.media_fault, kind, count=count), quick)


def _web(point: str, number: signal.Signals = KILL, quick: bool = True) -> Scenario:
    return Scenario(
        f"web: {number.name} {point}", functools.partial(acts.web_struck, point, number), quick
    )


def _lane(
    point: str, number: signal.Signals = KILL, quick: bool = True, count: int = 2
) -> Scenario:
    act = functools.partial(acts.lane_struck, point, number, count=count)
    return Scenario(f"index: {number.name} {point}", act, quick)


def _erase(point: str, number: signal.Signals = KILL, quick: bool = True) -> Scenario:
    return Scenario(
        f"erase: {number.name} {point}", functools.partial(acts.erase_struck, point, number), quick
    )


def _model(point: str, quick: bool = True) -> Scenario:
    return Scenario(f"model: SIGKILL {point}", functools.partial(acts.model_struck, point), quick)


def _fail(name: str, commands: Sequence[str], quick: bool = True, **data: object) -> Scenario:
    return Scenario(
        f"failCommand: {name}", functools.partial(acts.fail_command, commands, data), quick
    )


SCENARIOS = (
    Scenario("no fault", acts.nothing),
    Scenario("database: connections reset again and again", acts.cuts),
    _net("database: every chunk 0.3 s late", "delay", 6, pause=0.3),
    _net("database: answers lost (half-open)", "half_open", 8),
    _net("database: silent, then all of it late (black hole)", "black_hole", 8),
    _net("database: reset after 4 kB of answers", "reset_after", 6, count=4096),
    _net("database: refuses connections for a minute", "refuse", 60, quick=False),
    _net("database: silent for a minute", "black_hole", 60, quick=False),
    _media("media: pictures cut after 20 kB", "reset_after", 20_000),
    _media("media: refuses connections", "refuse"),
    _media("media: silent", "black_hole", quick=False),
    _media("media: byte by byte", "drip", quick=False),
    Scenario("engine: kill -9", acts.engine_killed),
    _web("before commitTransaction"),
    _web("after commitTransaction"),
    _web("after insert likeness_jobs"),
    _web("after faces.pipeline:Pipeline.analyse", TERM),
    _lane("after indexer.sources.media:MediaReader.read"),
    _lane("after faces.pipeline:Pipeline.analyse"),
    _lane("before commitTransaction"),
    _lane("after commitTransaction"),
    _lane("after faces.pipeline:Pipeline.analyse", TERM),
    Scenario("worker: kill -9 of it and its children", functools.partial(acts.worker_killed, KILL)),
    Scenario("worker: SIGTERM", functools.partial(acts.worker_killed, TERM)),
    Scenario("worker: the lease's holder paused, another takes over", acts.holder_paused),
    _lane("after findAndModify likeness_jobs", count=1),
    _lane("after findAndModify likeness_leases", count=1),
    _lane("before findAndModify likeness_jobs", count=3),
    _lane("after update likeness_media", count=1, quick=False),
    Scenario("job: cancelled when its process was killed", acts.cancelled),
    Scenario("worker: a second one, its clock an hour ahead", acts.skewed_worker),
    Scenario(
        "collection: SIGKILL after its faces went",
        functools.partial(acts.collection_struck, "after delete likeness_faces", 1),
    ),
    Scenario(
        "collection: SIGKILL before it goes",
        functools.partial(acts.collection_struck, "before delete likeness_collections", 1),
    ),
    _erase("before commitTransaction"),
    _erase("after commitTransaction"),
    _erase("before delete likeness_subjects"),
    _erase("after delete likeness_subjects"),
    _fail("the node steps down", ["insert", "update", "find", "commitTransaction"], errorCode=189),
    _fail("connection closed", ["find", "insert", "aggregate", "update"], closeConnection=True),
    _fail(
        "every answer 7 s late",
        ["find", "insert", "update", "commitTransaction", "bulkWrite"],
        blockConnection=True,
        blockTimeMS=7000,
    ),
    _fail(
        "no majority in time",
        ["commitTransaction", "insert", "update"],
        writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"},
    ),
    Scenario(
        "migrations: kill -9 in the middle",
        functools.partial(acts.migration_struck, "after find likeness_migrations"),
    ),
    _model("after createSearchIndexes likeness_faces"),
    _model("before update likeness_models"),
)
