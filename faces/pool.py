"""What the driver tells of a client's connections, as numbers."""

from __future__ import annotations

import threading

from pymongo import monitoring


class PoolWatch(monitoring.ConnectionPoolListener):
    """Counts a client's connections; give it to the client as an event listener."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0
        self.in_use = 0
        self.waiting = 0
        self.refused = 0

    def _count(self, *, open: int = 0, in_use: int = 0, waiting: int = 0, refused: int = 0) -> None:
        with self._lock:
            self.open += open
            self.in_use += in_use
            self.waiting += waiting
            self.refused += refused

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        self._count(open=1)

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        self._count(open=-1)

    def connection_check_out_started(
        self, event: monitoring.ConnectionCheckOutStartedEvent
    ) -> None:
        self._count(waiting=1)

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        self._count(waiting=-1, in_use=1)

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        self._count(waiting=-1, refused=1)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        self._count(in_use=-1)

    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        """Nothing: `connection_created` has counted it."""

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Nothing: a pool without connections costs nothing."""

    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Nothing: only connections count."""

    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Nothing: each closed connection tells it itself."""

    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Nothing: each closed connection tells it itself."""
