"""A place where one at a time may work, with a short line before it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from faces.errors import Busy, Cancelled

_LOOK_AROUND = 0.1
"""Seconds between looks at whether a waiting caller still wants to be served."""


class Gate:
    """Lets one caller in at a time, in the order of their coming."""

    def __init__(self, *, waiting: int = 16, patience: float = 15.0) -> None:
        """At most `waiting` callers stand in line, each for at most `patience` seconds."""
        self._waiting = waiting
        self._patience = patience
        self._line: deque[object] = deque()  # the first is inside
        self._moved = threading.Condition()

    @property
    def load(self) -> int:
        """How many are inside or in line."""
        return len(self._line)

    @contextmanager
    def enter(self, cancelled: Callable[[], bool] | None = None) -> Iterator[None]:
        """Inside for the length of the block.

        Raises Busy when the line is full or patience ends, and Cancelled, leaving the line, soon
        after `cancelled` answers True.
        """
        ticket = object()
        with self._moved:
            if len(self._line) > self._waiting:
                raise Busy("All places for decoding pictures are taken: try again shortly.")
            self._line.append(ticket)
            try:
                self._wait(ticket, cancelled)
            except BaseException:
                self._leave(ticket)
                raise
        try:
            yield
        finally:
            with self._moved:
                self._leave(ticket)

    def _wait(self, ticket: object, cancelled: Callable[[], bool] | None) -> None:
        end = time.monotonic() + self._patience
        while True:
            if cancelled is not None and cancelled():
                raise Cancelled
            if self._line[0] is ticket:
                return
            left = end - time.monotonic()
            if left <= 0:
                raise Busy("The line for decoding pictures did not move in time: try again.")
            self._moved.wait(left if cancelled is None else min(left, _LOOK_AROUND))

    def _leave(self, ticket: object) -> None:
        self._line.remove(ticket)
        self._moved.notify_all()
