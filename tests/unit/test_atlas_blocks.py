"""Vectors kept in two halves: nothing is lost, and the half that is read first misleads nobody."""

from __future__ import annotations

import numpy as np
import pytest

from localatlas.blocks import Block
from localatlas.bsonvectors import Vector
from localatlas.crew import Crew
from localatlas.ranking import MANY
from localatlas.vectors import VectorSet


@pytest.mark.parametrize("similarity", ["cosine", "dotProduct", "euclidean"])
@pytest.mark.parametrize("share", [0.2, 0.8, 1.0])
def test_vectors_that_half_of_each_number_cannot_tell_apart_are_told_apart(
    similarity: str, share: float
) -> None:
    rng = np.random.default_rng(9)
    center = rng.standard_normal(32, dtype=np.float32)
    rows = center + rng.standard_normal((9 * MANY, 32), dtype=np.float32) * np.float32(1e-4)
    held = VectorSet("float32", similarity, 32)
    held.extend(Block.of(rows, np.linalg.norm(rows, axis=1), np.arange(len(rows), dtype=np.int32)))
    query = Vector("float32", center + np.float32(1e-4) * rng.standard_normal(32, dtype=np.float32))
    wanted = rng.random(len(rows)) < share if share < 1 else None

    best, scores = held.snapshot().best(query, wanted, 10, Crew())

    wide, target = rows.astype(float), query.values.astype(float)
    truth = wide @ target
    if similarity == "cosine":
        truth = (1 + truth / np.linalg.norm(wide, axis=1) / np.linalg.norm(target)) / 2
    elif similarity == "dotProduct":
        truth = (1 + truth) / 2
    else:
        truth = 1 / (1 + ((wide - target) ** 2).sum(axis=1))
    single = truth.astype(np.float32)
    order = np.lexsort((np.arange(len(rows)), -single))
    order = order if wanted is None else order[wanted[order]]
    assert scores.tolist() == single[order[:10]].tolist()
    assert best.tolist() == order[:10].tolist()


@pytest.mark.parametrize("size", [1.0, 1e-38, 1e-44, 3e38])
def test_a_vector_in_two_halves_is_the_same_to_the_last_bit(size: float) -> None:
    rng = np.random.default_rng(10)
    rows = (rng.uniform(-1, 1, (50, 7)) * size).astype(np.float32)
    held = VectorSet("float32", "dotProduct", 7)
    for row, values in enumerate(rows):
        held.add(row, Vector("float32", values))
    alive = np.arange(50, dtype=np.int32)
    alive[::3] = -1

    (block,) = held.snapshot().blocks
    packed = held.compact(alive).snapshot().blocks

    assert block.whole(np.arange(50)).tobytes() == rows.tobytes()
    assert (
        b"".join(one.whole(slice(None)).tobytes() for one in packed) == rows[alive >= 0].tobytes()
    )
