"""`python -m bench load`: searches, uploads and a backfill at once, on loopback, for a while.

Every client waits for its answer before it sends again; a refusal (`busy`, `rate_limited`) is
counted and its `Retry-After` is kept, as a client should.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from bench.fault_system import System
from bench.report import Row, say, table
from bench.trees import pss_mib
from faces.settings import load

BASE = "/v1/collections/default"
REFUSED = ("busy", "rate_limited")


class Load:
    """Clients that run until told to stop, and what they saw."""

    def __init__(self, port: int, photos: Sequence[bytes]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.photos = photos
        self.stop = threading.Event()
        self.took: dict[str, list[float]] = {}
        self.codes: dict[str, Counter[str]] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, clients: int, act: Callable[[httpx2.Client, int], Any]) -> None:
        """Start clients that repeat `act`, which returns an answer."""
        self.took.setdefault(name, [])
        self.codes.setdefault(name, Counter())
        for number in range(clients):
            thread = threading.Thread(target=self._run, args=(name, number, act), daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Stop all clients and wait for their last answers."""
        self.stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, name: str, number: int, act: Callable[[httpx2.Client, int], Any]) -> None:
        turn = number
        with httpx2.Client(base_url=self.url, timeout=40, trust_env=False) as client:
            while not self.stop.is_set():
                began = time.monotonic()
                try:
                    answer = act(client, turn)
                except httpx2.TransportError as error:
                    self._count(name, type(error).__name__, None)
                    self.stop.wait(0.5)
                    continue
                finally:
                    turn += 100
                took = time.monotonic() - began
                if answer.is_success:
                    self._count(name, str(answer.status_code), took)
                    continue
                code = str(answer.json().get("code"))
                self._count(name, f"{answer.status_code} {code}", None)
                self.stop.wait(min(5.0, float(answer.headers.get("retry-after", 1))))

    def _count(self, name: str, code: str, took: float | None) -> None:
        with self._lock:
            self.codes[name][code] += 1
            if took is not None:
                self.took[name].append(took)


def main(argv: Sequence[str]) -> int:
    """Exit status 0 when nothing was answered 500 or not at all, and the backfill went on."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="searching clients (%(default)s)")
    given = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="likeness-load-"))
    system = System(folder / "system", proxied=False)
    try:
        say("load: starting the system")
        system.up()
        rows, wrong = _measure(system, given.seconds, given.clients)
    finally:
        system.down()
    print(table(rows))
    for line in wrong:
        print(f"bench: {line}", file=sys.stderr)
    if wrong:
        print(f"bench: the logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def _measure(system: System, seconds: float, clients: int) -> tuple[list[Row], list[str]]:
    photos = _photos()
    load = Load(system.port, list(photos.values()))
    chance = random.Random(1)
    files = [{"image": ("p.jpg", data)} for data in load.photos]

    def search(client: httpx2.Client, turn: int) -> Any:
        return client.post("/v1/search", files=files[turn % len(files)], data={"limit": "5"})

    def upload(client: httpx2.Client, turn: int) -> Any:
        # Bytes behind the end of a picture are ignored, and make it another picture.
        data = load.photos[turn % len(files)] + turn.to_bytes(8, "big")
        return client.put(f"{BASE}/media/load-{turn // 100 % 50}", files={"image": ("p.jpg", data)})

    def relist(number: int) -> None:
        names = sorted(photos)
        system.list({f"cms-{n}": names[(n + number) % len(names)] for n in range(200)}, photos)

    say(f"load: {clients} searching clients, 1 uploading, backfills, for {seconds:.0f} s")
    load.start("upload", 1, upload)
    time.sleep(2)
    load.start("search", clients, search)
    done, memory, began, turn = 0, [], time.monotonic(), 0
    with httpx2.Client(base_url=load.url, timeout=40, trust_env=False) as client:
        job = ""
        while (now := time.monotonic() - began) < seconds:
            web, worker = (pss_mib(system.processes[name].pid) for name in ("web", "worker"))
            memory.append((now, web, worker))
            if not job:
                relist(turn)
                turn += 1
                answer = client.post("/v1/jobs", json={"kind": "backfill"})
                job = answer.json().get("job_id", "") if answer.status_code == 202 else ""
            elif (state := client.get(f"/v1/jobs/{job}").json()).get("state") == "succeeded":
                done, job = done + int(state["done"] or 0), ""
            time.sleep(1 + chance.random() / 10)
        if job:
            done += int(client.get(f"/v1/jobs/{job}").json().get("done") or 0)
    load.join()
    return _rows(load, seconds, done, memory), _wrong(load, done)


def _rows(
    load: Load, seconds: float, done: int, memory: Sequence[tuple[float, float, float]]
) -> list[Row]:
    rows = []
    for name, took in load.took.items():
        refused = ", ".join(f"{n} x {code}" for code, n in sorted(load.codes[name].items()))
        rows.append(Row(f"{name}, answered", round(len(took) / seconds, 1), "/s", "higher",
                        note=refused))  # fmt: skip
        if len(took) > 1:
            cuts = statistics.quantiles(took, n=100, method="inclusive")
            rows += [
                Row(
                    f"{name}, p{p}",
                    round(cuts[p - 1] * 1000),
                    "ms",
                    goal=2000.0 if p == 99 else None,
                )
                for p in (50, 95, 99)
            ]
    rows.append(Row("backfill, items looked at", round(done / seconds, 1), "/s", "higher"))
    times = [at for at, *_ in memory]
    for number, name in ((1, "web"), (2, "worker")):
        sizes = [sample[number] for sample in memory]
        rows.append(Row(f"{name} memory, peak", round(max(sizes)), "MiB", goal=512.0))
        settled = [i for i, at in enumerate(times) if at > times[-1] / 3]
        if len(settled) > 10:
            slope = np.polyfit([times[i] for i in settled], [sizes[i] for i in settled], 1)[0]
            rows.append(Row(f"{name} memory, slope", round(float(slope) * 60, 2), "MiB/min"))
    return rows


def _wrong(load: Load, done: int) -> list[str]:
    found = []
    for name, codes in load.codes.items():
        bad = {code: n for code, n in codes.items()
               if not code.startswith("2") and not any(word in code for word in REFUSED)
               and "no_face" not in code}  # fmt: skip
        if bad:
            found.append(f"{name} was answered {bad}")
        if not load.took[name]:
            found.append(f"{name} was never answered")
    if not done:
        found.append("the backfill stood still")
    return found


def _photos() -> dict[str, bytes]:
    gallery = load().var_dir / "samples" / "gallery"
    files = sorted(path for path in gallery.rglob("*") if path.is_file())
    return {f"photo-{number}": path.read_bytes() for number, path in enumerate(files)}
