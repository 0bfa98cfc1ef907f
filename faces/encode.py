"""Aligned face crops -> unit vectors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from faces.models.cards import ModelCard
from faces.sessions import Session

BATCH = 4
"""More faces at once are no faster a face, and cost memory."""

Crops = npt.NDArray[np.uint8]
"""(n, size, size, 3), BGR, aligned as the model's card says."""
Vectors = npt.NDArray[np.float32]
"""(n, dimensions), each of unit length."""


class Encoder(Protocol):
    """Makes the vectors of one model. `build` is the SHA-256 of what makes them."""

    @property
    def key(self) -> str:
        """The model's key."""

    @property
    def build(self) -> str:
        """The SHA-256 of the model's file."""

    @property
    def dimensions(self) -> int:
        """The length of a vector."""

    def encode(self, crops: Crops) -> Vectors:
        """Unit vectors, (n, dimensions) float32, of crops (n, size, size, 3) BGR uint8."""


class OnnxEncoder:
    """Encodes on this machine's CPU."""

    def __init__(self, session: Session, card: ModelCard, build: str) -> None:
        self._session, self._card = session, card
        self.key, self.build, self.dimensions = card.key, build, card.dimensions

    def encode(self, crops: Crops) -> Vectors:
        """Unit vectors, (n, dimensions) float32, of crops (n, size, size, 3) BGR uint8.

        Works through them in batches of at most 4. Raises ValueError for another shape or type.
        """
        size = self._card.input_size
        if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, {size}, {size}, 3) uint8")
        vectors = np.empty((len(crops), self.dimensions), np.float32)
        name = self._session.inputs[0]
        for start in range(0, len(crops), BATCH):
            batch = np.ascontiguousarray(crops[start : start + BATCH])
            (vectors[start : start + BATCH],) = self._session.run({name: batch})
        return vectors
