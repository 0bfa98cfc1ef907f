"""Which vectors of a document are indexed, and how they score against a plain model."""

from __future__ import annotations

import gc
import math
import os
import struct
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localatlas.blocks import Block
from localatlas.bsonvectors import Vector, VectorError, document_vector, parse_vector
from localatlas.crew import MOST_THREADS, Crew
from localatlas.definition import VectorField
from localatlas.ranking import PIECE_BYTES
from localatlas.vectors import VectorSet


def floats(*values: float) -> Binary:
    return Binary(b"\x27\x00" + struct.pack(f"<{len(values)}f", *values), 9)


def int8(*values: int) -> Binary:
    return Binary(b"\x03\x00" + struct.pack(f"{len(values)}b", *values), 9)


def bits(*values: int) -> Binary:
    return Binary(b"\x10\x00" + bytes(values), 9)


def found(value: Any, **options: Any) -> Any:
    field = VectorField("m.v", options.pop("dimensions", 2), options.pop("similarity", "cosine"))
    field = VectorField(field.path, field.dimensions, field.similarity, **options)
    vector = document_vector({"m": value}, field)
    return None if vector is None else vector.values.tolist()


@pytest.mark.parametrize(
    "value",
    [
        {},
        None,
        "text",
        {"v": None},
        {"v": "1,0"},
        {"v": {"0": 1, "1": 0}},
        {"v": 1},
        {"v": []},
        {"v": [1]},
        {"v": [1, 0, 0]},
        {"v": [1, "0"]},
        {"v": [1, None]},
        {"v": [1, True]},
        {"v": [1, Decimal128("0")]},
        {"v": [0, 0]},
        {"v": [0.0, -0.0]},
        {"v": [math.inf, 0]},
        {"v": [math.nan, 1]},
        {"v": [1e300, 1]},
        {"v": floats(1)},
        {"v": floats(math.nan, 1)},
        {"v": floats(0, 0)},
        {"v": int8(0, 0)},
        {"v": Binary(b"\x27\x01" + bytes(8), 9)},
        {"v": Binary(b"\x99\x00" + bytes(8), 9)},
        {"v": Binary(b"\x27", 9)},
        {"v": Binary(b"\x27\x00" + struct.pack("<2f", 1, 0), 0)},
        {"v": [[1], [1, 0]]},
        {"v": [[0, 0], [1, 0]]},
        {"v": [[], [1, 0]]},
        [{"v": [1]}, {"v": [1, 0]}],
        [{"v": [1, 0, 0]}, {"v": floats(1, 0)}],
    ],
)
def test_no_vector_is_indexed(value: Any) -> None:
    assert found(value) is None


@pytest.mark.parametrize(
    ("value", "vector"),
    [
        ({"v": [1, Int64(2)]}, [1, 2]),
        ({"v": [0.1, 2**24 + 1]}, [float(np.float32(0.1)), 2**24]),
        ({"v": [2**63 - 1, 0]}, [2.0**63, 0]),
        ({"v": floats(1, 2)}, [1, 2]),
        ({"v": int8(-128, 127)}, [-128, 127]),
        ({"v": [[0, 1], [1, 0]]}, [0, 1]),
        ({"v": [[[3, 4]]]}, [3, 4]),
        ({"v": [["a", 1], [1, 0]]}, [1, 0]),
        ({"v": [None, "x", [1, 0]]}, [1, 0]),
        ({"v": [floats(1, 2), [3, 4]]}, [1, 2]),
        ({"v": [[math.nan, 1], [1, 0]]}, [1, 0]),
        ([{"v": [0, 1]}, {"v": [1, 0]}], [0, 1]),
        ([{"w": 1}, {"v": "no"}, {"v": [1, 0]}], [1, 0]),
        ([[{"v": [1, 0]}]], [1, 0]),
    ],
)
def test_the_first_vector_on_the_path_is_indexed(value: Any, vector: list[float]) -> None:
    assert found(value) == vector


@pytest.mark.parametrize("similarity", ["euclidean", "dotProduct"])
def test_zero_vectors_are_indexed_where_they_have_a_meaning(similarity: str) -> None:
    assert found({"v": [0, 0]}, similarity=similarity) == [0, 0]


@pytest.mark.parametrize("quantization", ["scalar", "binary"])
def test_quantised_fields_take_floats_only(quantization: str) -> None:
    options = {"quantization": quantization, "dimensions": 8, "similarity": "euclidean"}

    assert found({"v": int8(*range(8))}, **options) is None
    assert found({"v": bits(7)}, **options) is None
    assert found({"v": [1] * 8}, **options) == [1] * 8


def test_packed_bits_are_compared_by_distance_only() -> None:
    assert found({"v": bits(7)}, dimensions=8) is None
    assert found({"v": bits(7)}, dimensions=8, similarity="dotProduct") is None
    assert found({"v": bits(7)}, dimensions=8, similarity="euclidean") == [7]
    assert found({"v": bits(0)}, dimensions=8, similarity="euclidean") == [0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1,0", "Unexpected type found when parsing vector"),
        ({"a": 1}, "Unexpected type found when parsing vector"),
        (5, "Unexpected type found when parsing vector"),
        ([1, "0"], "Unsupported BsonValue type: STRING"),
        ([[1, 0]], "Unsupported BsonValue type: ARRAY"),
        ([1, None], "Unsupported BsonValue type: NULL"),
        ([Decimal128("1"), 0], "Unsupported BsonValue type: DECIMAL128"),
        ([True, 0], "Unsupported BsonValue type: BOOLEAN"),
        (b"\x27\x00", "subtype should be vector"),
        (Binary(b"x", 4), "subtype should be vector"),
        (Binary(b"\x27", 9), "at least 2 bytes"),
        (Binary(b"\x99\x00", 9), "Unsupported vector subtype"),
        (Binary(b"\x10\x03\x01", 9), "multiple of 8"),
        (Binary(b"\x03\x01\x01", 9), "Padding should be zero"),
    ],
)
def test_a_query_vector_that_is_none_is_refused(value: Any, message: str) -> None:
    with pytest.raises(VectorError) as caught:
        parse_vector(value)

    assert message in str(caught.value)


def test_the_first_component_that_is_not_finite_is_named() -> None:
    assert parse_vector([1, 1e300, math.nan]).non_finite() == 1
    assert parse_vector([1, 2]).non_finite() is None
    assert parse_vector(int8(1)).non_finite() is None


def score(query: Vector, row: Vector, similarity: str) -> np.float32:
    """Return the score by the formulas, in Python numbers."""
    if query.kind == "packed_bit":
        pairs = zip(query.values.tolist(), row.values.tolist(), strict=True)
        distance = sum((a ^ b).bit_count() for a, b in pairs)
        return np.float32((query.dimensions - distance) / query.dimensions)
    a, b = query.values.astype(float).tolist(), row.values.astype(float).tolist()
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    with np.errstate(over="ignore", under="ignore"):
        if similarity == "euclidean":
            squared = math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
            return np.float32(1 / (1 + squared))
        if similarity == "cosine":
            lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(
                math.fsum(y * y for y in b)
            )
            return np.float32(max(0.0, (1 + dot / lengths) / 2))
        if query.kind == "int8":
            return np.float32(0.5 + dot / (query.dimensions * 32768))
        return np.float32(max(0.0, (1 + dot) / 2))


SIZES = st.sampled_from([1.0, 1e-4, 1e4, 1e-12, 1e-25, 1e-39, 1e18, 3e38])


@st.composite
def sets(draw: st.DrawFn) -> tuple[str, list[Vector], Vector, int]:
    kind = draw(st.sampled_from(["float32", "int8", "packed_bit"]))
    similarity = draw(st.sampled_from(["cosine", "dotProduct", "euclidean"]))
    count = draw(st.integers(1, 8))

    def vector() -> Vector:
        if kind == "packed_bit":
            return Vector(kind, np.array([draw(st.integers(0, 255)) for _ in "12"], np.uint8))
        if kind == "int8":
            return Vector(kind, np.array([draw(st.integers(-128, 127)) for _ in "123"], np.int8))
        size = draw(SIZES)
        values = [draw(st.sampled_from([-1, -0.7001, 0, 0.3, 1.0001, 1])) * size for _ in "123"]
        return Vector(kind, np.array(values, np.float32))

    rows = [vector() for _ in range(count)]
    query = vector()
    if kind == "packed_bit":
        similarity = "euclidean"
    if similarity == "cosine":
        rows = [row for row in rows if not row.is_zero] or [Vector(kind, query.values * 0 + 1)]
        query = Vector(kind, query.values * 0 + 1) if query.is_zero else query
    return similarity, rows, query, draw(st.integers(1, 9))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sets())
def test_scores_and_order_are_those_of_the_formulas(
    case: tuple[str, list[Vector], Vector, int],
) -> None:
    similarity, rows, query, count = case
    held = VectorSet(query.kind, similarity, query.dimensions)
    for row, vector in enumerate(rows):
        held.add(row, vector)

    best, scores = held.snapshot().best(query, None, count, Crew())

    wanted = [score(query, row, similarity) for row in rows]
    assert len(best) == min(count, len(rows))
    for row, given_score in zip(best.tolist(), scores.tolist(), strict=True):
        assert given_score == pytest.approx(float(wanted[row]), rel=1e-6, abs=1e-9)
    # Nothing left out is better than what was given, and equal scores keep the order of rows.
    left = [float(wanted[row]) for row in range(len(rows)) if row not in best]
    assert max(left, default=0) <= scores.min() * (1 + 1e-6) + 1e-9
    order = list(zip((-scores).tolist(), best.tolist(), strict=True))
    assert order == sorted(order)


@pytest.mark.parametrize("similarity", ["cosine", "dotProduct", "euclidean"])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_the_quick_pass_loses_nothing_over_many_blocks(similarity: str, share: float) -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((9000, 64), dtype=np.float32)
    rows[4000:4100] = rows[0]
    held = VectorSet("float32", similarity, 64)
    for row, values in enumerate(rows):
        held.add(row, Vector("float32", values))
    query = Vector("float32", rows[0] + np.float32(1e-3))
    wanted = rng.random(9000) < share if share < 1 else np.ones(9000, np.bool_)

    best, scores = held.snapshot().best(query, wanted, 50, Crew())

    wide, target = rows.astype(float), query.values.astype(float)
    if similarity == "euclidean":
        truth = 1 / (1 + ((wide - target) ** 2).sum(axis=1))
    elif similarity == "cosine":
        lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(target)
        truth = (1 + wide @ target / lengths) / 2
    else:
        truth = np.maximum(0, (1 + wide @ target) / 2)
    single = truth.astype(np.float32)
    order = np.lexsort((np.arange(9000), -single))
    order = order[wanted[order]][:50]
    np.testing.assert_allclose(scores, single[best], rtol=1e-6)
    np.testing.assert_allclose(scores, single[order], rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.9, 1.0])
def test_a_product_that_is_shared_out_is_the_same_product(share: float) -> None:
    rng = np.random.default_rng(8)
    count = 3 * PIECE_BYTES // 128 + 77
    rows = rng.standard_normal((count, 64), dtype=np.float32)
    held = VectorSet("float32", "dotProduct", 64)
    for start in (0, count // 3):
        part = slice(start, start + count // 3 if not start else None)
        numbers = np.arange(count, dtype=np.int32)[part]
        held.extend(Block.of(rows[part], np.linalg.norm(rows[part], axis=1), numbers))
    query = Vector("float32", rng.standard_normal(64, dtype=np.float32))
    wanted = rng.random(count) < share if share < 1 else None
    crew, found = Crew(), []

    def search() -> None:
        found.append(held.snapshot().best(query, wanted, 20, crew))

    # At once: each has to come to its end though the helpers are busy with another.
    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    truth = np.maximum(0, (1 + rows.astype(float) @ query.values) / 2)
    order = np.argsort(-truth)
    order = order if wanted is None else order[wanted[order]]
    for best, scores in found:
        assert best.tolist() == order[:20].tolist()
        np.testing.assert_allclose(scores, truth[best], rtol=1e-6)
    assert len(found) == 4


def test_a_crew_keeps_the_order_and_passes_errors_on() -> None:
    crew = Crew()

    assert crew.share(lambda piece: piece * 2, list(range(1000))) == list(range(0, 2000, 2))
    assert crew.share(lambda piece: piece, []) == []
    with pytest.raises(ZeroDivisionError):
        crew.share(lambda piece: 1 // (piece - 700), list(range(1000)))
    assert crew.share(lambda piece: -piece, [5]) == [-5]


def test_each_of_a_crew_keeps_to_processors_of_its_own() -> None:
    before = os.sched_getaffinity(0)
    together = threading.Barrier(min(MOST_THREADS, len(before)), timeout=60)
    kept = sorted(before)
    try:
        os.sched_setaffinity(0, before)
    except OSError:  # a sandbox forbids it: every thread has them all
        kept = sorted(list(before) * together.parties)
    parts: list[int] = []
    caller = threading.current_thread()

    def look(_: int) -> None:
        if threading.current_thread() is not caller:
            parts.extend(os.sched_getaffinity(0))
            together.wait()

    Crew().share(look, list(range(together.parties)))

    assert sorted(parts) == kept
    assert os.sched_getaffinity(0) == before


def test_the_threads_of_a_crew_end_with_it() -> None:
    before = set(threading.enumerate())
    crew = Crew()
    crew.share(lambda piece: piece, [1, 2])
    threads = set(threading.enumerate()) - before
    ended = weakref.ref(crew)

    del crew
    gc.collect()

    assert ended() is None
    for thread in threads:
        thread.join(60)
    assert threads
    assert not any(thread.is_alive() for thread in threads)


def test_a_crew_that_gets_no_thread_leaves_the_work_to_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)

    assert Crew().share(lambda piece: -piece, [1, 2, 3]) == [-1, -2, -3]


def test_a_score_may_exceed_what_float32_holds() -> None:
    held = VectorSet("float32", "dotProduct", 2)
    held.add(0, Vector("float32", np.array([1, 1], np.float32)))
    held.add(1, Vector("float32", np.array([3e38, 3e38], np.float32)))

    query = Vector("float32", np.array([1e30, 0], np.float32))
    best, scores = held.snapshot().best(query, None, 1, Crew())

    assert best.tolist() == [1]
    assert scores.tolist() == [math.inf]


def test_negative_products_are_cut_at_zero_and_tie() -> None:
    held = VectorSet("float32", "dotProduct", 1)
    for row, value in enumerate((-9, -2, -5)):
        held.add(row, Vector("float32", np.array([value], np.float32)))

    query = Vector("float32", np.ones(1, np.float32))
    best, scores = held.snapshot().best(query, None, 2, Crew())

    assert best.tolist() == [0, 1]
    assert scores.tolist() == [0, 0]


@pytest.mark.parametrize("products", [(0, 1), (-2, -1)])
def test_products_of_int8_that_round_to_one_score_come_in_the_order_of_rows(
    products: tuple[int, int],
) -> None:
    held = VectorSet("int8", "dotProduct", 4096)
    for row, value in enumerate(products):
        held.add(row, Vector("int8", np.array([value, 1] + [0] * 4094, np.int8)))

    query = Vector("int8", np.array([1] + [0] * 4095, np.int8))
    best, scores = held.snapshot().best(query, None, 1, Crew())

    assert best.tolist() == [0]
    assert scores.tolist() == [0.5]
