"""Faults of the network, of processes as a whole and of clocks, under work."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

from bench.fault_ledger import Client
from bench.fault_proxy import Kind, Proxy
from bench.fault_system import Wrong, eventually
from bench.fault_work import fresh_listing, other_listing, person, some_work

TERM = signal.SIGTERM


def network(
    kind: Kind, seconds: float, client: Client, chance: random.Random, **how: float
) -> None:
    """Work while the way to the database is bad, then after it."""
    proxy = client.system.database_proxy
    other_listing(client, chance)
    client.start("backfill")
    until, struck = time.monotonic() + seconds, proxy.struck
    proxy.set(kind, seconds=how.get("pause", 0.0), count=int(how.get("count", 0)))
    try:
        while time.monotonic() < until:
            some_work(client, chance)
            time.sleep(0.2)
    finally:
        proxy.heal()
    if proxy.struck == struck:
        raise Wrong("the fault met no traffic: this row shows nothing")


def cuts(client: Client, chance: random.Random) -> None:
    """Every connection to the database is reset again and again."""
    other_listing(client, chance)
    client.start("backfill")
    with _cutting(client.system.database_proxy, chance):
        until = time.monotonic() + 8
        while time.monotonic() < until:
            some_work(client, chance)


@contextlib.contextmanager
def _cutting(proxy: Proxy, chance: random.Random) -> Iterator[None]:
    done = threading.Event()

    def cutting() -> None:
        while not done.wait(chance.uniform(0.05, 0.6)):
            proxy.cut()

    thread = threading.Thread(target=cutting)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def step_down(client: Client, chance: random.Random) -> None:
    """The engine stops taking writes for 8 s and says that it is a secondary, as a real node does
    between two elections."""
    other_listing(client, chance)
    client.start("backfill")
    client.system.client.admin.command("replSetStepDown", 8, force=True)
    until = time.monotonic() + 8
    while time.monotonic() < until:
        some_work(client, chance)
        time.sleep(0.2)


def media_fault(
    kind: Kind, client: Client, chance: random.Random, count: int = 0, seconds: float = 4
) -> None:
    """A reconcile while the way to the CMS is bad: nothing is deleted for it."""
    proxy = client.system.media_proxy
    with _judged(client, chance, counted=kind != "refuse") as begin:
        proxy.set(kind, count=count, seconds=0.05)
        try:
            begin()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                some_work(client, chance)
        finally:
            proxy.heal()


def media_cuts(client: Client, chance: random.Random) -> None:
    """Every connection to the CMS is reset again and again."""
    with _judged(client, chance) as begin, _cutting(client.system.media_proxy, chance):
        begin()
        time.sleep(6)


@contextlib.contextmanager
def _judged(
    client: Client, chance: random.Random, *, counted: bool = True
) -> Iterator[Callable[[], object]]:
    """Gives what starts the reconcile; afterwards looks at what became of the CMS's items.

    `counted`: the proxy can tell whether the fault met traffic.
    """
    system = client.system
    before = {row["media_id"] for row in system.db.likeness_media.find({"source": "cms"})}
    fresh_listing(client, chance)
    struck = system.media_proxy.struck
    jobs: list[str | None] = []
    yield lambda: jobs.append(client.start("backfill"))
    if counted and system.media_proxy.struck == struck:
        raise Wrong("the fault met no traffic: this row shows nothing")
    for job in filter(None, jobs):
        client.wait(job, 180)
    gone = system.db.likeness_media.count_documents(
        {"source": "cms", "state": "gone", "media_id": {"$in": sorted(before)}}
    )
    if gone > len(before - set(system.listed)):
        raise Wrong(f"{gone} items were deleted because the CMS could not be read")
    eventually(lambda: _nothing_failed(client), "failed pictures were not tried again", 150, 1.0)


def _nothing_failed(client: Client) -> bool:
    client.backfill()
    return not client.system.db.likeness_media.count_documents(
        {"source": "cms", "state": {"$in": ["failed", "pending"]}}
    )


def worker_killed(number: signal.Signals, client: Client, chance: random.Random) -> None:
    """The worker ends with its children in the middle of a reconcile; then it starts again."""
    system = client.system
    fresh_listing(client, chance)
    client.start("backfill")
    eventually(lambda: bool(system.lanes()), "no lane ran", 120)
    time.sleep(chance.uniform(0.0, 2.0))
    system.kill("worker", number)
    some_work(client, chance)
    system.start_worker()


def engine_killed(client: Client, chance: random.Random) -> None:
    """kill -9 of the database engine in the middle of everything."""
    other_listing(client, chance)
    client.start("backfill")
    client.system.kill_engine()
    for _ in range(3):
        some_work(client, chance)
        time.sleep(0.5)


def holder_paused(client: Client, chance: random.Random) -> None:
    """SIGSTOP of the process that holds the lease until another worker has finished its work."""
    system = client.system
    fresh_listing(client, chance)
    point = "after faces.pipeline:Pipeline.analyse"
    with system.strike("work", point, signal.SIGSTOP, 2) as reached:
        job = client.start("backfill")
        eventually(reached, "no lane ran", 120)
    paused = [lane.pid for lane in system.lanes() if lane.status() == "stopped"]
    try:
        system.start_worker("second")
        if job is not None:
            client.wait(job, 180)
        some_work(client, chance)
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
    if not paused:
        raise Wrong("no lane was found paused")
    time.sleep(3)
    system.kill("second", TERM)


def skewed_worker(client: Client, chance: random.Random) -> None:
    """A second worker whose clock is an hour ahead beside the first; then it works alone."""
    system = client.system
    system.start_worker("second", ahead_s=3600)
    fresh_listing(client, chance)
    client.backfill()
    person(client, chance)
    fresh_listing(client, chance)
    job = client.start("backfill")
    system.kill("worker")
    if job is not None:
        client.wait(job, 180)
    person(client, chance)
    system.start_worker()
    fresh_listing(client, chance)
    client.backfill()
    system.kill("second", TERM)


def cancelled(client: Client, chance: random.Random) -> None:
    """A reconcile is cancelled when its process was killed: it ends, and another one runs."""
    fresh_listing(client, chance)
    with client.system.strike("work", "after indexer.sources.media:MediaReader.read") as reached:
        job = client.start("backfill")
        eventually(reached, "no picture was fetched", 60)
    if job is not None:
        client.call("POST", f"/v1/jobs/{job}/cancel")
        state = client.wait(job)["state"]
        if state not in ("cancelled", "succeeded"):
            raise Wrong(f"the cancelled job {state}")
