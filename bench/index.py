"""Indexing: photos a second against the bare pipeline, unchanged items a second, memory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.report import Row, say
from bench.trees import rss_mib
from faces.loading import load_pipeline
from faces.models.files import recorded_choice
from faces.settings import load

PREVIEWS, LONG_RUN = 2_000, 10_000
THREADS = 6
"""As many as the indexer gives a folder source."""
_SUMMARY = re.compile(r"(\d+) pictures in ((?:\d+ h )?(?:\d+ min )?)([\d.]+)( s)?")


def rows() -> Iterator[Row]:
    """The sample photos, made many by a comment behind each, through the real command."""
    settings = load()
    gallery = settings.var_dir / "samples" / "gallery"
    photos = [path.read_bytes() for path in sorted(gallery.rglob("*")) if path.is_file()]
    model = recorded_choice(settings.models_path) or "facenet128"
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        folder = Path(name) / "photos"
        _fill(folder, photos, 0, PREVIEWS)
        say(f"index: {PREVIEWS} previews through the bare pipeline ({model})")
        bare = _bare(folder, model)
        yield Row("bare pipeline, previews", round(bare, 1), "photos/s", "higher")
        with _atlas(Path(name) / "atlas") as uri:
            env = os.environ | {"MONGODB_URI": uri, "FACE_MODEL": model}
            subprocess.run([sys.executable, "-m", "migrations", "up"], env=env, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            say(f"index: {PREVIEWS} previews with `indexer once`")
            seconds, _ = _once(folder, env)
            yield Row(
                f"indexing {PREVIEWS} previews",
                round(PREVIEWS / seconds, 1),
                "photos/s",
                "higher",
                limit=round(bare, 1),
                limit_name="bare pipeline",
                goal=80.0,
            )
            seconds, _ = _once(folder, env)
            yield Row(
                "second run, nothing changed",
                round(PREVIEWS / seconds),
                "items/s",
                "higher",
                goal=2000.0,
            )
            say(f"index: on to {LONG_RUN} previews, watching memory")
            _fill(folder, photos, PREVIEWS, LONG_RUN)
            seconds, memory = _once(folder, env)
            yield from _memory(memory, seconds)


def _memory(samples: list[tuple[float, float]], seconds: float) -> Iterator[Row]:
    # The first fifth loads models and fills pools.
    settled = [(at, mib) for at, mib in samples if at > samples[-1][0] * 0.2]
    times, sizes = zip(*settled, strict=True)
    slope = float(np.polyfit(times, sizes, 1)[0])
    per_thousand = slope * seconds / ((LONG_RUN - PREVIEWS) / 1000)
    yield Row("indexer memory, peak", round(max(sizes)), "MiB", goal=400.0)
    yield Row(
        "indexer memory, growth",
        round(per_thousand, 2),
        "MiB/1000 photos",
        goal=0.5,
        note=f"over {LONG_RUN - PREVIEWS} new photos",
    )


def _fill(folder: Path, photos: list[bytes], start: int, end: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(start, end):
        # Bytes behind the end of a picture are ignored, and make it another picture.
        data = photos[number % len(photos)] + number.to_bytes(4, "big")
        (folder / f"{number:06d}.jpg").write_bytes(data)


def _bare(folder: Path, model: str) -> float:
    """Photos a second of the pipeline alone, fed by as many threads as the indexer uses."""
    pipeline = load_pipeline(load(), model)
    paths = sorted(folder.iterdir())
    try:
        for path in paths[:8]:
            pipeline.analyse(path.read_bytes())
        with ThreadPoolExecutor(THREADS) as threads:
            began = time.monotonic()
            for _ in threads.map(lambda path: pipeline.analyse(path.read_bytes()), paths):
                pass
            return len(paths) / (time.monotonic() - began)
    finally:
        pipeline.close()


def _once(folder: Path, env: dict[str, str]) -> tuple[float, list[tuple[float, float]]]:
    """Seconds that the command itself reports, and its tree's memory over time."""
    command = [sys.executable, "-m", "indexer", "once", "--folder", str(folder)]
    memory = []
    began = time.monotonic()
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        while child.poll() is None:
            memory.append((time.monotonic() - began, rss_mib(child.pid)))
            time.sleep(0.1 if len(memory) < 100 else 1.0)
        assert child.stdout is not None
        said = child.stdout.read()
    if child.returncode:
        raise RuntimeError(f"the indexer ended with status {child.returncode}")
    found = _SUMMARY.search(said)
    assert found is not None, said
    return _seconds(found[2], float(found[3])), memory


def _seconds(larger: str, last: float) -> float:
    total = last
    for amount, unit in re.findall(r"(\d+) (h|min)", larger):
        total += int(amount) * {"h": 3600, "min": 60}[unit]
    return max(total, 0.05)


@contextlib.contextmanager
def _atlas(data: Path) -> Iterator[str]:
    """An embedded Atlas on an empty folder."""
    command = [sys.executable, "-m", "localatlas", "serve", "--data", str(data)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait(20)
        child.stdout.close()
        shutil.rmtree(data, ignore_errors=True)
