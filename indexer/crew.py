"""A few threads that work through a list, so that reading, encoding and writing overlap."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

J = TypeVar("J")
R = TypeVar("R")
_END = object()
IN_HAND_S = 6.0
"""So long a stop waits for what is in hand: a picture, not a slow server."""
TOGETHER = 16
"""So many jobs are finished together at most."""
LINGER_S = 0.1
"""So long the first of them waits for company, while others are being prepared."""


@dataclass(frozen=True, slots=True)
class Half:
    """A job that is prepared, to be finished together with others of `size` in all at most."""

    value: Any
    size: int = 1


Work: TypeAlias = Callable[[J], R | Half]
Finish: TypeAlias = Callable[[Sequence[Any]], Sequence[R]]


class Crew(Generic[J, R]):
    """`size` threads that call `work` on jobs. An error of `work` ends the whole list.

    What `work` returns as a `Half` goes to one more thread, which calls `finish` with the values of
    several of them for their results. The threads are daemons: one that hangs in a slow server's
    answer does not keep the process from ending.
    """

    def __init__(
        self,
        work: Work[J, R],
        finish: Finish[R] | None = None,
        *,
        size: int,
        stopping: threading.Event,
        most: int = 64,
    ) -> None:
        """`most` bounds the sizes of what is finished together."""
        self._work = work
        self._size = size
        self._most = 2 * size + (TOGETHER if finish else 0)
        """So many jobs are under way: with a thread, in line for one, or in line to be finished."""
        self._stopping = stopping
        self._jobs: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[R | None, BaseException | None]]
        self._results = queue.SimpleQueue()
        self._halves: _Halves[R] = _Halves(finish, self._results, stopping, most)
        self._threads: list[threading.Thread] = []

    def run(self, jobs: Iterable[J]) -> Iterator[R]:
        """The results as they come. Ends early, with what is in hand done, once `stopping` is set.

        Raises the first error of `work`, `finish` or `jobs`, after the jobs in hand are done.
        """
        if not self._threads:
            self._start()
        waiting, error, more = 0, None, iter(jobs)
        while error is None and not self._stopping.is_set():
            try:
                job = next(more)
            except StopIteration:
                break
            except BaseException as failed:  # raised below, when what is in hand is done
                error = failed
                break
            self._halves.expect()
            self._jobs.put(job)
            waiting += 1
            while waiting and error is None and (waiting >= self._most or self._some):
                done = self._next()
                if done is None:
                    return
                waiting -= 1
                result, error = done
                if error is None:
                    yield result  # type: ignore[misc]  # no error means a result
        while True:
            if error is not None or self._stopping.is_set():
                waiting -= self._drop()
            if not waiting or (done := self._next()) is None:
                break
            waiting -= 1
            result, failed_too = done
            error = error or failed_too
            if failed_too is None:
                yield result  # type: ignore[misc]
        if error is not None:
            raise error

    def _drop(self) -> int:
        """How many jobs were in line for a thread; none is begun any more."""
        count = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
                self._halves.add(None)
                count += 1
        return count

    @property
    def _some(self) -> bool:
        return not self._results.empty()

    def _start(self) -> None:
        loops = [(f"item-{number}", self._loop) for number in range(self._size)]
        for name, loop in [*loops, ("store", self._halves.loop)]:
            thread = threading.Thread(target=loop, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

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
            self._jobs.put(_END)
        self._halves.end()
        self._threads.clear()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not _END:
            try:
                done = self._work(job)  # type: ignore[arg-type]
            except BaseException as error:  # handed to the caller of run, who raises it
                self._results.put((None, error))
                done = None
            else:
                if not isinstance(done, Half):
                    self._results.put((done, None))
            self._halves.add(done if isinstance(done, Half) else None)


class _Halves(Generic[R]):
    """Gathers prepared jobs and finishes them, several at once."""

    def __init__(
        self,
        finish: Finish[R] | None,
        results: queue.SimpleQueue[tuple[R | None, BaseException | None]],
        stopping: threading.Event,
        most: int,
    ) -> None:
        self._finish = finish or (lambda halves: [])
        self._results = results
        self._stopping = stopping
        self._most = most
        self._turn = threading.Condition()
        self._line: list[Half] = []
        self._coming = 0
        self._ended = False

    def expect(self) -> None:
        """One more job is being prepared."""
        with self._turn:
            self._coming += 1

    def add(self, half: Half | None) -> None:
        """A job is prepared; None when there is nothing left of it to finish."""
        with self._turn:
            self._coming -= 1
            if half is not None:
                self._line.append(half)
            if half is not None or not self._coming:
                self._turn.notify_all()

    def end(self) -> None:
        """Let the thread end."""
        with self._turn:
            self._ended = True
            self._turn.notify_all()

    def loop(self) -> None:
        """Finish what comes, until `end`."""
        while group := self._group():
            try:
                for result in self._finish([half.value for half in group]):
                    self._results.put((result, None))
            except BaseException as error:  # handed to the caller of run, who raises it
                for _ in group:
                    self._results.put((None, error))

    def _group(self) -> list[Half]:
        """What is finished next, at least one; nothing at the end."""
        with self._turn:
            while not self._line and not self._ended:
                self._turn.wait()
            until = time.monotonic() + LINGER_S
            while self._coming and not self._ended and not self._stopping.is_set():
                left = until - time.monotonic()
                if left <= 0 or len(self._line) >= TOGETHER or self._size() >= self._most:
                    break
                self._turn.wait(left)
            group: list[Half] = []
            size = 0
            for half in self._line[:TOGETHER]:
                size += half.size
                if group and size > self._most:
                    break
                group.append(half)
            del self._line[: len(group)]
            return group

    def _size(self) -> int:
        return sum(half.size for half in self._line)
