"""What the stand-in for Atlas costs: forwarding, searching, starting and remembering."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bson.binary import VECTOR_SUBTYPE, Binary
from numpy.typing import NDArray
from pymongo import MongoClient
from pymongo.operations import SearchIndexModel

from bench.report import Row, say

COUNT, DIMENSIONS, LIMIT = 100_000, 512, 10
BATCH = 2_000
COMMANDS = 2_000
ROUNDS, SEARCHES, PAUSE_S = 5, 6, 0.2
GROUPS = 10
MEBIBYTE = 1 << 20


def rows() -> Iterator[Row]:
    """Forwarding overhead, exact search against bare numpy, start-up, memory."""
    folder = Path(tempfile.mkdtemp(prefix="bench-atlas-"))
    vectors = _vectors()
    try:
        with _serving(folder) as (uri, _, front):
            yield from _forwarding(uri, front)
            say(f"atlas: storing {COUNT} vectors of {DIMENSIONS}")
            _store(uri, vectors)
            yield from _searching(uri, vectors)
        say("atlas: starting again")
        with _serving(folder) as (uri, seconds, front):
            _wait(uri)
            yield Row(
                f"localatlas start with {COUNT} vectors on disk",
                round(seconds, 2),
                "s",
                goal=3.0,
                note="from the command to a queryable index",
            )
            _search(uri, vectors[0], None)()
            yield from _memory(front, vectors)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _vectors() -> NDArray[np.float32]:
    generator = np.random.default_rng(7)
    made = generator.standard_normal((COUNT, DIMENSIONS), dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, float, psutil.Process]]:
    """The URI of a localatlas on `folder`, the seconds until it was ready, and its process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "localatlas", "serve", "--data", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            uri = process.stdout.readline().strip()
            yield uri, time.perf_counter() - began, psutil.Process(process.pid)
        finally:
            process.terminate()


def _engine_uri(front: psutil.Process) -> tuple[str, psutil.Process]:
    for child in front.children():
        line = child.cmdline()
        if "--port" in line:
            port = line[line.index("--port") + 1]
            return f"mongodb://127.0.0.1:{port}/?directConnection=true", child
    raise RuntimeError("the engine was not found among the front's children")


def _forwarding(uri: str, front: psutil.Process) -> Iterator[Row]:
    say("atlas: forwarding")
    direct_uri, _ = _engine_uri(front)
    with (
        MongoClient[dict[str, Any]](uri) as through,
        MongoClient[dict[str, Any]](direct_uri) as direct,
    ):
        through.bench.one.insert_one({"_id": 1, "text": "x" * 200})
        for client in (through, direct):
            _times(lambda client=client: client.bench.one.find_one({"_id": 1}), 200)  # type: ignore[misc]
        # In turns, so that what else the machine does meets both alike.
        slow: list[float] = []
        fast: list[float] = []
        for _ in range(10):
            slow += _times(lambda: through.bench.one.find_one({"_id": 1}), COMMANDS // 10)
            fast += _times(lambda: direct.bench.one.find_one({"_id": 1}), COMMANDS // 10)
    yield Row(
        "localatlas overhead per forwarded command, p50",
        round(statistics.median(slow) - statistics.median(fast), 3),
        "ms",
        goal=0.15,
        note=f"find_one through the front {statistics.median(slow):.2f} ms, "
        f"straight to the engine {statistics.median(fast):.2f} ms",
    )


def _store(uri: str, vectors: NDArray[np.float32]) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        collection = client.bench.vectors
        for start in range(0, COUNT, BATCH):
            collection.insert_many(
                [
                    {
                        "_id": number,
                        "v": _packed(vectors[number]),
                        "group": f"g{number % GROUPS}",
                    }
                    for number in range(start, start + BATCH)
                ],
                ordered=False,
            )
        collection.create_search_index(
            SearchIndexModel(
                name="vs",
                type="vectorSearch",
                definition={
                    "fields": [
                        {
                            "type": "vector",
                            "path": "v",
                            "numDimensions": DIMENSIONS,
                            "similarity": "dotProduct",
                        },
                        {"type": "filter", "path": "group"},
                    ]
                },
            )
        )
    _wait(uri)


def _packed(vector: NDArray[np.float32]) -> Binary:
    """BSON's vector type, float32."""
    return Binary(b"\x27\x00" + vector.astype("<f4").tobytes(), VECTOR_SUBTYPE)


def _wait(uri: str) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        while not all(one["queryable"] for one in client.bench.vectors.list_search_indexes()):
            time.sleep(0.02)


def _search(
    uri: str, query: NDArray[np.float32], condition: dict[str, Any] | None
) -> Callable[[], list[int]]:
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    stage: dict[str, Any] = {
        "index": "vs",
        "path": "v",
        "queryVector": _packed(query),
        "limit": LIMIT,
        "exact": True,
    }
    if condition is not None:
        stage["filter"] = condition
    pipeline = [{"$vectorSearch": stage}, {"$project": {"_id": 1}}]
    return lambda: [row["_id"] for row in client.bench.vectors.aggregate(pipeline)]


def _searching(uri: str, vectors: NDArray[np.float32]) -> Iterator[Row]:
    say("atlas: searching")
    groups = np.arange(COUNT) % GROUPS
    cases: list[tuple[str, dict[str, Any] | None, NDArray[np.bool_] | None]] = [
        ("no filter", None, None),
        ("filter keeping 10 %", {"group": "g3"}, groups == 3),
        ("filter keeping 90 %", {"group": {"$ne": "g3"}}, groups != 3),
    ]
    for name, condition, mask in cases:
        query = vectors[42] + vectors[4242] / 2
        search = _search(uri, query, condition)
        if search() != _bare(vectors, query, mask):
            raise RuntimeError(f"localatlas and numpy disagree ({name})")
        ours: list[float] = []
        bare: list[float] = []
        for _ in range(ROUNDS):
            # In turns, with a pause: numpy's threads spin for a while after each product.
            time.sleep(PAUSE_S)
            ours += _times(search, SEARCHES)
            bare += _times(lambda query=query, mask=mask: _bare(vectors, query, mask), SEARCHES)  # type: ignore[misc]
        limit = statistics.median(bare)
        yield Row(
            f"localatlas exact search {COUNT} x {DIMENSIONS}, {name}, p50",
            round(statistics.median(ours), 1),
            "ms",
            limit=round(limit, 1),
            limit_name="bare numpy",
            goal=round(limit * 1.5, 1),
            note="seen by the client, rows fetched",
        )


def _bare(
    vectors: NDArray[np.float32], query: NDArray[np.float32], mask: NDArray[np.bool_] | None
) -> list[int]:
    scores = vectors @ query
    if mask is not None:
        scores[~mask] = -np.inf
    best = np.argpartition(-scores, LIMIT)[:LIMIT]
    return [int(one) for one in best[np.argsort(-scores[best])]]


def _memory(front: psutil.Process, vectors: NDArray[np.float32]) -> Iterator[Row]:
    _, engine = _engine_uri(front)
    own = vectors.nbytes / MEBIBYTE
    yield Row(
        f"localatlas front's memory with {COUNT} vectors",
        round(front.memory_info().rss / MEBIBYTE),
        "MiB",
        limit=round(own),
        limit_name="the vectors' own size",
    )
    yield Row(
        "localatlas engine's memory after its start",
        round(engine.memory_info().rss / MEBIBYTE),
        "MiB",
    )


def _times(call: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return taken
