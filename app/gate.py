"""The CPU gate: how many pictures are worked on at once, and how many may wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from faces.errors import Busy, DeadlineExceeded


class ClientGone(Exception):
    """The client hung up while its request waited."""


class Gate:
    """Lets `width` holders in at a time, `queue` more wait in order, and turns the rest away."""

    def __init__(self, width: int, queue: int) -> None:
        self.width = width
        self.queue = queue
        self._lock = threading.Lock()
        self._held = 0
        self._waiting: deque[threading.Event] = deque()

    @property
    def held(self) -> int:
        """How many are inside."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextmanager
    def place(self, gone: threading.Event, deadline: float) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises Busy at once when the queue is full, ClientGone when `gone` is set while waiting, and
        DeadlineExceeded when `time.monotonic()` passes `deadline`.
        """
        self._enter(gone, deadline)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, gone: threading.Event, deadline: float) -> None:
        turn = threading.Event()
        with self._lock:
            if self._held < self.width and not self._waiting:
                self._held += 1
                return
            if len(self._waiting) >= self.queue:
                raise Busy(
                    f"All {self.width} places for work on pictures are taken and "
                    f"{self.queue} more requests wait: try again in a moment.",
                    retry_after=2,
                )
            self._waiting.append(turn)
        while not turn.wait(0.05):
            left = gone.is_set() or time.monotonic() > deadline
            if not left:
                continue
            with self._lock:
                if turn.is_set():  # the place came at the same moment: hand it on
                    self._pass_on()
                else:
                    self._waiting.remove(turn)
            if gone.is_set():
                raise ClientGone
            raise DeadlineExceeded

    def _leave(self) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a freed place to whoever waits longest; the lock is held."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._held -= 1
