"""What an index keeps in a file: all of it or nothing, and never a damaged one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson.binary import Binary
from bson.objectid import ObjectId

from localatlas.definition import parse_definition
from localatlas.index import VectorIndex
from localatlas.stage import parse_stage
from localatlas.vectorfile import StaleFileError, read_about

FIELDS = [
    {"type": "vector", "path": "v", "numDimensions": 2, "similarity": "euclidean"},
    {"type": "vector", "path": "w", "numDimensions": 8, "similarity": "cosine"},
    {"type": "filter", "path": "t"},
]
DEFINITION = parse_definition({"fields": FIELDS}, where="")


def index(*documents: dict[str, Any]) -> VectorIndex:
    made = VectorIndex(DEFINITION)
    for document in documents:
        made.put(document)
    return made


def hits(held: VectorIndex, **changes: Any) -> list[tuple[Any, float]]:
    spec = {"index": "i", "path": "v", "queryVector": [0, 0], "limit": 10, "numCandidates": 100}
    spec.update(changes)
    return held.search(parse_stage({k: v for k, v in spec.items() if v is not None}))


def ids(held: VectorIndex, **changes: Any) -> list[Any]:
    return [_id for _id, _ in hits(held, **changes)]


def everything() -> VectorIndex:
    stamp = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    values = ["a", "b", 1, 2.5, True, stamp, ObjectId(), Binary(b"u" * 16, 4), None, ["a", 1], []]
    held = index(*({"_id": n, "v": [n, 1], "t": value} for n, value in enumerate(values)))
    held.put({"_id": "bytes", "v": Binary(b"\x03\x00\x01\x02", 9)})
    held.put({"_id": ObjectId(b"x" * 12), "w": [1] * 8})
    return held


def test_a_file_brings_back_the_index_and_what_was_said_about_it(tmp_path: Path) -> None:
    held, path = everything(), tmp_path / "i.vectors"
    held.remove(3)
    held.save(path, {"token": {"_data": "82"}, "count": 12})

    loaded, about = VectorIndex.load(path, DEFINITION)

    assert about == {"token": {"_data": "82"}, "count": 12}
    assert read_about(path) == about
    assert len(loaded) == len(held)
    for wanted in ({}, {"t": "a"}, {"t": {"$lt": 3}}, {"t": {"$exists": True}}, {"t": None}):
        assert hits(loaded, filter=wanted) == hits(held, filter=wanted)
    loaded.put({"_id": "new", "v": [0, 0], "t": "a"})
    loaded.remove(0)
    assert ids(loaded, filter={"t": "a"}) == ["new", 9]


def test_an_empty_index_is_kept_too(tmp_path: Path) -> None:
    VectorIndex(DEFINITION).save(tmp_path / "i", {})

    assert len(VectorIndex.load(tmp_path / "i", DEFINITION)[0]) == 0


def test_a_file_of_another_definition_is_not_taken(tmp_path: Path) -> None:
    everything().save(tmp_path / "i", {})
    other = parse_definition({"fields": [FIELDS[0]]}, where="")

    with pytest.raises(StaleFileError, match="another definition"):
        VectorIndex.load(tmp_path / "i", other)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        VectorIndex.load(tmp_path / "i", DEFINITION)


def test_a_damaged_file_is_never_taken(tmp_path: Path) -> None:
    path = tmp_path / "i"
    everything().save(path, {"token": 1})
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    for place in {0, 9, 13, len(whole) - 1, *rng.integers(0, len(whole), 150).tolist()}:
        broken = bytearray(whole)
        broken[place] ^= 0x40
        path.write_bytes(broken)
        with pytest.raises(StaleFileError):
            VectorIndex.load(path, DEFINITION)
    for size in (0, 10, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StaleFileError):
            VectorIndex.load(path, DEFINITION)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "i"
    everything().save(path, {"token": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        everything().save(path, {"token": 2})

    assert read_about(path) == {"token": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["i"]
