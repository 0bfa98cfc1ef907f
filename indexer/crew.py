"""A few threads that work through a list, so that reading, encoding and writing overlap."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")
_END = object()
IN_HAND_S = 6.0
"""So long a stop waits for what is in hand: a picture, not a slow server."""


class Crew(Generic[J, R]):
    """`size` threads that call `work` on jobs. An error of `work` ends the whole list.

    The threads are daemons: one that hangs in a slow server's answer does not keep the process
    from ending.
    """

    def __init__(self, work: Callable[[J], R], *, size: int, stopping: threading.Event) -> None:
        self._work = work
        self._size = size
        self._stopping = stopping
        self._jobs: queue.Queue[object] = queue.Queue(size)
        self._results: queue.SimpleQueue[tuple[R | None, BaseException | None]]
        self._results = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, jobs: Iterable[J]) -> Iterator[R]:
        """The results as they come. Ends early, with what is in hand done, once `stopping` is set.

        Raises the first error of `work`, after the jobs in hand are done.
        """
        if not self._threads:
            for number in range(self._size):
                thread = threading.Thread(target=self._loop, name=f"item-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        waiting, error = 0, None
        for job in jobs:
            while waiting >= self._size and error is None:
                done = self._next()
                if done is None:
                    return
                waiting -= 1
                result, error = done
                if error is None:
                    yield result  # type: ignore[misc]  # no error means a result
            if self._stopping.is_set() or error is not None:
                break
            self._jobs.put(job)
            waiting += 1
        while waiting and (done := self._next()) is not None:
            waiting -= 1
            result, failed = done
            error = error or failed
            if failed is None:
                yield result  # type: ignore[misc]
        if error is not None:
            raise error

    def _next(self) -> tuple[R | None, BaseException | None] | None:
        """The next result; None when a stop has waited long enough for what is in hand."""
        stopped = None
        while True:
            with contextlib.suppress(queue.Empty):
                return self._results.get(timeout=0.1)
            if self._stopping.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() - stopped > IN_HAND_S:
                    return None

    def close(self) -> None:
        """Let the threads end."""
        for _ in self._threads:
            try:
                self._jobs.put_nowait(_END)
            except queue.Full:
                break
        self._threads.clear()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not _END:
            try:
                self._results.put((self._work(job), None))  # type: ignore[arg-type]
            except BaseException as error:  # handed to the caller of run, who raises it
                self._results.put((None, error))
