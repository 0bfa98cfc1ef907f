"""Scores of vectors against a query vector, as Atlas gives them.

    cosine       max(0, (1 + cos) / 2)          dotProduct   max(0, (1 + dot) / 2), not capped at 1
    euclidean    1 / (1 + d²), d² squared       packed bits  (bits - hamming) / bits
    int8 dotProduct                             0.5 + dot / (dimensions x 32768)

Source: Lucene's VectorSimilarityFunction and VectorUtil, and the engine's own bit similarity.
Inputs are float32 or int8, sums are taken in float64, the score is rounded to float32.

`products` are taken in float32 over many rows at once, and `estimate` says how far off that may be;
`exact_scores` is for the few rows that may be in the answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from localatlas.bsonvectors import INT8, PACKED_BIT, Vector

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
# Half a unit in the last place of float32, the bound of one rounding.
UNIT = 2.0**-24
# How many components are widened to a longer type at a time: 16 MB as float64.
WIDENED = 2**21
# Products of two lengths between which float32 sums neither overflow nor lose small terms.
NARROWEST, WIDEST = np.float32(1e-30), np.float32(1e37)


def length(vector: Vector) -> np.float32:
    """Return the euclidean length of a float32 or int8 vector; 0 for packed bits.

    Infinite where float32 cannot hold it, which `estimate` takes as "cannot tell".
    """
    if vector.kind == PACKED_BIT:
        return np.float32(0)
    values = vector.values.astype(np.float64)
    with np.errstate(over="ignore"):
        return np.float32(np.sqrt(values @ values))


def exact_scores(rows: NDArray[Any], query: Vector, similarity: str, dimensions: int) -> Floats:
    """Return the score of each of `rows` (n, width), float32 (n,)."""
    if query.kind == PACKED_BIT:
        distances = np.bitwise_count(rows ^ query.values).sum(axis=1, dtype=np.int64)
        return _rounded((dimensions - distances) / dimensions)
    scores = [_exact(part, query, similarity, dimensions) for part in _parts(rows)]
    return np.concatenate(scores)


def _exact(rows: NDArray[Any], query: Vector, similarity: str, dimensions: int) -> Floats:
    wide = rows.astype(np.float64)
    target = query.values.astype(np.float64)
    if similarity == "euclidean":
        difference = wide - target
        return _rounded(1.0 / (1.0 + np.einsum("ij,ij->i", difference, difference)))
    dots = np.einsum("ij,j->i", wide, target)
    if similarity == "cosine":
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide) * (target @ target))
        return _rounded(np.maximum((1.0 + dots / lengths) / 2.0, 0.0))
    if query.kind == INT8:
        return _rounded(0.5 + dots / (dimensions * 32768.0))
    return _rounded(np.maximum((1.0 + dots) / 2.0, 0.0))


def products(rows: NDArray[Any], query: Vector) -> Floats:
    """Return the float32 product of each of `rows` with the query; packed bits: minus the distance.

    Nothing but this reads all the vectors, and it holds no lock of Python's while it does.
    """
    if query.kind == PACKED_BIT:
        distances = np.bitwise_count(rows ^ query.values).sum(axis=1, dtype=np.int32)
        negative: Floats = -distances.astype(np.float32)
        return negative
    target = query.values.astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if rows.dtype == np.float32:
            # Not `rows @ target`: its threads spin while they wait for each other, which costs more
            # than it gains as soon as the machine does anything else. Callers bring their own.
            whole: Floats = np.vecdot(rows, target)
            return whole
        parts = [np.vecdot(part.astype(np.float32), target) for part in _parts(rows)]
    return np.concatenate(parts)


def estimate(
    ranks: Floats, lengths: Floats, query: Vector, similarity: str
) -> tuple[Floats, Floats | np.float32]:
    """Return for each row a rank (larger is better) and how far that may be from the true one.

    `ranks` are the rows' `products`, at least one, which are overwritten; `lengths` those of the
    rows. Ranks are the cosine, the dot product cut at -1, or minus the squared distance: they order
    rows as the score does. The error is one bound for all rows, or where float32 is too narrow for
    some of them one for each, infinite for those. It also covers the rounding of the score itself,
    so that rows whose scores will be equal are not told apart.
    """
    if query.kind == PACKED_BIT:
        return ranks, np.float32(0)
    size = length(query)
    # A sum of n products errs by at most about n half-units of the product of the two lengths.
    width = np.float32((len(query.values) + 8) * UNIT)
    total = np.empty(0, np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        shortest, longest = lengths.min() * size, lengths.max() * size
        if similarity == "cosine":
            ranks /= lengths * size
            narrow = shortest < NARROWEST
            error = 2 * width
        elif similarity == "dotProduct":
            np.maximum(ranks, np.float32(-1), out=ranks)
            narrow = False
            error = longest * width + np.float32(4 * UNIT)
        else:
            total = lengths * lengths
            total += size * size
            ranks *= 2
            ranks -= total
            longest = max(longest, total.max())
            narrow = False
            error = (longest + 1) * (4 * width)
        if not narrow and longest <= WIDEST:
            return ranks, np.float32(error)
        products = lengths * size
        unsure = ~((products <= WIDEST) & np.isfinite(ranks))
        if similarity == "cosine":
            errors = np.full(len(ranks), error, np.float32)
            unsure |= products < NARROWEST
        elif similarity == "dotProduct":
            errors = products * width + np.float32(4 * UNIT)
        else:
            errors = (total + 1) * (4 * width)
    errors[unsure] = np.inf
    return ranks, errors


def _parts(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Return `rows` in parts that take little memory when they are widened."""
    step = max(1, WIDENED // max(1, rows.shape[1]))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _rounded(scores: Doubles) -> Floats:
    # A dot product of huge vectors may exceed float32: such a score is infinite, as it is in Atlas.
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)
