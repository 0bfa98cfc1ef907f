"""A batch: a child process that runs the jobs of one lane until there are none, and then ends.

What it took of memory goes back to the system with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from faces.database import connect, database
from faces.errors import DatabaseUnavailable
from faces.job_run import Handler, JobRun, run_next
from faces.leases import Holder
from faces.priority import give_way
from faces.settings import Settings
from faces.store import Store
from indexer.handlers import LONG, handlers, own_jobs

LINGER_S = 10.0
"""A child stays for so long after its last job: events of a CMS come in bursts."""
POLL_S = 0.25
FINISH_S = 8.5
POLITE = 10
"""Under INDEXER_EMBEDDED the web process next door goes first; a backfill gets what it leaves."""


def work(settings: Settings, lane: str, source: str | None) -> int:
    """Exit status 0 when the lane is empty or the process was asked to stop."""
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())
    if settings.indexer_embedded:
        if lane == LONG:
            give_way()
        else:
            os.nice(POLITE)  # what somebody waits for, such as an erasure, is not put off
    client = connect(settings, "worker")
    store = Store(database(client, settings))
    batch = Batch(
        store,
        handlers(settings, lane),
        Holder.this_process(lane),
        stopping,
        lambda: own_jobs(settings, source),
    )
    thread = threading.Thread(target=batch.run, name="batch", daemon=True)
    thread.start()
    while thread.is_alive() and not stopping.wait(0.1):
        pass
    # What is in hand is finished; a database that does not answer is not waited for.
    thread.join(FINISH_S if batch.busy else 0.5)
    if not thread.is_alive():
        client.close()
    return 0


class Batch:
    """Runs waiting jobs one after the other until none has come for a while."""

    def __init__(
        self,
        store: Store,
        table: Mapping[str, Handler],
        holder: Holder,
        stopping: threading.Event,
        only: Callable[[], dict[str, Any]],
    ) -> None:
        """`only` is what a job has to be, as a filter."""
        self._only = only
        self._store = store
        self._table = {kind: self._noted(handler) for kind, handler in table.items()}
        self._holder = holder
        self._stopping = stopping
        self.busy = False

    def run(self) -> None:
        """Returns when the lane was empty for a while, or soon after a stop."""
        idle_since = time.monotonic()
        while not self._stopping.is_set() and time.monotonic() - idle_since < LINGER_S:
            try:
                ran = run_next(
                    self._store,
                    self._table,
                    holder=self._holder,
                    stopping=self._stopping,
                    only=self._only(),
                )
            except DatabaseUnavailable:
                ran = False  # the parent sees it too; a child that finds nothing ends soon
            if ran:
                idle_since = time.monotonic()
            else:
                self._stopping.wait(POLL_S)

    def _noted(self, handler: Handler) -> Handler:
        def call(run: JobRun) -> Mapping[str, Any] | None:
            self.busy = True
            try:
                return handler(run)
            finally:
                self.busy = False

        return call
