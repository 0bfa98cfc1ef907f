"""Measures the index against bare numpy: `python -m localatlas.measure [ROWS] [WIDTH]`.

Prints JSON lines `{"name", "value", "unit", "bare"}`: median milliseconds of an exact top-10
search, plain and under filters, beside numpy's own product and partition over the same matrix,
measured in turns; seconds to write and to read the vector file; resident bytes over the vectors'
own bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bson.binary import Binary
from numpy.typing import NDArray

from localatlas.definition import parse_definition
from localatlas.index import VectorIndex
from localatlas.stage import VectorQuery, parse_stage

TURNS = 21
# The threads of numpy's product spin for a while after it, at the cost of whatever comes next.
PAUSE_S = 0.1
BEST = 10
FILTERS: dict[str, Any] = {
    "no filter": {},
    "filter keeping 10 %": {"collection": "c3"},
    "filter keeping 50 %": {"number": {"$lt": 0.5}},
    "filter keeping 90 %": {"number": {"$gte": 0.1}},
    "filter of four clauses": {
        "collection": {"$in": ["c1", "c2", "c3", "c4"]},
        "hidden": False,
        "facets": {"$ne": "a=1"},
        "number": {"$gt": 0.2, "$lte": 0.9},
    },
}


def main(arguments: list[str]) -> int:
    """Measure and print; the exit status."""
    rows, width = (int(each) for each in [*arguments, "100000", "512"][:2])
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((rows, width), dtype=np.float32)
    target = matrix[0] + 0.1 * rng.standard_normal(width, dtype=np.float32)
    before = _resident()
    index = _index(matrix)
    size = matrix.nbytes
    _say("memory over the vectors' own", (_resident() - before) / size, "times", 1.0)
    actions: dict[str, Callable[[], object]] = {"bare": lambda: _bare(matrix, target)}
    for name, condition in FILTERS.items():
        query = _query(target, condition)
        actions[name] = lambda query=query: index.search(query)  # type: ignore[misc] # bound now
    taken = _in_turns(actions)
    for name in FILTERS:
        _say(f"exact search, {name}", taken[name], "ms", taken["bare"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.vectors"
        start = time.perf_counter()
        index.save(path, {})
        _say("write the vector file", time.perf_counter() - start, "s")
        start = time.perf_counter()
        VectorIndex.load(path, index.definition)
        _say("read the vector file", time.perf_counter() - start, "s")
    return 0


def _index(matrix: NDArray[np.float32]) -> VectorIndex:
    vector = {"type": "vector", "path": "v", "numDimensions": matrix.shape[1]}
    filters = [{"type": "filter", "path": p} for p in ("collection", "number", "hidden", "facets")]
    fields = [{**vector, "similarity": "cosine"}, *filters]
    index = VectorIndex(parse_definition({"fields": fields}, where=""))
    for number, values in enumerate(matrix):
        index.put(
            {
                "_id": f"face-{number:08d}",
                "v": Binary(b"\x27\x00" + values.tobytes(), 9),
                "collection": f"c{number % 10}",
                "number": number * 7919 % len(matrix) / len(matrix),
                "hidden": False,
                "facets": [f"a={number % 7}", f"b={number % 13}"],
            }
        )
    return index


def _query(target: NDArray[np.float32], condition: dict[str, Any]) -> VectorQuery:
    stage: dict[str, Any] = {"index": "i", "path": "v", "limit": BEST, "numCandidates": 200}
    stage["queryVector"] = target.astype(float).tolist()
    return parse_stage({**stage, "filter": condition} if condition else stage)


def _bare(matrix: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.intp]:
    scores = matrix @ target
    best = np.argpartition(-scores, BEST)[:BEST]
    return best[np.argsort(-scores[best])]


def _in_turns(actions: dict[str, Callable[[], object]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(TURNS):
        for name, action in actions.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            action()
            taken[name].append((time.perf_counter() - start) * 1000)
    return {name: median(each) for name, each in taken.items()}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _say(name: str, value: float, unit: str, bare: float | None = None) -> None:
    line = {"name": name, "value": round(value, 3), "unit": unit, "bare": bare}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
