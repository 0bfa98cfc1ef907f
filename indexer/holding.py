"""Holding a lease for as long as a run takes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from faces.errors import DatabaseUnavailable, LeaseLost
from faces.leases import Lease

LEASE_S = 60.0
RENEW_S = 10.0


@contextlib.contextmanager
def holding(lease: Lease, stopping: threading.Event) -> Iterator[threading.Event]:
    """Renews `lease` in the background; the event yielded is set when it is lost.

    Then `stopping` is set too: the writes that still come are refused by their fence. The lease is
    released at the end.
    """
    lost, done = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(RENEW_S):
            try:
                lease.renew()
            except LeaseLost:
                lost.set()
                stopping.set()
                return
            except DatabaseUnavailable:
                continue  # the next renewal may come through; if none does, the fence decides

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join(6)
        with contextlib.suppress(DatabaseUnavailable):
            lease.release()
