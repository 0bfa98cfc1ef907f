"""Finds the best vectors of many in two passes: float32 over all, float64 over the few in question.

The first pass rules out only what cannot be among the best: ranks come with a bound of their error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localatlas.bsonvectors import Vector
from localatlas.crew import Crew
from localatlas.scores import Floats, estimate, exact_scores

# Where the wanted rows are fewer than this share of a block, copying them out beats computing all.
GATHER_BELOW = 0.3
# Ranks are looked at by their largest in so many groups before any is sorted.
GROUPS = 512
SMALLEST_GROUP = 8
# What one thread takes at a time; less than that is not shared out at all.
PIECE_BYTES = 8 * 2**20

Positions = NDArray[np.intp]
Best = tuple[NDArray[np.int32], Floats]


@dataclass(frozen=True, slots=True)
class Block:
    """Vectors, their lengths and the rows of the index, ever growing, that they belong to."""

    values: NDArray[Any]
    lengths: Floats
    rows: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A block with the ranks of the vectors at the positions `chosen` (None: all), and their error.

    `wanted` is a mask over the ranks, None where every one is wanted; the others are the lowest.
    `error` is one bound for all or one for each. `tops` are the largest ranks of groups of them.
    """

    block: Block
    chosen: Positions | None
    wanted: NDArray[np.bool_] | None
    ranks: Floats
    error: Floats | np.float32
    tops: Floats


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The vectors of one kind as they were at one moment."""

    blocks: tuple[Block, ...]
    similarity: str
    dimensions: int

    def best(self, query: Vector, wanted: NDArray[np.bool_] | None, count: int, crew: Crew) -> Best:
        """Return rows and scores of the `count` best vectors, best first.

        `wanted` is a mask over the rows of the index; None wants all. Equal scores come in the
        order of rows. As exact as if every score were computed in full. Large products are shared
        out among the `crew`.
        """
        rows, values = [np.empty(0, np.int32)], []
        ranked = self._ranked(query, wanted, count, crew)
        for part, kept in zip(ranked, _contenders(ranked, count), strict=True):
            places = kept if part.chosen is None else part.chosen[kept]
            if len(places):
                rows.append(part.block.rows[places])
                values.append(part.block.values[places])
        if not values:
            return rows[0], np.empty(0, np.float32)
        all_rows = np.concatenate(rows)
        scores = exact_scores(np.concatenate(values), query, self.similarity, self.dimensions)
        order = np.lexsort((all_rows, -scores))[:count]
        return all_rows[order], scores[order]

    def _ranked(
        self, query: Vector, wanted: NDArray[np.bool_] | None, count: int, crew: Crew
    ) -> list[Ranked]:
        some = sum(len(block.rows) for block in self.blocks)
        if wanted is not None:
            some = min(some, int(np.count_nonzero(wanted)))
        group = max(1, some // max(GROUPS, 8 * count))
        pieces = [piece for block in self.blocks for piece in _pieces(block)]

        def rank(piece: Block) -> Ranked | None:
            return _ranked(piece, wanted, query, self.similarity, group)

        if sum(piece.values.nbytes for piece in pieces) < PIECE_BYTES:
            ranked = list(map(rank, pieces))
        else:
            ranked = crew.share(rank, pieces)
        return [part for part in ranked if part is not None]


def _pieces(block: Block) -> Iterator[Block]:
    """Yield the block in pieces that threads can share out among themselves."""
    step = max(1, PIECE_BYTES // max(1, block.values[0].nbytes))
    for start in range(0, len(block.rows), step):
        part = slice(start, start + step)
        yield Block(block.values[part], block.lengths[part], block.rows[part])


def _ranked(
    block: Block,
    wanted: NDArray[np.bool_] | None,
    query: Vector,
    similarity: str,
    group: int,
) -> Ranked | None:
    """Return the block's ranks, or None where none of its rows is wanted."""
    chosen, mask = None, None
    if wanted is not None:
        mask = _mask(block.rows, wanted)
        some = int(np.count_nonzero(mask))
        if not some:
            return None
        if some == len(mask):
            mask = None
        elif some < GATHER_BELOW * len(mask):
            chosen, mask = np.flatnonzero(mask), None
    if chosen is None:
        ranks, error = estimate(block.values, block.lengths, query, similarity)
    else:
        ranks, error = estimate(block.values[chosen], block.lengths[chosen], query, similarity)
    if mask is not None:
        np.putmask(ranks, ~mask, -np.inf)
    return Ranked(block, chosen, mask, ranks, error, _tops(ranks, group))


def _mask(rows: NDArray[np.int32], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    first, last = int(rows[0]), int(rows[-1])
    # Rows grow, so without gaps they are a slice.
    return wanted[first : last + 1] if last - first == len(rows) - 1 else wanted[rows]


def _contenders(ranked: Sequence[Ranked], count: int) -> list[Positions]:
    """Return for each part the positions of all that may be among the `count` best overall."""
    errors = [part.error for part in ranked]
    bounds = [error for error in errors if isinstance(error, np.float32)]
    if len(bounds) < len(errors):
        return _by_each_error(ranked, count)
    slack = 2 * max(bounds, default=np.float32(0))
    # At least `count` groups, and so at least `count` ranks, reach the `count`-th of their tops.
    floor = _kth(np.concatenate([part.tops for part in ranked]), count) if ranked else -np.inf
    found = _at_least(ranked, [part.ranks for part in ranked], np.float32(floor) - slack)
    if sum(map(len, found)) > 2 * count + GROUPS:
        near = [part.ranks[kept] for part, kept in zip(ranked, found, strict=True)]
        floor = _kth(np.concatenate(near), count) - slack
        found = [kept[each >= floor] for kept, each in zip(found, near, strict=True)]
    return found


def _by_each_error(ranked: Sequence[Ranked], count: int) -> list[Positions]:
    """Like `_contenders`, where each rank has an error of its own: infinite is "cannot tell"."""
    least, most = [], []
    for part in ranked:
        with np.errstate(invalid="ignore"):
            low, high = part.ranks - part.error, part.ranks + part.error
        unsure = ~np.isfinite(np.broadcast_to(part.error, part.ranks.shape))
        low[unsure], high[unsure] = -np.inf, np.inf
        if part.wanted is not None:
            low[~part.wanted] = -np.inf
        least.append(low)
        most.append(high)
    return _at_least(ranked, most, _kth(np.concatenate(least), count))


def _at_least(
    ranked: Sequence[Ranked], values: Sequence[Floats], floor: np.float32
) -> list[Positions]:
    found = []
    for part, each in zip(ranked, values, strict=True):
        kept = np.flatnonzero(each >= floor)
        found.append(kept if part.wanted is None else kept[part.wanted[kept]])
    return found


def _tops(ranks: Floats, group: int) -> Floats:
    """Return the largest of each `group` ranks: cheaper than sorting all of them."""
    if group < SMALLEST_GROUP:
        return ranks
    whole = len(ranks) // group * group
    tops: Floats = ranks[:whole].reshape(-1, group).max(axis=1)
    return tops if whole == len(ranks) else np.append(tops, ranks[whole:].max())


def _kth(values: Floats, count: int) -> np.float32:
    """Return the `count`-th largest value; minus infinity where there are not so many."""
    if len(values) < count:
        return np.float32(-np.inf)
    place = len(values) - count
    return np.float32(np.partition(values, place)[place])
