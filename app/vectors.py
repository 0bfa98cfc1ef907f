"""Vectors that clients send."""

from __future__ import annotations

from collections.abc import Sequence

from faces.errors import InvalidRequest
from faces.types import Vector


def unit(values: Sequence[float], dimensions: int) -> Vector:
    """The vector at unit length. Raises InvalidRequest for a wrong size and a norm of no use."""
    import numpy as np  # only where there are vectors: a process without faces does without it

    if len(values) != dimensions:
        raise InvalidRequest.field("vector", f"must hold {dimensions} numbers")
    vector = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        norm = float(np.sqrt(np.sum(vector * vector)))
    # What overflows as float32, in which vectors are kept and compared, has no norm here either.
    if not norm * norm <= float(np.finfo(np.float32).max):
        raise InvalidRequest.field("vector", "is too long: its norm overflows")
    if norm < 1e-12:
        raise InvalidRequest.field("vector", "is zero: it has no direction")
    return (vector / norm).astype(np.float32)
