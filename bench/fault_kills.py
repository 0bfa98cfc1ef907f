"""A process ends at a named point of its work; nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from bench.fault_ledger import Client
from bench.fault_system import Wrong, eventually
from bench.fault_work import fresh_listing, nothing, person, some_work

KILL, TERM = signal.SIGKILL, signal.SIGTERM
MODELS = ("facenet128", "sface-int8", "facenet128-int8")
NOT_KNOWN = 59
"""The code of a server that does not know a command."""


def web_struck(point: str, number: signal.Signals, client: Client, chance: random.Random) -> None:
    """The web process ends at a point of an upload, a naming, a deletion; then it starts again."""
    system = client.system
    with system.strike("web", point, number) as reached:
        for _ in range(6):
            some_work(client, chance)
            if not client.call("GET", "/healthz")[0]:
                break
            person(client, chance, waits=False)
            if not client.call("GET", "/healthz")[0]:
                break
        if not reached():
            raise Wrong(f"the point was not reached: {point}")
    eventually(lambda: not system.alive("web"), "the struck web process did not end", 60)
    del system.processes["web"]
    system.start_web()


def cancel_struck(
    point: str, number: signal.Signals, client: Client, chance: random.Random
) -> None:
    """The web process ends at a point of cancelling a job: it ends, cancelled or done."""
    system = client.system
    fresh_listing(client, chance)
    system.media_proxy.set("delay", seconds=0.5)
    try:
        job = client.start("backfill")
        eventually(lambda: bool(system.lanes()), "no lane ran", 120)
        with system.strike("web", point, number) as reached:
            client.call("POST", f"/v1/jobs/{job}/cancel")
            if not reached():
                raise Wrong(f"the point was not reached: {point}")
    finally:
        system.media_proxy.heal()
    eventually(lambda: not system.alive("web"), "the struck web process did not end", 60)
    del system.processes["web"]
    system.start_web()
    if job is None or client.wait(job)["state"] not in ("cancelled", "succeeded"):
        raise Wrong("the cancelled job came to no end")


def web_drained(client: Client, chance: random.Random) -> None:
    """kill -9 of the web process while it finishes what it had in hand after SIGTERM."""
    system = client.system
    working = threading.Thread(target=some_work, args=(client, chance))
    working.start()
    time.sleep(chance.uniform(0.0, 0.1))
    process = system.processes.pop("web")
    process.send_signal(TERM)
    time.sleep(chance.uniform(0.0, 0.3))
    process.kill()
    process.wait()
    working.join()
    system.start_web()


def lane_struck(
    point: str,
    number: signal.Signals,
    client: Client,
    chance: random.Random,
    count: int = 2,
    delay: float = 0.0,
    whom: str = "self",
    media_pause: float = 0.0,
) -> None:
    """The process that runs a reconcile ends at a point; the worker takes the job up again.

    `media_pause` slows the CMS down by so much, for points that come late.
    """
    system = client.system
    fresh_listing(client, chance)
    if media_pause:
        system.media_proxy.set("delay", seconds=media_pause)
    try:
        with system.strike("work", point, number, count, delay=delay, whom=whom) as reached:
            job = client.start("backfill")
            if job is None:
                raise Wrong("a backfill could not be started")
            eventually(reached, f"the point was not reached: {point}", 120)
    finally:
        system.media_proxy.heal()
    _succeeds(client, job)


def lane_struck_before_8(
    point: str, number: signal.Signals, client: Client, chance: random.Random
) -> None:
    """As `lane_struck`, on a database that writes an item in several commands, as before 8.0."""
    admin = client.system.client.admin
    fault = {"failCommands": ["bulkWrite"], "errorCode": NOT_KNOWN}
    admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fault)
    try:
        lane_struck(point, number, client, chance, count=1)
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")


def lane_downloading(number: signal.Signals, client: Client, chance: random.Random) -> None:
    """The process that runs a reconcile ends while pictures arrive byte by byte."""
    system = client.system
    fresh_listing(client, chance)
    system.media_proxy.set("drip", seconds=0.05)
    try:
        struck = system.media_proxy.struck
        job = client.start("backfill")
        eventually(lambda: system.media_proxy.struck > struck + 2, "nothing was fetched", 120)
        for lane in system.lanes():
            lane.send_signal(number)
    finally:
        system.media_proxy.heal()
    _succeeds(client, job)


def lane_drained(client: Client, chance: random.Random) -> None:
    """kill -9 of the worker and its children while they finish after SIGTERM; a new one starts."""
    system = client.system
    fresh_listing(client, chance)
    job = client.start("backfill")
    eventually(lambda: bool(system.lanes()), "no lane ran", 120)
    time.sleep(chance.uniform(0.5, 1.5))
    worker = system.processes.pop("worker")
    lanes = psutil.Process(worker.pid).children()
    worker.send_signal(TERM)
    time.sleep(chance.uniform(0.0, 0.4))
    for pid in (worker.pid, *(lane.pid for lane in lanes)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, KILL)
    worker.wait()
    system.start_worker()
    _succeeds(client, job)


def _succeeds(client: Client, job: str | None) -> dict[str, Any]:
    """The job, which succeeded; then the worker's children, asked to end, do so in order.

    After each that crashed the worker waits longer, up to a minute: rows that come one after the
    other would all wait for what happened before them.
    """
    if job is None:
        raise Wrong("a job could not be started")
    ended = client.wait(job, 180)
    if ended["state"] != "succeeded":
        raise Wrong(f"the job {ended['state']}: {ended.get('last_error')}")
    lanes = client.system.lanes()
    for lane in lanes:
        lane.terminate()
    psutil.wait_procs(lanes, 20)
    return ended


def erase_struck(
    point: str, number: signal.Signals, client: Client, chance: random.Random, count: int = 1
) -> None:
    """The process that erases a person ends at a point; the erasure is finished and proved."""
    key, photo = f"erase-{len(client.items)}", chance.choice(sorted(client.photos))
    if not client.put(key, photo) or not client.name(f"s-{key}", key):
        raise Wrong("a face could not be named")
    with client.system.strike("work", point, number, count) as reached:
        job = client.erase(f"s-{key}")
        if job is None:
            raise Wrong("an erasure could not be started")
        eventually(reached, f"the point was not reached: {point}", 90)
    if _succeeds(client, job)["result"]["state"] != "verified":
        raise Wrong("the erasure is not proved")
    client.put(key, photo)


def collection_struck(
    point: str, number: signal.Signals, client: Client, chance: random.Random
) -> None:
    """The process that empties a collection ends at a point: the collection goes all the same."""
    name = f"c-{chance.randrange(1_000_000)}"
    if client.call("POST", "/v1/collections", json={"collection": name})[0] != 201:
        raise Wrong("a collection could not be created")
    for place in range(3):
        data = client.photos[chance.choice(sorted(client.photos))]
        url = f"/v1/collections/{name}/media/{place}"
        if client.call("PUT", url, files={"image": ("p.jpg", data)})[0] != 201:
            raise Wrong("an upload failed without a fault")
    with client.system.strike("work", point, number) as reached:
        status, body = client.call("DELETE", f"/v1/collections/{name}")
        if status != 202:
            raise Wrong(f"the deletion was answered {status}")
        eventually(reached, f"the point was not reached: {point}", 90)
    if client.call("GET", f"/v1/collections/{name}")[0] != 404:
        raise Wrong("a deleted collection shows")
    _succeeds(client, body["job_id"])
    for where in ("faces", "media", "crops"):
        if client.system.db[f"likeness_{where}"].count_documents({"collection": name}):
            raise Wrong(f"{where} of a deleted collection are left")


def migration_struck(
    point: str, number: signal.Signals, client: Client, chance: random.Random
) -> None:
    """`migrations up` of an empty database ends at a point, then runs twice at once."""
    with another_database(client, chance) as name:
        _struck(client, point, number, ["up"], name)
        some_work(client, chance)
        run = client.system.run
        threads = [
            threading.Thread(
                target=run,
                args=("migrations", "up"),
                kwargs={"check": False, "MONGODB_DATABASE": name},
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run("migrations", "up", "--wait", MONGODB_DATABASE=name)
        run("migrations", "status", MONGODB_DATABASE=name)


@contextlib.contextmanager
def another_database(client: Client, chance: random.Random) -> Iterator[str]:
    """The name of a database that is dropped afterwards."""
    name = f"{client.system.db.name}-{chance.randrange(1_000_000)}"
    try:
        yield name
    finally:
        client.system.client.drop_database(name)


def model_struck(
    point: str,
    number: signal.Signals,
    client: Client,
    chance: random.Random,
    role: str = "migrations",
    delay: float = 0.0,
) -> None:
    """The switch to another model ends at a point, under work; the same command again ends it.

    `role` is whose point it is: that of the command, or of the worker that embeds for it.
    """
    system = client.system
    nothing(client, chance)
    there = next(key for key in MODELS if key != system.active_model())
    _struck(client, point, number, ["model", there], role=role, delay=delay)
    some_work(client, chance)
    for step in (there, "prune"):
        _under_work(client, chance, step)
    if system.active_model() != there:
        raise Wrong(f"after the switch to {there} the active model is {system.active_model()}")


def prune_struck(point: str, number: signal.Signals, client: Client, chance: random.Random) -> None:
    """A switch goes there and back; dropping the other model ends at a point, and ends later."""
    nothing(client, chance)
    active = client.system.active_model()
    there = next(key for key in MODELS if key != active)
    _under_work(client, chance, there)
    _under_work(client, chance, active)
    _struck(client, point, number, ["model", "prune"])
    _under_work(client, chance, "prune")


def _struck(
    client: Client,
    point: str,
    number: signal.Signals,
    argv: list[str],
    database: str | None = None,
    role: str = "migrations",
    delay: float = 0.0,
) -> None:
    database = database or client.system.db.name
    with client.system.strike(role, point, number, delay=delay) as reached:
        client.system.run("migrations", *argv, check=False, MONGODB_DATABASE=database)
        if not reached():
            raise Wrong(f"the point was not reached: {point}")


def _under_work(client: Client, chance: random.Random, step: str) -> None:
    """`migrations model STEP` while clients work. Raises Wrong when it fails."""
    said: list[BaseException] = []

    def run() -> None:
        try:
            client.system.run("migrations", "model", step)
        except (Wrong, OSError) as error:
            said.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        some_work(client, chance)
        time.sleep(0.2)
    thread.join()
    if said:
        raise Wrong(f"model {step}: {said[0]}")
