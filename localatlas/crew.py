"""Shares pieces of work out among a few threads that stay, each on processors of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# How many threads reading memory is worth.
MOST_THREADS = 4
# How long a thread is waited for at the end: about as long as its piece takes.
PATIENCE_S = 0.0003


class Crew:
    """Threads that begin with the first work to share, and then wait for more of it.

    Each keeps to its own part of the processors. Left to the system, a thread that is woken may
    queue behind the one that woke it, though another processor is idle: for 4 ms, as measured on a
    virtual machine, where a processor that sleeps looks taken.
    """

    def __init__(self) -> None:
        processors = sorted(os.sched_getaffinity(0))
        threads = self._threads = min(MOST_THREADS, len(processors))
        numbers = itertools.count()  # one step of it is atomic

        def settle() -> None:  # not of `self`: its threads, which hold it, would never end
            part = processors[next(numbers) % threads :: threads]
            with contextlib.suppress(OSError):  # taken from the process since
                os.sched_setaffinity(0, part)

        self._pool = ThreadPoolExecutor(self._threads, "localatlas-crew", initializer=settle)

    def share(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
        """Return what `work` makes of each piece, in order; raises what it raises.

        `work` is pure: at last the calling thread does itself what a thread that is late has in
        hand, since the system may have taken the processor from it for many milliseconds.
        """
        results: dict[int, Result] = {}
        turns = iter(range(len(pieces)))  # one step of it is atomic

        def take() -> None:
            for turn in turns:
                results[turn] = work(pieces[turn])

        takers: list[Future[None]] = []
        with contextlib.suppress(RuntimeError):  # no thread can be had: the caller does it all
            takers.extend(self._pool.submit(take) for _ in range(min(self._threads, len(pieces))))
        # When one finds nothing more to take, the others have a piece in hand at most.
        _, others = wait(takers, return_when=FIRST_COMPLETED)
        wait([taker for taker in others if not taker.cancel()], PATIENCE_S)
        for turn, piece in enumerate(pieces):
            if turn not in results:
                results[turn] = work(piece)
        return [results[turn] for turn in range(len(pieces))]
