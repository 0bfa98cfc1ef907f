"""A growing set of vectors of one kind, in blocks, each tied to a row of the index.

Blocks never move once full, so a search may go on over them while rows are added: it works on the
`Snapshot` it took. Memory is that of the vectors, 8 bytes a vector, and the rest of one block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from localatlas.bsonvectors import FLOAT32, INT8, PACKED_BIT, Vector
from localatlas.ranking import Block, Snapshot
from localatlas.scores import length

# Memory of a block that was never written to is not resident.
BLOCK_BYTES = 64 * 2**20
SMALL = 1024
DTYPES: dict[str, type[np.generic]] = {FLOAT32: np.float32, INT8: np.int8, PACKED_BIT: np.uint8}


class VectorSet:
    """The vectors of one kind at one path, in the order they were added."""

    def __init__(self, kind: str, similarity: str, dimensions: int) -> None:
        self.kind = kind
        self.similarity = similarity
        self.dimensions = dimensions
        self.width = dimensions // 8 if kind == PACKED_BIT else dimensions
        self._dtype = DTYPES[kind]
        itemsize = np.dtype(self._dtype).itemsize
        self._room = max(64, BLOCK_BYTES // (self.width * itemsize))
        self._full: list[Block] = []
        self._last: Block | None = None
        self._used = 0

    def __len__(self) -> int:
        return sum(len(block.rows) for block in self._full) + self._used

    def add(self, row: int, vector: Vector) -> None:
        """Append the vector of `row`; rows only ever grow."""
        if self._last is None or self._used == len(self._last.rows):
            self._open()
        assert self._last is not None  # noqa: S101 - opened just above
        self._last.values[self._used] = vector.values
        self._last.lengths[self._used] = length(vector)
        self._last.rows[self._used] = row
        self._used += 1

    def extend(self, block: Block) -> None:
        """Append many vectors at once, without a copy unless the blocks are small."""
        self._close()
        self._take(block)

    def snapshot(self) -> Snapshot:
        """Return the vectors as they are now; later additions do not show in it."""
        blocks = list(self._full)
        if self._last is not None and self._used:
            blocks.append(_cut(self._last, 0, self._used))
        return Snapshot(tuple(blocks), self.similarity, self.dimensions)

    def compact(self, new_rows: NDArray[np.int32]) -> VectorSet:
        """Return the vectors whose row lives on; `new_rows` gives each row its new number or -1."""
        packed = VectorSet(self.kind, self.similarity, self.dimensions)
        for block in self.snapshot().blocks:
            rows = new_rows[block.rows]
            alive = rows >= 0
            if alive.all():
                moved = Block(block.values, block.lengths, rows)
            else:
                moved = Block(block.values[alive], block.lengths[alive], rows[alive])
            packed._take(moved)
        return packed

    def _take(self, block: Block) -> None:
        """Keep `block`, in one with the block before it where both are small."""
        if not len(block.rows):
            return
        if self._full and len(self._full[-1].rows) + len(block.rows) <= self._room:
            last = self._full.pop()
            block = Block(
                np.concatenate((last.values, block.values)),
                np.concatenate((last.lengths, block.lengths)),
                np.concatenate((last.rows, block.rows)),
            )
        self._full.append(block)

    def _open(self) -> None:
        self._close()
        # Small sets start with small blocks; later ones have their full room, which costs nothing
        # until it is written to.
        room = self._room if len(self) >= SMALL else min(self._room, max(64, len(self)))
        self._last = Block(
            np.empty((room, self.width), self._dtype),
            np.empty(room, np.float32),
            np.empty(room, np.int32),
        )

    def _close(self) -> None:
        if self._last is not None and self._used:
            self._full.append(_cut(self._last, 0, self._used))
        self._last, self._used = None, 0


def _cut(block: Block, start: int, end: int) -> Block:
    return Block(block.values[start:end], block.lengths[start:end], block.rows[start:end])
