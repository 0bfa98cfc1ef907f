"""How fast photos are indexed, beside the bare pipeline, and how fast unchanged ones are passed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.index_setup import Bench, Cores, fill, prepared
from bench.report import Row, say
from faces.loading import AnyPipeline, load_pipeline
from faces.settings import load

PREVIEWS = 2_000
THREADS = 6
"""As many as the indexer gives a folder source."""
LEAST_SHARE = 0.9


def rows() -> Iterator[Row]:
    """The real command over new photos, half of the bare pipeline before and half after it, then
    the command twice over the same photos.

    Both the command and the bare pipeline load the models; the command's start, its connection and
    its end, which a run over nothing takes as well, count in its own figure but not in the share.
    """
    with prepared() as bench:
        say("index: `indexer once` over an empty folder")
        empty = min(_once(bench)[0] for _ in range(3))
        fill(bench.folder, 0, PREVIEWS)
        paths = sorted(bench.folder.iterdir())
        say(f"index: half of {PREVIEWS} previews through the bare pipeline ({bench.model})")
        began = time.monotonic()
        pipeline = load_pipeline(load(), bench.model)
        try:
            _bare(pipeline, paths[: PREVIEWS // 2])
            bare = time.monotonic() - began
            say(f"index: {PREVIEWS} previews with `indexer once`")
            seconds, cores = _once(bench)
            say("index: the other half through the bare pipeline")
            bare += _bare(pipeline, paths[PREVIEWS // 2 :])
        finally:
            pipeline.close()
        yield from _new(seconds, empty, bare, cores.seconds())
        yield from _unchanged(bench, empty)


def _new(seconds: float, empty: float, bare: float, used: dict[str, float]) -> Iterator[Row]:
    pure = PREVIEWS / bare
    yield Row("bare pipeline, previews", round(pure, 1), "photos/s", "higher")
    yield Row(
        f"indexing {PREVIEWS} previews",
        round(PREVIEWS / seconds, 1),
        "photos/s",
        "higher",
        goal=80.0,
        note="from the command's start to its end",
    )
    rate = PREVIEWS / (seconds - empty)
    yield Row(
        "indexing, without start and end",
        round(rate, 1),
        "photos/s",
        "higher",
        limit=round(pure, 1),
        limit_name="bare pipeline",
        goal=round(LEAST_SHARE * pure, 1),
        note=f"a run over nothing takes {empty:.2f} s",
    )
    for doing, spent in sorted(used.items()):
        yield Row(f"processor time a photo, {doing}", round(1000 * spent / PREVIEWS, 2), "ms")
    yield Row("cores in use while indexing", round(sum(used.values()) / seconds, 2), "", "higher")


def _unchanged(bench: Bench, empty: float) -> Iterator[Row]:
    say("index: the same previews again, twice")
    seconds = min(_once(bench)[0] for _ in range(2))
    yield Row(
        "second run, nothing changed",
        round(PREVIEWS / seconds),
        "items/s",
        "higher",
        goal=2000.0,
        note=f"{seconds:.2f} s from the command's start to its end",
    )
    yield Row(
        "second run, without start and end",
        round(PREVIEWS / max(seconds - empty, 0.05)),
        "items/s",
        "higher",
        note=f"a run over nothing takes {empty:.2f} s",
    )


def _bare(pipeline: AnyPipeline, paths: Sequence[Path]) -> float:
    """Seconds of the pipeline alone, fed by as many threads as the indexer uses."""
    with ThreadPoolExecutor(THREADS) as threads:
        began = time.monotonic()
        for _ in threads.map(lambda path: pipeline.analyse(path.read_bytes()), paths):
            pass
        return time.monotonic() - began


def _once(bench: Bench) -> tuple[float, Cores]:
    """Seconds from the start of `indexer once` to its end, and who used the cores meanwhile."""
    cores = Cores()
    cores.look(bench.atlas)
    began = time.monotonic()
    child = bench.start("indexer", "once", "--folder", str(bench.folder))
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            cores.look(bench.atlas, child.pid)

    watching = threading.Thread(target=watch)
    watching.start()
    ended = child.wait()
    seconds = time.monotonic() - began
    over.set()
    watching.join()
    cores.look(bench.atlas)
    if ended:
        raise RuntimeError(f"the indexer ended with status {ended}")
    return seconds, cores
