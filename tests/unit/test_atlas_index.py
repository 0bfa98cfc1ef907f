"""A whole index in memory: its checks, its order, and what it keeps in a file."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.objectid import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localatlas.definition import parse_definition
from localatlas.errors import CommandError
from localatlas.index import VectorIndex
from localatlas.stage import parse_stage
from localatlas.table import SPARE_ROWS

FIELDS = [
    {"type": "vector", "path": "v", "numDimensions": 2, "similarity": "euclidean"},
    {"type": "vector", "path": "w", "numDimensions": 8, "similarity": "cosine"},
    {"type": "filter", "path": "t"},
    {"type": "filter", "path": "n"},
]
DEFINITION = parse_definition({"fields": FIELDS}, where="")
STORED = parse_definition({"fields": FIELDS, "storedSource": {"include": ["t"]}}, where="")


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


def test_the_best_come_first_and_the_limit_cuts() -> None:
    held = index(*({"_id": n, "v": [n, 0]} for n in (3, 1, 2)))

    assert hits(held) == [(1, 0.5), (2, pytest.approx(0.2)), (3, pytest.approx(0.1))]
    assert ids(held, limit=2) == [1, 2]


def test_equal_scores_keep_the_order_of_the_last_write() -> None:
    held = index(*({"_id": n, "v": [1, 0]} for n in (3, 1, 2)))
    held.put({"_id": 3, "v": [0, 1]})

    assert ids(held) == [1, 2, 3]
    assert ids(held, limit=1) == [1]


def test_a_document_is_replaced_whole_and_forgotten_without_a_vector() -> None:
    held = index({"_id": 1, "v": [1, 0], "t": "a"}, {"_id": 2, "v": [2, 0], "t": "a"})

    held.put({"_id": 1, "v": [3, 0]})
    assert ids(held) == [2, 1]
    assert ids(held, filter={"t": "a"}) == [2]
    held.put({"_id": 2, "v": [1, "0"], "t": "a"})
    assert ids(held) == [1]
    held.remove(1)
    held.remove("never there")
    assert ids(held) == []
    assert len(held) == 0


def test_equal_ids_are_one_and_booleans_are_not_numbers() -> None:
    held = index({"_id": 1, "v": [1, 0]}, {"_id": True, "v": [2, 0]})

    held.put({"_id": 1.0, "v": [3, 0]})
    held.put({"_id": Int64(1), "v": [4, 0]})
    assert ids(held) == [True, 1]
    held.remove(True)
    assert ids(held) == [1]


@pytest.mark.parametrize(
    "_id",
    ["s", ObjectId(), 1.5, None, {"a": [1]}, Binary(b"x" * 16, 4), DatetimeMS(5), float("nan")],
)
def test_ids_of_any_type_are_found_again(_id: Any) -> None:
    held = index({"_id": _id, "v": [1, 0]})

    assert _id in held
    held.put({"_id": _id, "v": [2, 0]})
    assert len(held) == 1
    held.remove(_id)
    assert len(held) == 0


def test_a_kind_of_vector_sees_its_own_only() -> None:
    byte = Binary(b"\x03\x00\x01\x00", 9)
    single = Binary(b"\x27\x00" + struct.pack("<2f", 0, 1), 9)
    held = index({"_id": 1, "v": [1, 0]}, {"_id": 2, "v": byte}, {"_id": 3, "v": single})

    assert ids(held) == [1, 3]
    assert ids(held, queryVector=byte) == [2]
    assert ids(held, path="w", queryVector=[1] * 8) == []


def test_two_vector_fields_are_searched_apart() -> None:
    held = index({"_id": 1, "v": [1, 0]}, {"_id": 2, "w": [1] * 8}, {"_id": 3})

    assert ids(held) == [1]
    assert ids(held, path="w", queryVector=[1] * 8) == [2]
    assert len(held) == 2


def test_a_filter_chooses_before_the_limit_does() -> None:
    held = index(*({"_id": n, "v": [n, 0], "n": n} for n in range(10)))

    assert ids(held, limit=2, numCandidates=2, filter={"n": {"$gte": 6}}) == [6, 7]


def test_a_parent_filter_thins_out_candidates_only() -> None:
    held = index(*({"_id": n, "v": [n, 0], "n": n} for n in range(10)))
    wanted = {"n": {"$gte": 6}}

    assert ids(held, limit=2, numCandidates=8, parentFilter=wanted) == [6, 7]
    assert ids(held, limit=2, numCandidates=2, parentFilter=wanted) == []
    exact = {"exact": True, "numCandidates": None, "limit": 2}
    assert ids(held, **exact, parentFilter=wanted, filter={"n": {"$ne": 6}}) == [7, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "t", "queryVector": [1]}, "t is not indexed as vector"),
        ({"path": "zzz", "filter": {"q": 1}}, "zzz is not indexed as vector"),
        ({"queryVector": [1], "filter": {"q": 1}}, "indexed with 2 dimensions but queried with 1"),
        ({"queryVector": []}, "indexed with 2 dimensions but queried with 0"),
        ({"queryVector": Binary(b"\x10\x00\x01", 9)}, "2 dimensions but queried with 8"),
        ({"filter": {"q": 1}}, "Path 'q' needs to be indexed as filter"),
        ({"filter": {"v": 1}}, "Path 'v' needs to be indexed as filter"),
        ({"filter": {"n": {"$gt": 1}, "n.x": {"$exists": False}}}, "Path 'n.x' needs"),
        ({"filter": {"q": {"$not": {"$in": ["a"]}}}}, "Path 'q' needs"),
        ({"filter": {"$nor": [{"q": {"$ne": 1}}]}}, "Path 'q' needs"),
        ({"parentFilter": {"q": 1}}, "Path 'q' needs"),
        (
            {"path": "w", "queryVector": [0] * 8, "filter": {"q": 1}},
            "Path 'q' needs to be indexed as filter",
        ),
        ({"path": "w", "queryVector": [0] * 8}, "cannot be calculated against a zero vector"),
        ({"path": "w", "queryVector": Binary(b"\x10\x00\x01", 9)}, "with Euclidean similarity"),
        ({"path": "w", "queryVector": Binary(b"\x10\x00\x00", 9)}, "against a zero vector"),
        ({"nestedOptions": {}, "path": "zzz"}, '"nestedOptions" requires a vector path'),
        ({"explainOptions": {}}, "explain mode"),
        ({"returnStoredSource": True}, "storedSource is not configured"),
        ({"queryVector": None, "query": "text"}, "queryVector must be present"),
    ],
)
def test_the_first_thing_the_index_cannot_do_is_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandError) as caught:
        hits(index({"_id": 1, "v": [1, 0]}), **changes)

    assert caught.value.code == 8
    assert message in caught.value.message


def test_a_null_needs_no_filter_field() -> None:
    held = index({"_id": 1, "v": [1, 0], "q": None})

    assert ids(held, filter={"q": None}) == []
    assert ids(held, filter={"q": {"$ne": None}}) == [1]


def test_a_null_is_found_at_vector_fields_and_above_any_field(tmp_path: Path) -> None:
    fields = [*FIELDS, {"type": "filter", "path": "a.b.c"}]
    held = VectorIndex(parse_definition({"fields": fields}, where=""))
    nulls: list[dict[str, Any]] = [{"w": None}, {"a": None}, {"a": {"b": [[None]]}}, {"q": None}]
    for n, one in enumerate([{}, *nulls]):
        held.put({"_id": n, "v": [n, 0], **one})
    held.put({"_id": 1, "v": [0, 1], "w": None})
    held.save(tmp_path / "kept", {})
    kept, _ = VectorIndex.load(tmp_path / "kept", held.definition)

    for each in (held, kept):
        assert ids(each, filter={"w": None}) == [1]
        assert ids(each, filter={"w": {"$ne": None}}) == [0, 2, 3, 4]
        assert ids(each, filter={"a": None}) == [2]
        assert ids(each, filter={"a.b": None}) == [3]
        assert ids(each, filter={"q": None}) == []
        with pytest.raises(CommandError, match="Path 'w' needs to be indexed as filter"):
            ids(each, filter={"w": 1})


def test_stored_source_is_refused_by_name() -> None:
    with pytest.raises(CommandError) as caught:
        hits(VectorIndex(STORED), returnStoredSource=True)

    assert caught.value.code == 115
    assert "returnStoredSource" in caught.value.message


changes = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["put", "put", "put", "remove"]),
        st.integers(-3, 3),
        st.sampled_from(["a", "b", None, ["a", "b"], 1, 2.5, []]),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes, st.booleans())
def test_after_any_writes_the_index_is_that_of_the_documents(
    writes: list[tuple[int, str, int, Any]], compacted: bool
) -> None:
    held, documents = VectorIndex(DEFINITION), dict[int, dict[str, Any]]()
    for _id, action, x, t in writes:
        documents.pop(_id, None)
        if action == "put":
            documents[_id] = {"_id": _id, "v": [x, 0], "t": t}
            held.put(documents[_id])
        else:
            held.remove(_id)
        if compacted:
            held._documents.compact()
    fresh = index(*documents.values())

    for wanted in ({}, {"t": "a"}, {"t": {"$ne": "a"}}, {"t": {"$gte": 1}}, {"t": None}):
        assert hits(held, filter=wanted) == hits(fresh, filter=wanted)


def test_rows_of_deleted_documents_do_not_pile_up() -> None:
    held = VectorIndex(DEFINITION)
    for _ in range(5):
        for n in range(SPARE_ROWS):
            held.put({"_id": n, "v": [n, 0], "t": str(n)})

    assert len(held) == SPARE_ROWS
    assert held._documents.rows <= 3 * SPARE_ROWS
    assert ids(held, filter={"t": "7"}) == [7]


def test_searches_beside_writes_see_whole_documents() -> None:
    held = index(*({"_id": n, "v": [n, 0], "t": "a"} for n in range(500)))
    failures: list[object] = []
    stop = threading.Event()

    def write() -> None:
        rng = np.random.default_rng(1)
        while not stop.is_set():
            n = int(rng.integers(0, 500))
            held.put({"_id": n, "v": [n, 0], "t": "a" if n % 2 else ["a", "b"]})

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(100):
        found = hits(held, limit=100, filter={"t": "a"})
        wanted = [(n, pytest.approx(1 / (1 + n * n))) for n, _ in found]
        if found != wanted or len({n for n, _ in found}) != 100:
            failures.append(found)
    stop.set()
    writer.join()

    assert not failures
