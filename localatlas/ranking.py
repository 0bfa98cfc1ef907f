"""Finds the best vectors of many in passes: half of each number over all, float64 over a few.

A pass rules out only what cannot be among the best: ranks come with a bound of their error. Where
the first leaves many in question, one of float32 stands between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localatlas.blocks import Block, Floats
from localatlas.bsonvectors import FLOAT32, Vector
from localatlas.crew import Crew
from localatlas.scores import Sought, estimate, exact_scores, head_products, products

# Where the wanted rows are fewer than this share of a block, copying them out beats computing all.
GATHER_BELOW = 0.3
# Ranks are looked at by their largest in so many groups before any is sorted.
GROUPS = 512
SMALLEST_GROUP = 8
# What one thread takes at a time; less than half of that is not shared out at all.
PIECE_BYTES = 8 * 2**20
# Rows that are copied out stay in the processor's own cache.
COPIED_BYTES = 2**20

# As many in question are worth a pass of float32.
MANY = 4096

Positions = NDArray[np.intp]
Best = tuple[NDArray[np.int32], Floats]
# Rows of a block: some in a row, or those at positions.
Piece = tuple[Block, slice | Positions]


@dataclass(frozen=True, slots=True)
class Part:
    """The vectors of a block at the positions `chosen` (None: all).

    `wanted` is a mask over those, None where every one is wanted.
    """

    block: Block
    chosen: Positions | None
    wanted: NDArray[np.bool_] | None

    def pieces(self) -> list[Piece]:
        """The vectors in pieces that threads can share out."""
        block, chosen = self.block, self.chosen
        width = max(1, block.heads[0].nbytes)
        if chosen is None:
            step = max(1, PIECE_BYTES // width)
            return [(block, slice(at, at + step)) for at in range(0, len(block), step)]
        step = max(1, COPIED_BYTES // width)
        return [(block, chosen[at : at + step]) for at in range(0, len(chosen), step)]

    @property
    def lengths(self) -> Floats:
        """The lengths of the vectors."""
        return self.block.lengths if self.chosen is None else self.block.lengths[self.chosen]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A part with the ranks of its vectors, and their error: one bound for all or one for each.

    Those that are not wanted have the lowest rank. `tops` are the largest ranks of groups of them.
    """

    part: Part
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
        sought = Sought.of(query)
        parts = [part for block in self.blocks if (part := _part(block, wanted)) is not None]
        kept = _contenders(self._ranked(parts, sought, count, crew, whole=False), count)
        if query.kind == FLOAT32 and sum(map(len, kept)) > count + MANY:
            parts = [_only(part, places) for part, places in zip(parts, kept, strict=True)]
            parts = [part for part in parts if len(part.lengths)]
            kept = _contenders(self._ranked(parts, sought, count, crew, whole=True), count)
        parts = [_only(part, places) for part, places in zip(parts, kept, strict=True)]
        some = [(part.block, part.chosen) for part in parts if part.chosen is not None]
        if not some:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        rows = np.concatenate([block.rows[places] for block, places in some])
        values = np.concatenate([block.whole(places) for block, places in some])
        scores = exact_scores(values, query, self.similarity, self.dimensions)
        order = np.lexsort((rows, -scores))[:count]
        return rows[order], scores[order]

    def _ranked(
        self, parts: Sequence[Part], sought: Sought, count: int, crew: Crew, *, whole: bool
    ) -> list[Ranked]:
        pieces = [part.pieces() for part in parts]

        def multiply(piece: Piece) -> Floats:
            block, places = piece
            if not whole:
                return head_products(block.heads[places], sought)
            return products(block.whole(places), sought)

        every = [piece for some in pieces for piece in some]
        lengths = [part.lengths for part in parts]
        total = sum(map(len, lengths))
        if total * self.width < PIECE_BYTES // 2:
            done = iter(list(map(multiply, every)))
        else:
            done = iter(crew.share(multiply, every))
        group = max(1, total // max(GROUPS, 8 * count))
        slack = sought.slack if whole else sought.head_slack
        ranked = []
        for part, some, sizes in zip(parts, pieces, lengths, strict=True):
            found = [next(done) for _ in some]
            ranks, error = estimate(
                found[0] if len(found) == 1 else np.concatenate(found),
                sizes,
                sought,
                self.similarity,
                slack,
            )
            if part.wanted is not None:
                np.putmask(ranks, ~part.wanted, -np.inf)
            ranked.append(Ranked(part, ranks, error, _tops(ranks, group)))
        return ranked

    @property
    def width(self) -> int:
        """The bytes that the first pass reads of a vector."""
        return self.blocks[0].heads[0].nbytes if self.blocks else 0


def _part(block: Block, wanted: NDArray[np.bool_] | None) -> Part | None:
    """Return what is wanted of a block, or None where none of its rows is."""
    if wanted is None:
        return Part(block, None, None)
    mask = _mask(block.rows, wanted)
    some = int(np.count_nonzero(mask))
    if not some:
        return None
    if some == len(mask):
        return Part(block, None, None)
    if some < GATHER_BELOW * len(mask):
        return Part(block, np.flatnonzero(mask), None)
    return Part(block, None, mask)


def _only(part: Part, places: Positions) -> Part:
    """Return what stands at `places` of a part."""
    return Part(part.block, places if part.chosen is None else part.chosen[places], None)


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
        if part.part.wanted is not None:
            low[~part.part.wanted] = -np.inf
        least.append(low)
        most.append(high)
    return _at_least(ranked, most, _kth(np.concatenate(least), count))


def _at_least(
    ranked: Sequence[Ranked], values: Sequence[Floats], floor: np.float32
) -> list[Positions]:
    found = []
    for part, each in zip(ranked, values, strict=True):
        kept = np.flatnonzero(each >= floor)
        wanted = part.part.wanted
        found.append(kept if wanted is None else kept[wanted[kept]])
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
