"""The rows of `make faults`: every fault by name."""

from __future__ import annotations

import functools
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import fault_commands as commands
from bench import fault_kills as kills
from bench import fault_models as models
from bench import fault_scenarios as acts
from bench import fault_work as work
from bench.fault_kills import KILL, TERM
from bench.fault_ledger import Client
from bench.fault_proxy import Kind

Act = Callable[[Client, random.Random], None]
ANALYSE = "after faces.pipeline:Pipeline.analyse"
READ = "after indexer.sources.media:MediaReader.read"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row: its name, and what is done while it holds. One that is not `quick` takes minutes."""

    name: str
    act: Act
    quick: bool = True


def _net(name: str, kind: Kind, seconds: float, quick: bool = True, **how: float) -> Scenario:
    def act(client: Client, chance: random.Random) -> None:
        acts.network(kind, seconds, client, chance, **how)

    return Scenario(f"database: {name}", act, quick)


def _media(
    name: str, kind: Kind, count: int = 0, quick: bool = True, seconds: float = 4
) -> Scenario:
    act = functools.partial(acts.media_fault, kind, count=count, seconds=seconds)
    return Scenario(f"media: {name}", act, quick)


def _both(part: str, point: str, act: Callable[..., None], **how: object) -> Iterator[Scenario]:
    """The row of a point, once for kill -9 and once for SIGTERM."""
    for number in (KILL, TERM):
        yield Scenario(f"{part}: {number.name} {point}", functools.partial(act, number, **how))


def _at(
    part: str, point: str, strike: Callable[..., None], name: str = "", **how: object
) -> Iterator[Scenario]:
    def act(number: signal.Signals, client: Client, chance: random.Random, **how: object) -> None:
        strike(point, number, client, chance, **how)

    return _both(part, name or point, act, **how)


def _fail(name: str, failing: Sequence[str], **data: object) -> Scenario:
    return Scenario(f"failCommand: {name}", functools.partial(commands.several_fail, failing, data))


_web = functools.partial(_at, "web", strike=kills.web_struck)
_index = functools.partial(_at, "index", strike=kills.lane_struck)
_index_before_8 = functools.partial(_at, "index", strike=kills.lane_struck_before_8)
_cancel = functools.partial(_at, "job", strike=kills.cancel_struck)
_erase = functools.partial(_at, "erase", strike=kills.erase_struck)
_collection = functools.partial(_at, "collection", strike=kills.collection_struck)
_migrations = functools.partial(_at, "migrations", strike=kills.migration_struck)
_model = functools.partial(_at, "model", strike=kills.model_struck)
_fetch = functools.partial(_at, "fetch", strike=models.fetch_struck)

SCENARIOS = (
    Scenario("no fault", work.nothing),
    Scenario("database: connections reset again and again", acts.cuts),
    _net("every chunk 0.3 s late", "delay", 6, pause=0.3),
    _net("answers lost (half-open)", "half_open", 8),
    _net("silent, then all of it late (black hole)", "black_hole", 8),
    _net("reset after 4 kB of answers", "reset_after", 6, count=4096),
    _net("refuses connections for a minute", "refuse", 60, quick=False),
    _net("silent for a minute", "black_hole", 60, quick=False),
    Scenario("media: connections reset again and again", acts.media_cuts),
    _media("pictures cut after 20 kB", "reset_after", 20_000),
    _media("refuses connections", "refuse"),
    _media("answers lost (half-open)", "half_open", quick=False),
    _media("silent", "black_hole", quick=False),
    _media("byte by byte", "drip", quick=False),
    _media("refuses connections for a minute", "refuse", quick=False, seconds=60),
    Scenario("engine: kill -9", acts.engine_killed),
    Scenario("engine: steps down for 8 s", acts.step_down),
    *_web("before commitTransaction"),
    *_web("after commitTransaction", name="after commitTransaction (written, not answered)"),
    *_web("after insert likeness_jobs"),
    *_web(ANALYSE),
    *_web("after update likeness_tombstones", name="tombstone set, faces still there"),
    Scenario("web: SIGTERM, and kill -9 while it finishes", kills.web_drained),
    *_index("after indexer.sources.http:HttpSource._page", name="after the list", count=1),
    *_index("after findAndModify likeness_leases", name="after the lease", count=1),
    *_both("index", "in the middle of a download", kills.lane_downloading),
    *_index(READ, name="after a download"),
    *_index("before faces.decoder:Decoder._opened", name="before decoding"),
    *_index("before faces.child:Child.exchange", name="while decoding", delay=0.004),
    *_index("before faces.child:Child.exchange", name="of the decoder at work", delay=0.004,
            whom="decoder"),
    *_index("after faces.detect:Detector.detect", name="after detection"),
    *_index("before faces.encode:OnnxEncoder.encode", name="while embedding", delay=0.004),
    *_index(ANALYSE),
    *_index("before bulkWrite", count=1, name="before the first write"),
    *_index("after bulkWrite", count=1, name="all faces written, nothing committed"),
    *_index_before_8("after insert likeness_faces", name="between faces (database before 8.0)"),
    *_index_before_8("after update likeness_media", name="after update likeness_media"
                     " (database before 8.0)"),
    *_index("before commitTransaction", count=1),
    *_index("after commitTransaction", count=1, name="after commitTransaction (no checkpoint)"),
    *_index("after findAndModify likeness_jobs", count=1, name="after the claim of the job"),
    *_index("before findAndModify likeness_jobs", count=3, name="before the job is noted"),
    *_index("before faces.leases:Lease.release", count=1, name="checkpoint, lease not released"),
    *_index("before faces.leases:Lease.renew", count=1, media_pause=1.5, name="in the heartbeat"),
    Scenario("worker: kill -9 of it and its children", functools.partial(acts.worker_killed, KILL)),
    Scenario("worker: SIGTERM", functools.partial(acts.worker_killed, TERM)),
    Scenario("worker: SIGTERM, and kill -9 while it finishes", kills.lane_drained),
    Scenario("worker: the holder of the lease paused, another takes over", acts.holder_paused),
    Scenario("worker: a second one, its clock an hour ahead", acts.skewed_worker),
    Scenario("job: cancelled when its process was killed", acts.cancelled),
    *_cancel("after update likeness_jobs", name="cancelled, not answered"),
    *_collection("before faces.sweeps:_wait_for_writers", name="after its faces went"),
    *_collection("before delete likeness_collections", name="before it goes"),
    *_erase("after faces.erase:_entomb", name="tombstones set, faces still there"),
    # One transaction sets the tombstones, one finds none to set, the third removes the faces.
    *_erase("before commitTransaction", count=3),
    *_erase("before faces.erase:_drop_crops", name="after commitTransaction (faces gone)"),
    *_erase("before delete likeness_subjects"),
    *_erase("after delete likeness_subjects"),
    *_erase("before faces.erase:_audit", name="all gone, not on the audit log"),
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
    *(
        Scenario(
            f"command {command}: failed in every way",
            functools.partial(commands.every_fault, command),
            quick=False,
        )
        for command in commands.COMMANDS
    ),
    *_migrations("after find likeness_migrations", name="planned"),
    *_migrations("after createSearchIndexes likeness_faces", name="index created"),
    *_model("after faces.store_models:ModelStore.begin_switch", name="noted, nothing made"),
    *_model("after createSearchIndexes likeness_faces", name="index created"),
    *_model("after faces.pipeline:Pipeline.embed_known", role="work",
            name="in the middle of re-embedding"),
    *_model("before faces.jobs:Jobs.end", role="work", name="re-embedded, not recorded"),
    *_model("before migrations.runner:Runner.wait", delay=0.2, name="index building"),
    *_model("before faces.store_models:ModelStore.flip", name="index ready, not switched"),
    *_model("after faces.store_models:ModelStore.flip", name="switched, old one alive"),
    *_at("model", "after migrations.runner:Runner.send", kills.prune_struck,
         name="old one dropped, not recorded"),
    *_fetch("half", name="file half written"),
    *_fetch("made", name="file written, not in place"),
    Scenario("fetch: the disk of the models folder full", models.disk_full),
)  # fmt: skip
