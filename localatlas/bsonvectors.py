"""Takes vectors out of documents and queries: arrays of numbers and BSON binary vectors.

The binary layout (subtype 9) is one byte of data type, one of padding, then the little-endian
values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bson.binary import Binary
from bson.int64 import Int64
from numpy.typing import NDArray

from localatlas.definition import VectorField
from localatlas.reader import bson_type, is_number

VECTOR_SUBTYPE = 9
# The bits of the second byte that say how many bits of the last one are to be ignored.
PADDING = 0x07
FLOAT32, INT8, PACKED_BIT = "float32", "int8", "packed_bit"
NUMBERS = {int, float, Int64}
KINDS = {0x27: FLOAT32, 0x03: INT8, 0x10: PACKED_BIT}


class VectorError(ValueError):
    """Why a value is no vector, in the search engine's words."""


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector: `values` are float32, int8 or, packed eight to a byte, uint8, as `kind` says."""

    kind: str
    values: NDArray[Any]

    @property
    def dimensions(self) -> int:
        """The number of components; of a packed vector the number of bits."""
        return self.values.size * (8 if self.kind == PACKED_BIT else 1)

    @property
    def is_zero(self) -> bool:
        """Whether every component is zero (true of an empty vector)."""
        return not self.values.any()

    def non_finite(self) -> int | None:
        """Return the position of the first infinite or NaN component, or None."""
        if self.kind != FLOAT32:
            return None
        bad = ~np.isfinite(self.values)
        return int(bad.argmax()) if bad.any() else None


def parse_vector(value: object) -> Vector:
    """Return the vector a query gives (array or binary), or raise VectorError."""
    if isinstance(value, Binary | bytes):
        return _binary(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise VectorError('"queryVector" Unexpected type found when parsing vector')
    for element in value:
        if not is_number(element):
            raise VectorError(f"Unsupported BsonValue type: {bson_type(element)}")
    return Vector(FLOAT32, _narrow(value))


def document_vector(document: Mapping[str, Any], field: VectorField) -> Vector | None:
    """Return the vector of `document` that `field` indexes, or None when it has none.

    Of several vectors on the path the first that is one decides: with a wrong length, or all zero
    under cosine, the document is not indexed at all.
    """
    for value in _reach(document, field.path.split(".")):
        vector = _as_vector(value)
        if vector is None:
            continue
        if vector.dimensions != field.dimensions:
            return None
        if field.similarity == "cosine" and vector.is_zero:
            return None
        if _indexable(vector, field):
            return vector
    return None


def _indexable(vector: Vector, field: VectorField) -> bool:
    if vector.kind != FLOAT32 and field.quantization != "none":
        return False
    if vector.kind == PACKED_BIT and field.similarity != "euclidean":
        return False
    return vector.non_finite() is None


def _reach(value: object, keys: Sequence[str]) -> Iterator[object]:
    """Yield what lies at the path, through sub-documents and arrays, outermost and first first."""
    if isinstance(value, list):
        if not keys:
            yield value
        for element in value:
            if isinstance(element, list | Mapping) or not keys:
                yield from _reach(element, keys)
    elif not keys:
        yield value
    elif isinstance(value, Mapping) and keys[0] in value:
        yield from _reach(value[keys[0]], keys[1:])


def _as_vector(value: object) -> Vector | None:
    if isinstance(value, list):
        if not set(map(type, value)) <= NUMBERS:
            return None
        return Vector(FLOAT32, _narrow(value))
    if isinstance(value, Binary) and value.subtype == VECTOR_SUBTYPE:
        try:
            return _binary(value)
        except VectorError:
            return None
    return None


def _narrow(values: Sequence[Any]) -> NDArray[np.float32]:
    # Numbers that do not fit become infinite, which the callers look for.
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float64).astype(np.float32)


def _binary(value: bytes) -> Vector:
    subtype = value.subtype if isinstance(value, Binary) else 0
    if subtype != VECTOR_SUBTYPE:
        raise VectorError(f"BSON binary subtype should be vector(0x09) but got {subtype}")
    if len(value) < 2:
        raise VectorError(f"Expected at least 2 bytes in BSON vector but got {len(value)}")
    kind = KINDS.get(value[0])
    if kind is None:
        raise VectorError("Unsupported vector subtype found")
    if value[1] & PADDING:
        raise VectorError(
            "The dimensions of binary vector should be a multiple of 8 and "
            "the padding should be zero."
            if kind == PACKED_BIT
            else "Padding should be zero"
        )
    if kind == FLOAT32:
        floats = np.frombuffer(value, dtype="<f4", count=(len(value) - 2) // 4, offset=2)
        return Vector(kind, floats.astype(np.float32))
    dtype = np.int8 if kind == INT8 else np.uint8
    return Vector(kind, np.frombuffer(value, dtype=dtype, offset=2))
