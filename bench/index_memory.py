"""What the worker's processes take of memory over a long run, and whether they grow."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from pymongo import MongoClient

from bench.index_setup import Bench, fill, prepared
from bench.report import Row, say
from bench.vitals import Series, Vitals
from faces import processes
from faces.records import Job
from faces.store import Store

PHOTOS = 10_000
SETTLED = 0.2
"""The share of a run that loads models and fills pools."""
GROWTH = 0.5
FIRST_S = 66.0
"""By then the worker has measured the index's lag, which loads what it then keeps."""
PATIENCE_S = 1200.0


def rows() -> Iterator[Row]:
    """A backfill of 10,000 previews by `indexer run`: parent, batch and decoder by themselves."""
    with prepared() as bench:
        worker = bench.start("indexer", "run", **bench.source())
        vitals = Vitals({"worker": worker.pid}, period=0.5)
        try:
            began, job = _backfill(bench)
        finally:
            vitals.close()
            processes.stop([worker], grace=15)
    assert job.finished_at is not None
    assert job.started_at is not None
    seconds = (job.finished_at - job.started_at).total_seconds()
    yield Row(f"indexing {job.done} previews by the worker", round(job.done / seconds, 1),
              "photos/s", "higher", goal=80.0)  # fmt: skip
    for name, series in sorted(vitals.series.items()):
        yield from _memory(name, series, began, seconds)


def _memory(name: str, series: Series, began: float, seconds: float) -> Iterator[Row]:
    goal = 400.0 if name == "worker, whole" else None
    note = f"{len(series.pids)} processes" if len(series.pids) > 1 else ""
    yield Row(f"{name}, memory at most", round(max(series.memory)), "MiB", goal=goal, note=note)
    kept = [
        (at, mib)
        for at, mib in zip(series.at, series.memory, strict=True)
        if began + SETTLED * seconds < at < began + seconds
    ]
    if len(kept) < 20:
        return
    times, sizes = zip(*kept, strict=True)
    growth = float(np.polyfit(times, sizes, 1)[0]) * seconds / (PHOTOS / 1000)
    yield Row(
        f"{name}, growth",
        round(growth, 3),
        "MiB/1000 photos",
        goal=GROWTH,
        note=f"{np.median(sizes[:10]):.0f} MiB to {np.median(sizes[-10:]):.0f}",
    )


def _backfill(bench: Bench) -> tuple[float, Job]:
    """A finished backfill of all photos, and after how many seconds it was asked for."""
    start = time.monotonic()
    say(f"index: `indexer run` measures its index for the first time, within {FIRST_S:.0f} s")
    time.sleep(FIRST_S)
    fill(bench.folder, 0, PHOTOS)
    say(f"index: {PHOTOS} previews by `indexer run`, watching memory")
    began = told = time.monotonic()
    with MongoClient[dict[str, object]](bench.env["MONGODB_URI"], tz_aware=True) as client:
        store = Store(client["likeness"])
        asked = store.jobs.enqueue("backfill", "default", {})
        while time.monotonic() - began < PATIENCE_S:
            time.sleep(0.5)
            job = store.jobs.get(asked)
            if job.state in ("failed", "cancelled"):
                raise RuntimeError(f"the backfill is {job.state}: {job.last_error}")
            if job.state == "succeeded":
                return began - start, job
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"index: {job.done} of {job.total} previews")
    raise RuntimeError("the backfill took too long")
