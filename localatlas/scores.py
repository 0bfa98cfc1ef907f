"""Scores of vectors against a query vector, as Atlas gives them.

    cosine       max(0, (1 + cos) / 2)          dotProduct   max(0, (1 + dot) / 2), not capped at 1
    euclidean    1 / (1 + d²), d² squared       packed bits  (bits - hamming) / bits
    int8 dotProduct                             0.5 + dot / (dimensions x 32768)

Source: Lucene's VectorSimilarityFunction and VectorUtil, and the engine's own bit similarity.
Inputs are float32 or int8, sums are taken in float64, the score is rounded to float32.

Over many rows at once, `head_products` are taken of the upper halves of the numbers and `products`
in float32, and `estimate` says how far off either may be; `exact_scores` is for the few rows that
may be in the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simsimd
from numpy.typing import NDArray

from localatlas.blocks import Floats
from localatlas.bsonvectors import FLOAT32, INT8, PACKED_BIT, Vector

Doubles = NDArray[np.float64]
# Half a unit in the last place of float32, the bound of one rounding.
UNIT = 2.0**-24
# By what a dot product of int8 is divided, for each dimension.
INT8_SCALE = 32768.0
# How many components are widened to a longer type at a time: 16 MB as float64.
WIDENED = 2**21
# How far a number is from its upper half, as a share of it.
HEAD_UNIT = np.float32(2.0**-7)
EXPONENT = np.uint32(0x7F800000)
# Lengths between which float32 sums neither overflow nor lose small terms.
NARROWEST, WIDEST = np.float32(1e-12), np.float32(1e37)
# Some processors take numbers and products below 2^-126 for zero: of a vector's all together.
LOST = np.float32(2e-34)


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
        return _rounded(0.5 + dots / (dimensions * INT8_SCALE))
    return _rounded(np.maximum((1.0 + dots) / 2.0, 0.0))


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for: the vector, its length, and what stands in for it beside `Block.heads`.

    A product with a row is off by at most `slack` times the length of the row, one with a head by
    at most `head_slack` times that.
    """

    vector: Vector
    size: np.float32
    slack: np.float32
    head: NDArray[Any]
    head_slack: np.float32

    @classmethod
    def of(cls, vector: Vector) -> Sought:
        """Return what a search for `vector` needs of it."""
        size = length(vector)
        # A sum of n products errs by at most about n half-units of the product of the two lengths.
        slack = size * _width(vector)
        if vector.kind != FLOAT32:
            return cls(vector, size, slack, vector.values, slack)
        head = _head(vector.values)
        near = (head.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            missed = np.float32(np.linalg.norm(vector.values.astype(np.float64) - near))
            # Each number of a row is cut by less than 2^-7 of itself.
            return cls(vector, size, slack, head, missed + (size + missed) * HEAD_UNIT + 2 * slack)


def head_products(heads: NDArray[Any], sought: Sought) -> Floats:
    """Return the product of each of `heads` (n, width) with the query; minus the distance of bits.

    Nothing but this reads all the vectors, and it holds no lock of Python's while it does.
    """
    if sought.vector.kind == PACKED_BIT:
        distances = np.bitwise_count(heads ^ sought.head).sum(axis=1, dtype=np.int32)
        negative: Floats = -distances.astype(np.float32)
        return negative
    kind: Literal["int8", "bf16"] = "int8" if sought.vector.kind == INT8 else "bf16"
    found = simsimd.cdist(sought.head[None], heads, "dot", dtype=kind, out_dtype="float32")
    each: Floats = np.asarray(found)[0]
    return each


def products(rows: Floats, sought: Sought) -> Floats:
    """Return the float32 product of each of `rows` (n, width) with the query."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # Not `rows @ target`: its threads spin while they wait for each other, which costs more
        # than it gains as soon as the machine does anything else. Callers bring their own.
        whole: Floats = np.vecdot(rows, sought.vector.values)
        return whole


def estimate(
    ranks: Floats, lengths: Floats, sought: Sought, similarity: str, slack: np.float32
) -> tuple[Floats, Floats | np.float32]:
    """Return for each row a rank (larger is better) and how far that may be from the true one.

    `ranks` are the rows' products, at least one, which are overwritten, and off by at most `slack`
    times the rows' `lengths`. Ranks are the cosine, the dot product (of floats cut at -1), or minus
    the squared distance: they order rows as the score does. The error is one bound for all rows, or
    where float32 is too narrow for some of them one for each, infinite for those. It also covers
    the rounding of the score itself, so that rows whose scores will be equal are not told apart.
    """
    if sought.vector.kind == PACKED_BIT:
        return ranks, np.float32(0)
    size, width = sought.size, _width(sought.vector)
    least = min(lengths.min(), size)
    floats = sought.vector.kind == FLOAT32
    # Dot products that lie as close as this may have one score.
    near = np.float32((4 if floats else INT8_SCALE * len(sought.vector.values)) * UNIT)
    total = np.empty(0, np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        longest = lengths.max()
        widest = longest * max(size, np.float32(1))
        # What products of numbers too small for float32 may come to, which count as zero.
        lost = (longest + size + 1) * LOST
        if similarity == "cosine":
            ranks /= lengths * size
            error = slack / size + width
        elif similarity == "dotProduct":
            if floats:
                np.maximum(ranks, np.float32(-1), out=ranks)
            error = longest * slack + lost + near
        else:
            total = lengths * lengths
            total += size * size
            ranks *= 2
            ranks -= total
            widest = max(widest, total.max())
            error = 2 * (longest * slack + lost) + (total.max() + 1) * (4 * width)
        if widest <= WIDEST and not (similarity == "cosine" and least < NARROWEST):
            return ranks, np.float32(error)
        unsure = ~((lengths * max(size, np.float32(1)) <= WIDEST) & np.isfinite(ranks))
        if similarity == "cosine":
            errors = np.full(len(ranks), error, np.float32)
            unsure |= np.minimum(lengths, size) < NARROWEST
        elif similarity == "dotProduct":
            errors = lengths * slack + lost + near
        else:
            errors = 2 * (lengths * slack + lost) + (total + 1) * (4 * width)
    errors[unsure | ~np.isfinite(errors)] = np.inf
    return ranks, errors


def _width(vector: Vector) -> np.float32:
    return np.float32((len(vector.values) + 8) * UNIT)


def _head(values: Floats) -> NDArray[np.uint16]:
    """Return the upper halves of the numbers nearest to `values` that have a lower half of zero."""
    whole = values.view(np.uint32)
    rounded = whole + np.uint32(0x7FFF) + ((whole >> 16) & 1)
    # The largest numbers would round to infinity.
    finite = (rounded & EXPONENT) != EXPONENT
    head: NDArray[np.uint16] = (np.where(finite, rounded, whole) >> 16).astype(np.uint16)
    return head


def _parts(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Return `rows` in parts that take little memory when they are widened."""
    step = max(1, WIDENED // max(1, rows.shape[1]))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _rounded(scores: Doubles) -> Floats:
    # A dot product of huge vectors may exceed float32: such a score is infinite, as it is in Atlas.
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)
