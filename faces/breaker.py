"""A circuit breaker: after some failures in a row, calls fail at once for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Counts failures in a row. Thread-safe.

    Closed, it lets every call through. After `failures` in a row it opens for `pause` seconds; then
    one call is let through as a trial, and the rest wait for its result.
    """

    def __init__(
        self, failures: int = 3, pause: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._pause, self._clock = failures, pause, clock
        self._lock = threading.Lock()
        self._count = 0
        self._until = 0.0

    def wait(self) -> float:
        """Seconds until a call may be tried; 0 when it may be now, and then it counts as tried."""
        with self._lock:
            if self._count < self._limit:
                return 0.0
            now = self._clock()
            if now < self._until:
                return self._until - now
            self._until = now + self._pause  # the trial; others wait for what it finds
            return 0.0

    def succeeded(self) -> None:
        """Notes a call that was answered: the breaker closes."""
        with self._lock:
            self._count = 0

    def failed(self) -> None:
        """Notes a call that was not answered."""
        with self._lock:
            self._count += 1
            if self._count >= self._limit:
                self._until = self._clock() + self._pause
