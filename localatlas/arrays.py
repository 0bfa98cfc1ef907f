"""Arrays that grow at their end, and strings kept as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Growing:
    """A numpy array that grows at its end by doubling, starting small."""

    def __init__(self, dtype: type[np.generic], values: NDArray[Any] | None = None) -> None:
        self._values = np.empty(16, dtype) if values is None else values.astype(dtype)
        self._count = 0 if values is None else len(values)

    def append(self, value: Any) -> None:
        """Add one value."""
        if self._count == len(self._values):
            grown = np.empty(max(16, self._count + self._count // 2), self._values.dtype)
            grown[: self._count] = self._values
            self._values = grown
        self._values[self._count] = value
        self._count += 1

    def view(self) -> NDArray[Any]:
        """Return the values so far, without a copy."""
        return self._values[: self._count]


class Strings:
    """Distinct strings and their numbers, in the order in which they were met."""

    def __init__(self, values: Sequence[str] = ()) -> None:
        self.values = list(values)
        self._numbers = {value: number for number, value in enumerate(self.values)}
        self._sorted: NDArray[np.int32] | None = None

    def number(self, value: str) -> int:
        """Return the number of `value`, a new one if need be."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            self.values.append(value)
            self._sorted = None
        return number

    def find(self, value: str) -> int:
        """Return the number of `value`, or -1."""
        return self._numbers.get(value, -1)

    def standing(self, relation: str, value: str) -> Mask:
        """Return for each number whether its string stands in `relation` to `value`."""
        if self._sorted is None:
            order = sorted(range(len(self.values)), key=self.values.__getitem__)
            self._sorted = np.array(order, dtype=np.int32)
        # Code points order as their UTF-8 bytes do, so Python's order is the index's.
        left = relation in ("$lt", "$gte")
        low = _bisect(self.values, self._sorted, value, left=left)
        found = np.zeros(len(self.values), np.bool_)
        chosen = self._sorted[:low] if relation in ("$lt", "$lte") else self._sorted[low:]
        found[chosen] = True
        return found


def _bisect(values: Sequence[str], order: NDArray[np.int32], value: str, *, left: bool) -> int:
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        held = values[order[middle]]
        if held < value or (not left and held == value):
            low = middle + 1
        else:
            high = middle
    return low
