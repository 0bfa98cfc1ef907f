"""The faults: each a function that works through the client while something breaks."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.fault_ledger import Client
from bench.fault_proxy import Kind
from bench.fault_system import Wrong, eventually

KILL, TERM = signal.SIGKILL, signal.SIGTERM
OTHER_MODELS = ("sface-int8", "facenet128-int8")


def some_work(client: Client, chance: random.Random) -> None:
    """Uploads at once, then one repeated and one deleted."""
    photos = sorted(client.photos)
    keys = [f"own-{number}" for number in range(6)]
    chosen = [(key, chance.choice(photos)) for key in chance.sample(keys, 3)]
    with ThreadPoolExecutor(len(chosen)) as threads:
        list(threads.map(lambda pair: client.put(*pair), chosen))
    known = sorted(key for key in client.items if client.items[key].sure)
    if known:
        key = chance.choice(known)
        again = client.items[key].sure
        assert again is not None
        client.put(key, again)
        client.delete(chance.choice(known))


def other_listing(client: Client, chance: random.Random, size: int = 10) -> None:
    """The CMS holds other pictures than before, most of them the same."""
    photos = sorted(client.photos)
    listed = dict(client.system.listed)
    for _ in range(3):
        listed[f"cms-{chance.randrange(size)}"] = chance.choice(photos)
    if len(listed) > size // 2:
        del listed[chance.choice(sorted(listed))]
    client.system.list(listed, client.photos)


def fresh_listing(client: Client, chance: random.Random, size: int = 10) -> None:
    """The CMS holds another photo in every place: everything is fetched and embedded again."""
    photos = sorted(client.photos)
    listed = {}
    for number in range(size):
        key = f"cms-{number}"
        listed[key] = chance.choice([p for p in photos if p != client.system.listed.get(key)])
    client.system.list(listed, client.photos)


def nothing(client: Client, chance: random.Random) -> None:
    """Everything once, without a fault."""
    for key in ("own-0", "own-1", "own-2"):
        if not client.put(key, chance.choice(sorted(client.photos))):
            raise Wrong("an upload failed without a fault")
    some_work(client, chance)
    person(client, chance)
    fresh_listing(client, chance)
    client.backfill()


def person(client: Client, chance: random.Random) -> str | None:
    """Names a face, erases the person, and tries to bring the face back; the erasing job."""
    key = f"person-{len(client.items)}"
    photo = chance.choice(sorted(client.photos))
    subject = f"s-{key}"
    if not client.put(key, photo) or not client.name(subject, key):
        return None
    job = client.erase(subject)
    if job is not None:
        client.wait(job)
        client.put(key, photo)
    return job


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
    done = threading.Event()

    def cutting() -> None:
        while not done.wait(chance.uniform(0.05, 0.6)):
            client.system.database_proxy.cut()

    thread = threading.Thread(target=cutting)
    thread.start()
    try:
        until = time.monotonic() + 8
        while time.monotonic() < until:
            some_work(client, chance)
    finally:
        done.set()
        thread.join()


def media_fault(kind: Kind, client: Client, chance: random.Random, count: int = 0) -> None:
    """A reconcile while the way to the CMS is bad: nothing is deleted for it."""
    before = {row["media_id"] for row in client.system.db.likeness_media.find({"source": "cms"})}
    fresh_listing(client, chance)
    proxy = client.system.media_proxy
    struck = proxy.struck
    proxy.set(kind, count=count, seconds=0.05)
    try:
        job = client.start("backfill")
        time.sleep(4)
        some_work(client, chance)
    finally:
        proxy.heal()
    if proxy.struck == struck and kind != "refuse":
        raise Wrong("the fault met no traffic: this row shows nothing")
    if job is not None:
        client.wait(job, 120)
    gone = client.system.db.likeness_media.count_documents(
        {"source": "cms", "state": "gone", "media_id": {"$in": sorted(before)}}
    )
    if gone > len(before - set(client.system.listed)):
        raise Wrong(f"{gone} items were deleted because the CMS could not be read")
    eventually(lambda: _nothing_failed(client), "failed pictures were not tried again", 150, 1.0)


def _nothing_failed(client: Client) -> bool:
    client.backfill()
    return not client.system.db.likeness_media.count_documents(
        {"source": "cms", "state": {"$in": ["failed", "pending"]}}
    )


def web_struck(point: str, number: signal.Signals, client: Client, chance: random.Random) -> None:
    """The web process ends at a point of an upload, a naming, a deletion; then it starts again."""
    system = client.system
    with system.strike("web", point, number) as reached:
        for _ in range(6):
            some_work(client, chance)
            if not client.call("GET", "/healthz")[0]:
                break
            person(client, chance)
            if not client.call("GET", "/healthz")[0]:
                break
        if not reached():
            raise Wrong(f"the point was not reached: {point}")
    eventually(lambda: not system.alive("web"), "the struck web process did not end", 30)
    del system.processes["web"]
    system.start_web()


def lane_struck(
    point: str, number: signal.Signals, client: Client, chance: random.Random, count: int = 2
) -> None:
    """The process that runs a reconcile ends at a point; the worker takes the job up again."""
    fresh_listing(client, chance)
    with client.system.strike("work", point, number, count) as reached:
        job = client.start("backfill")
        if job is None:
            raise Wrong("a backfill could not be started")
        eventually(reached, f"the point was not reached: {point}", 60)
    ended = client.wait(job, 120)
    if ended["state"] != "succeeded":
        raise Wrong(f"the job {ended['state']}: {ended.get('last_error')}")


def erase_struck(point: str, number: signal.Signals, client: Client, chance: random.Random) -> None:
    """The process that erases a person ends at a point; the erasure is finished and proved."""
    key, photo = f"erase-{len(client.items)}", chance.choice(sorted(client.photos))
    if not client.put(key, photo) or not client.name(f"s-{key}", key):
        raise Wrong("a face could not be named")
    with client.system.strike("work", point, number) as reached:
        job = client.erase(f"s-{key}")
        if job is None:
            raise Wrong("an erasure could not be started")
        eventually(reached, f"the point was not reached: {point}", 30)
    ended = client.wait(job, 120)
    if ended["state"] != "succeeded" or ended["result"]["state"] != "verified":
        raise Wrong(f"the erasure {ended['state']}: {ended.get('last_error')}")
    client.put(key, photo)


def worker_killed(number: signal.Signals, client: Client, chance: random.Random) -> None:
    """The worker ends with its children in the middle of a reconcile; then it starts again."""
    fresh_listing(client, chance)
    client.start("backfill")
    time.sleep(chance.uniform(1.0, 3.0))
    system = client.system
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
        eventually(reached, "no lane ran", 60)
    paused = [lane.pid for lane in system.lanes() if lane.status() == "stopped"]
    try:
        system.start_worker("second")
        if job is not None:
            client.wait(job, 120)
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
        client.wait(job, 120)
    person(client, chance)
    system.start_worker()
    fresh_listing(client, chance)
    client.backfill()
    system.kill("second", TERM)


def collection_struck(point: str, count: int, client: Client, chance: random.Random) -> None:
    """The process that empties a collection ends at a point: the collection goes all the same."""
    name = f"c-{chance.randrange(1_000_000)}"
    if client.call("POST", "/v1/collections", json={"collection": name})[0] != 201:
        raise Wrong("a collection could not be created")
    for number in range(3):
        data = client.photos[chance.choice(sorted(client.photos))]
        url = f"/v1/collections/{name}/media/{number}"
        if client.call("PUT", url, files={"image": ("p.jpg", data)})[0] != 201:
            raise Wrong("an upload failed without a fault")
    with client.system.strike("work", point, KILL, count) as reached:
        status, body = client.call("DELETE", f"/v1/collections/{name}")
        if status != 202:
            raise Wrong(f"the deletion was answered {status}")
        eventually(reached, f"the point was not reached: {point}", 30)
    if client.call("GET", f"/v1/collections/{name}")[0] != 404:
        raise Wrong("a deleted collection shows")
    if client.wait(body["job_id"], 120)["state"] != "succeeded":
        raise Wrong("the collection was not deleted")
    for where in ("faces", "media", "crops"):
        if client.system.db[f"likeness_{where}"].count_documents({"collection": name}):
            raise Wrong(f"{where} of a deleted collection are left")


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


def fail_command(
    commands: Sequence[str], data: Mapping[str, object], client: Client, chance: random.Random
) -> None:
    """The engine fails commands by itself (failCommand), several times over."""
    admin = client.system.client.admin
    other_listing(client, chance)
    job = client.start("backfill")
    point = {
        "configureFailPoint": "failCommand",
        "mode": {"times": 6},
        "data": {"failCommands": list(commands), **data},
    }
    admin.command(point)
    try:
        for _ in range(2):
            some_work(client, chance)
        person(client, chance)
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    if job is not None:
        client.wait(job)


def migration_struck(point: str, client: Client, chance: random.Random) -> None:
    """`migrations up` ends at a point, runs twice at once, and changes nothing that serves."""
    system = client.system
    with system.strike("migrations", point) as reached:
        system.run("migrations", "up", check=False)
        if not reached():
            raise Wrong(f"the point was not reached: {point}")
    some_work(client, chance)
    threads = [
        threading.Thread(target=system.run, args=("migrations", "up"), kwargs={"check": False})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    system.run("migrations", "up")


def model_struck(point: str, client: Client, chance: random.Random) -> None:
    """The switch to another model ends at a point, under work; run again it goes there and back."""
    system = client.system
    there = next(key for key in OTHER_MODELS if key != system.model)
    with system.strike("migrations", point) as reached:
        system.run("migrations", "model", there, check=False)
        if not reached():
            raise Wrong(f"the point was not reached: {point}")
    some_work(client, chance)
    for step in (there, system.model, "prune"):
        said: list[BaseException] = []

        def run(step: str = step, said: list[BaseException] = said) -> None:
            try:
                system.run("migrations", "model", step)
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
        document = system.db.likeness_models.find_one({"_id": "active"})
        active = document["model"] if document else None
        if (active == there) != (step == there):
            raise Wrong(f"after {step} the active model is {active}")
