"""One reconcile from start to end, as a command or as a job."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from faces.store import Store

from faces.database import Db
from faces.errors import ConfigError, LeaseLost, LikenessError
from faces.leases import Holder, Leases
from faces.settings import Settings
from indexer.holding import LEASE_S, holding
from indexer.items import Items
from indexer.plan import Brake
from indexer.progress import Report, Tally
from indexer.reconcile import Outcome, Reconciler, server_clock
from indexer.wiring import LazyPipeline, name_of, source_of

THREADS = {"folder": 4, "mongo": 8, "http": 8}


@dataclass(frozen=True, slots=True)
class Ran:
    """A run's outcome, the source's name and how many seconds it took."""

    outcome: Outcome
    name: str
    seconds: float


class LeaseHeld(LikenessError):
    """Another process is indexing this source at the moment; this run ends."""


def reconcile_once(
    db: Db,
    settings: Settings,
    *,
    report: Report,
    stopping: threading.Event,
    allow_deletes: bool = False,
    role: str = "once",
    cursor: str | None = None,
    tally: Tally | None = None,
) -> Ran:
    """One reconcile of the configured source, under its lease.

    Raises LeaseHeld, LeaseLost when it was lost on the way, ConfigError, and what
    `Reconciler.run` raises.
    """
    source = source_of(settings, stopping)
    try:
        store = Store(db)
        name, collection = name_of(settings, source), settings.cms_collection
        active = store.active_model()
        if active is None:
            raise ConfigError(
                "The database is not set up yet: run `python -m migrations up` first."
            )
        store.ensure_collection(collection)
        lease = Leases(db).acquire(f"source:{name}", Holder.this_process(role), LEASE_S)
        if lease is None:
            raise LeaseHeld
        started = time.monotonic()
        now = server_clock(lambda: db.command("hello")["localTime"])
        pipeline = LazyPipeline(settings, active.key)
        with holding(lease, stopping) as lost:
            try:
                items = Items(
                    store,
                    source,
                    pipeline,
                    name=name,
                    collection=collection,
                    fence=lease.fence,
                    max_bytes=settings.max_upload_bytes,
                    min_quality=settings.face_min_quality,
                    now=now,
                    stopping=stopping,
                )
                outcome = Reconciler(
                    store,
                    source,
                    items,
                    name=name,
                    collection=collection,
                    brake=Brake(settings.index_max_delete_ratio),
                    allow_deletes=allow_deletes,
                    threads=THREADS[source.kind],
                    report=report,
                    now=now,
                    stopping=stopping,
                ).run(cursor, tally)
            finally:
                pipeline.close()
            if lost.is_set():
                raise LeaseLost
        return Ran(outcome, name, time.monotonic() - started)
    finally:
        source.close()
