"""A growing set of vectors of one kind, in blocks, each tied to a row of the index.

Blocks never move once full, so a search may go on over them while rows are added: it works on the
`Snapshot` it took. Memory is that of the vectors, 8 bytes a vector, and the rest of one block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localatlas.blocks import HEADS, Block
from localatlas.bsonvectors import FLOAT32, PACKED_BIT, Vector
from localatlas.ranking import Snapshot
from localatlas.scores import length

# Memory of a block that was never written to is not resident.
BLOCK_BYTES = 64 * 2**20
SMALL = 1024


class VectorSet:
    """The vectors of one kind at one path, in the order they were added."""

    def __init__(self, kind: str, similarity: str, dimensions: int) -> None:
        self.kind = kind
        self.similarity = similarity
        self.dimensions = dimensions
        self.width = dimensions // 8 if kind == PACKED_BIT else dimensions
        itemsize = 4 if kind == FLOAT32 else np.dtype(HEADS[kind]).itemsize
        self._room = max(64, BLOCK_BYTES // (self.width * itemsize))
        self._full: list[Block] = []
        self._last: Block | None = None
        self._used = 0

    def __len__(self) -> int:
        return sum(map(len, self._full)) + self._used

    def add(self, row: int, vector: Vector) -> None:
        """Append the vector of `row`; rows only ever grow."""
        if self._last is None or self._used == len(self._last):
            self._open()
        assert self._last is not None  # noqa: S101 - opened just above
        self._last.put(self._used, vector.values, length(vector), row)
        self._used += 1

    def extend(self, block: Block) -> None:
        """Append many vectors at once, without a copy unless the blocks are small."""
        self._close()
        self._take(block)

    def snapshot(self) -> Snapshot:
        """Return the vectors as they are now; later additions do not show in it."""
        blocks = list(self._full)
        if self._last is not None and self._used:
            blocks.append(self._last.cut(self._used))
        return Snapshot(tuple(blocks), self.similarity, self.dimensions)

    def compact(self, new_rows: NDArray[np.int32]) -> VectorSet:
        """Return the vectors whose row lives on; `new_rows` gives each row its new number or -1."""
        packed = VectorSet(self.kind, self.similarity, self.dimensions)
        for block in self.snapshot().blocks:
            rows = new_rows[block.rows]
            packed._take(block.kept(rows >= 0, rows))
        return packed

    def _take(self, block: Block) -> None:
        """Keep `block`, in one with the block before it where both are small."""
        if not len(block):
            return
        if self._full and len(self._full[-1]) + len(block) <= self._room:
            block = self._full.pop().joined(block)
        self._full.append(block)

    def _open(self) -> None:
        self._close()
        # Small sets start with small blocks; later ones have their full room, which costs nothing
        # until it is written to.
        room = self._room if len(self) >= SMALL else min(self._room, max(64, len(self)))
        self._last = Block.empty(self.kind, room, self.width)

    def _close(self) -> None:
        if self._last is not None and self._used:
            self._full.append(self._last.cut(self._used))
        self._last, self._used = None, 0
