"""Vectors as they lie in memory: a block of many, float32 in two halves of 16 bits.

The upper half of a float32 is a number of its own, the same cut to 8 significant bits (bfloat16). A
search reads the upper halves alone, half of the memory; both halves together are the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localatlas.bsonvectors import FLOAT32, INT8, PACKED_BIT

Floats = NDArray[np.float32]
# What the first pass of a search reads of a vector.
HEADS: dict[str, type[np.generic]] = {FLOAT32: np.uint16, INT8: np.int8, PACKED_BIT: np.uint8}


@dataclass(frozen=True, slots=True)
class Block:
    """Vectors (n, width), their lengths (n,) and the growing rows of the index they belong to.

    `heads` are the vectors, or of float32 the upper halves of the numbers, whose lower are `tails`.
    """

    heads: NDArray[Any]
    tails: NDArray[np.uint16] | None
    lengths: Floats
    rows: NDArray[np.int32]

    @classmethod
    def empty(cls, kind: str, room: int, width: int) -> Block:
        """Return a block to be filled; memory is taken as it is written to."""
        return cls(
            np.empty((room, width), HEADS[kind]),
            np.empty((room, width), np.uint16) if kind == FLOAT32 else None,
            np.empty(room, np.float32),
            np.empty(room, np.int32),
        )

    @classmethod
    def of(cls, values: NDArray[Any], lengths: Floats, rows: NDArray[np.int32]) -> Block:
        """Return a block of whole vectors, which are copied if they are float32."""
        if values.dtype != np.float32:
            return cls(values, None, lengths, rows)
        halves = _halves(values)
        return cls(halves[..., 1].copy(), halves[..., 0].copy(), lengths, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def put(self, place: int, values: NDArray[Any], length: np.float32, row: int) -> None:
        """Write one vector, its length and its row at `place`."""
        if self.tails is None:
            self.heads[place] = values
        else:
            halves = _halves(values)
            self.heads[place], self.tails[place] = halves[..., 1], halves[..., 0]
        self.lengths[place] = length
        self.rows[place] = row

    def cut(self, end: int) -> Block:
        """Return the first `end` vectors, without a copy."""
        tails = None if self.tails is None else self.tails[:end]
        return Block(self.heads[:end], tails, self.lengths[:end], self.rows[:end])

    def kept(self, places: NDArray[np.bool_], rows: NDArray[np.int32]) -> Block:
        """Return the vectors that the mask `places` keeps, under their new `rows` (all n)."""
        if places.all():
            return Block(self.heads, self.tails, self.lengths, rows)
        tails = None if self.tails is None else self.tails[places]
        return Block(self.heads[places], tails, self.lengths[places], rows[places])

    def joined(self, other: Block) -> Block:
        """Return these vectors and those of `other` in one block."""
        tails = None
        if self.tails is not None and other.tails is not None:
            tails = np.concatenate((self.tails, other.tails))
        return Block(
            np.concatenate((self.heads, other.heads)),
            tails,
            np.concatenate((self.lengths, other.lengths)),
            np.concatenate((self.rows, other.rows)),
        )

    def whole(self, places: slice | NDArray[np.intp]) -> NDArray[Any]:
        """Return the vectors at `places` to the last bit, in the type that they came in."""
        heads = self.heads[places]
        if self.tails is None:
            return heads
        halves = np.empty((*heads.shape, 2), np.uint16)
        halves[..., 1], halves[..., 0] = heads, self.tails[places]
        return halves.view(np.float32)[..., 0]


def _halves(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the lower and the upper half of each number (…, 2); processors are little-endian."""
    whole = np.ascontiguousarray(values, np.dtype("<f4"))
    return whole.view(np.dtype("<u2")).reshape(*values.shape, 2)
