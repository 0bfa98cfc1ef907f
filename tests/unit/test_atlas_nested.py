"""Vectors in arrays of sub-documents: every one is searched, its document is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localatlas.definition import parse_definition
from localatlas.errors import CommandError
from localatlas.index import VectorIndex
from localatlas.stage import parse_stage

NESTED = parse_definition(
    {
        "fields": [
            {"type": "vector", "path": "c.v", "numDimensions": 2, "similarity": "euclidean"},
            {"type": "vector", "path": "v", "numDimensions": 2, "similarity": "euclidean"},
            {"type": "filter", "path": "c.k"},
            {"type": "filter", "path": "t"},
        ],
        "nestedRoot": "c",
    },
    where="",
)


def hits(held: VectorIndex, **changes: Any) -> list[tuple[Any, float]]:
    spec = {"index": "i", "path": "c.v", "queryVector": [0, 0], "limit": 10, "numCandidates": 100}
    spec.update(changes)
    return held.search(parse_stage({k: v for k, v in spec.items() if v is not None}))


def ids(held: VectorIndex, **changes: Any) -> list[Any]:
    return [_id for _id, _ in hits(held, **changes)]


def nested(*documents: dict[str, Any]) -> VectorIndex:
    made = VectorIndex(NESTED)
    for document in documents:
        made.put(document)
    return made


FAMILY = (
    {"_id": 1, "t": "a", "c": [{"v": [1, 0], "k": 1}, {"v": [9, 0], "k": 2}]},
    {"_id": 2, "t": "b", "c": [{"v": [2, 0], "k": 1}, {"v": [3, 0], "k": 1}, {"k": 2}]},
    {"_id": 3, "t": "a", "c": []},
    {"_id": 4, "t": "a", "c": {"v": [4, 0], "k": 2}, "v": [0, 0]},
)


def test_a_document_scores_as_its_best_nested_one_or_as_their_mean() -> None:
    held = nested(*FAMILY)

    assert hits(held) == [
        (1, 0.5),
        (2, pytest.approx(0.2)),
        (4, pytest.approx(1 / 17)),
    ]
    assert hits(held, nestedOptions={"scoreMode": "avg"}) == [
        (1, pytest.approx((0.5 + 1 / 82) / 2)),
        (2, pytest.approx(0.15)),
        (4, pytest.approx(1 / 17)),
    ]
    assert ids(held, nestedOptions={"scoreMode": "max"}, limit=1) == [1]
    assert ids(held, path="v") == [4]
    assert len(held) == 3


def test_a_filter_chooses_nested_documents_and_a_parent_filter_whole_ones() -> None:
    held = nested(*FAMILY)

    assert ids(held, filter={"c.k": 2}) == [4, 1]
    assert ids(held, filter={"c.k": {"$ne": 2}}) == [1, 2]
    assert ids(held, parentFilter={"t": "a"}) == [1, 4]
    assert ids(held, filter={"c.k": 1}, parentFilter={"t": {"$ne": "a"}}) == [2]
    assert ids(held, filter={"t": "a"}) == []
    assert ids(held, path="v", filter={"t": "a"}) == [4]


def test_candidates_are_nested_documents() -> None:
    held = nested(*FAMILY)

    assert ids(held, numCandidates=3, limit=3) == [1, 2]
    assert ids(held, numCandidates=None, exact=True, limit=3) == [1, 2, 4]
    mean = {"nestedOptions": {"scoreMode": "avg"}, "limit": 2}
    assert hits(held, numCandidates=2, **mean) == [(1, 0.5), (2, pytest.approx(0.2))]


def test_documents_that_a_parent_filter_leaves_out_take_no_candidates() -> None:
    held = nested(*FAMILY)

    assert ids(held, numCandidates=1, limit=1) == [1]
    assert ids(held, numCandidates=1, limit=1, parentFilter={"t": {"$ne": "a"}}) == [2]


def test_nested_documents_follow_their_document(tmp_path: Path) -> None:
    held = nested(*FAMILY)
    held.put({"_id": 1, "c": [{"v": [5, 0]}, {"v": [6, 0]}]})
    held.remove(4)
    held.save(tmp_path / "i", {})
    loaded, _ = VectorIndex.load(tmp_path / "i", NESTED)

    for index_ in (held, loaded):
        assert ids(index_) == [2, 1]
        assert ids(index_, parentFilter={"t": {"$exists": False}}) == [1]
    loaded.remove(1)
    assert ids(loaded) == [2]


def test_nested_options_belong_to_the_nested_root() -> None:
    with pytest.raises(CommandError, match='"nestedOptions" requires a vector path'):
        hits(nested(*FAMILY), path="v", nestedOptions={})
