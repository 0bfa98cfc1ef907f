"""A batch: a child process that runs the jobs of one lane until there are none, and then ends.

What it took of memory goes back to the system with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from faces.database import connect, database
from faces.errors import DatabaseUnavailable
from faces.job_run import run_next
from faces.leases import Holder
from faces.settings import Settings
from faces.store import Store
from indexer.handlers import handlers

LINGER_S = 10.0
"""A child stays for so long after its last job: events of a CMS come in bursts."""
POLL_S = 0.25
POLITE = 10
"""Under INDEXER_EMBEDDED the web process next door goes first."""


def work(settings: Settings, lane: str) -> int:
    """Exit status 0 when the lane is empty or the process was asked to stop."""
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())
    if settings.indexer_embedded:
        os.nice(POLITE)
    client = connect(settings, "worker")
    try:
        store = Store(database(client, settings))
        table = handlers(settings, lane)
        holder = Holder.this_process(lane)
        idle_since = time.monotonic()
        while not stopping.is_set() and time.monotonic() - idle_since < LINGER_S:
            try:
                if run_next(store, table, holder=holder, stopping=stopping):
                    idle_since = time.monotonic()
                    continue
            except DatabaseUnavailable:
                pass  # the parent sees it too; a child that finds nothing ends soon
            stopping.wait(POLL_S)
        return 0
    finally:
        client.close()
