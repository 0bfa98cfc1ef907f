"""Shares pieces of work out among a few threads that stay."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# How many threads reading memory is worth.
MOST_THREADS = 4
# How long a helper is waited for at the end: about as long as its piece takes.
PATIENCE_S = 0.0003


class Crew:
    """The caller's thread and, once there is work to share, helpers that wait for more of it."""

    def __init__(self) -> None:
        self._helpers = min(MOST_THREADS, len(os.sched_getaffinity(0))) - 1
        self._pool = ThreadPoolExecutor(max(1, self._helpers), "localatlas-crew")

    def share(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
        """Return what `work` makes of each piece, in order; raises what it raises.

        `work` is pure: the caller's thread takes pieces too, at last also those of helpers that
        are late, since the system may have taken the processor from them for many milliseconds.
        """
        results: dict[int, Result] = {}
        turns = iter(range(len(pieces)))  # one step of it is atomic

        def take() -> None:
            for turn in turns:
                results[turn] = work(pieces[turn])

        helping = [self._pool.submit(take) for _ in range(min(self._helpers, len(pieces) - 1))]
        take()
        wait([helper for helper in helping if not helper.cancel()], PATIENCE_S)
        for turn, piece in enumerate(pieces):
            if turn not in results:
                results[turn] = work(piece)
        return [results[turn] for turn in range(len(pieces))]
