"""The keys of a listing, remembered in little room."""

from __future__ import annotations

import array
import bisect
import hashlib
from collections.abc import Iterable, Sequence

MANY = 100_000
"""So many keys are put in order by numpy; loading that takes longer than to order fewer."""


class Seen:
    """The keys of a listing, 8 bytes each: a million of them take 8 MB.

    Two keys fall together once in 10^19 pairs; the later of them is then kept a run too long.
    """

    def __init__(self) -> None:
        self._hashes = array.array("Q")
        self._sorted: Sequence[int] | None = None

    def add(self, keys: Iterable[str]) -> None:
        """Remember `keys`."""
        self._hashes.extend(map(_hash, keys))
        self._sorted = None

    def __contains__(self, key: str) -> bool:
        known, wanted = self._unique(), _hash(key)
        at = bisect.bisect_left(known, wanted)
        return at < len(known) and known[at] == wanted

    def repeated(self) -> int:
        """How many of the keys had been there already."""
        return len(self._hashes) - len(self._unique())

    def _unique(self) -> Sequence[int]:
        if self._sorted is None:
            self._sorted = _in_order(self._hashes)
        return self._sorted


def _in_order(hashes: array.array[int]) -> Sequence[int]:
    if len(hashes) <= MANY:
        return sorted(set(hashes))
    import numpy as np

    return array.array("Q", np.unique(np.frombuffer(hashes, np.uint64)).tobytes())


def _hash(key: str) -> int:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
