"""Searches by photo while the worker inside the web process indexes, beside searches without."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.dyno_load import Client
from bench.dynos import free_port
from bench.index_setup import Bench, fill, prepared
from bench.report import Row, say
from faces import processes

KEY = "bench-key-that-only-this-run-knows-0123456789"
INDEXED = 300
"""Photos that are there to be found; a backfill of so many more than fit in the time follows."""
MORE = 6_000
SECONDS = 20.0
PAUSE_S = 0.1
"""Between two searches of the one visitor."""
START_S = 60.0


def rows() -> Iterator[Row]:
    """p95 without a backfill, with one in the embedded worker, and what the backfill then does."""
    with prepared() as bench:
        fill(bench.folder, 0, INDEXED)
        port = free_port()
        web = bench.start(
            *("app", "serve", "--workers", "1"),
            **bench.source(),
            API_KEY=KEY,
            INDEXER_EMBEDDED="true",
            FORWARDED_ALLOW_IPS="*",
            PORT=str(port),
        )
        try:
            yield from _measured(bench, web, Client(port, KEY))
        finally:
            processes.stop([web], grace=20)


def _measured(bench: Bench, web: subprocess.Popen[bytes], client: Client) -> Iterator[Row]:
    client.wait_for("/readyz", START_S, web)
    say(f"index: {INDEXED} previews by the worker in the web process")
    client.wait_for_job(client.start_backfill(), 120)
    photos = sorted(bench.folder.iterdir())[:50]
    _searches(client, photos, 3.0)
    say("index: searches by photo with nothing else to do")
    quiet = _searches(client, photos, SECONDS)
    fill(bench.folder, INDEXED, INDEXED + MORE)
    job = client.start_backfill()
    time.sleep(5)
    say("index: searches by photo during a backfill")
    before = client.job(job)
    busy = _searches(client, photos, SECONDS)
    after = client.job(job)
    if after["state"] != "running":
        raise RuntimeError(f"the backfill is {after['state']} and not running")
    rate = (after["done"] - before["done"]) / SECONDS
    yield Row("search by photo, p95, nothing else", round(quiet, 1), "ms")
    yield Row(
        "search by photo, p95, backfill in the same dyno",
        round(busy, 1),
        "ms",
        limit=round(quiet, 1),
        limit_name="without",
        note=f"while {rate:.0f} photos/s are indexed",
    )


def _searches(client: Client, photos: list[Path], seconds: float) -> float:
    """The 95th percentile in milliseconds of one visitor's searches."""
    took: list[float] = []
    end = time.monotonic() + seconds
    wait = threading.Event()
    while time.monotonic() < end:
        photo = photos[len(took) % len(photos)].read_bytes()
        took.append(1000 * client.search(photo))
        wait.wait(PAUSE_S)
    return float(np.percentile(took, 95))
