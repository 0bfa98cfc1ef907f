"""One run over the configured source, under its lease: a reconcile, or single items."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence

from faces.errors import ConfigError, LeaseLost, LikenessError
from faces.leases import Fence, Holder
from faces.records import KnownItem
from faces.settings import Settings
from faces.store import Store
from indexer.dry import DryItems
from indexer.holding import LEASE_S, holding
from indexer.items import Items
from indexer.models import Models
from indexer.plan import Brake
from indexer.progress import Report, Tally
from indexer.reconcile import Outcome, Reconciler, server_clock
from indexer.sources.base import Source
from indexer.sync import Sync
from indexer.wiring import name_of, source_of

THREADS = {"folder": 6, "mongo": 8, "http": 8}
REMOTE_THREADS = 16
"""With a separate encoder threads mostly wait, and what waits together travels together."""


class LeaseHeld(LikenessError):
    """Another process is indexing this source at the moment; this run ends."""


class Run:
    """An open run: the source's lease is held, and nothing is loaded before it is needed."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        source: Source,
        models: Models,
        *,
        name: str,
        fence: Fence,
        now: Callable[[], dt.datetime],
        stopping: threading.Event,
    ) -> None:
        self.name = name
        self.collection = settings.cms_collection
        self._store = store
        self._settings = settings
        self._source = source
        self._now = now
        self._stopping = stopping
        self._items = Items(
            store,
            source,
            models,
            name=name,
            collection=self.collection,
            fence=fence,
            max_bytes=settings.max_upload_bytes,
            min_quality=settings.face_min_quality,
            brake=Brake(settings.index_max_delete_ratio),
            now=now,
            stopping=stopping,
        )

    def reconcile(
        self,
        *,
        report: Report,
        allow_deletes: bool = False,
        again: bool = False,
        cursor: str | None = None,
        tally: Tally | None = None,
        dry: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """The outcome of a reconcile from `cursor` on; see `Reconciler.run`."""
        self._items.allow_deletes = allow_deletes
        return Reconciler(
            self._store,
            self._source,
            DryItems() if dry else self._items,
            name=self.name,
            collection=self.collection,
            brake=Brake(self._settings.index_max_delete_ratio),
            allow_deletes=allow_deletes,
            again=again,
            threads=self._threads(),
            report=report,
            now=self._now,
            stopping=self._stopping,
            between=between,
        ).run(cursor, tally)

    def _threads(self) -> int:
        if self._settings.encoder == "remote":
            return REMOTE_THREADS
        return THREADS[self._source.kind]

    def sync(
        self, changed: Sequence[str], deleted: Sequence[str], *, report: Report, tally: Tally
    ) -> None:
        """Brings single items up to date; `tally` counts what came of them."""
        work = Sync(
            self._store,
            self._source,
            self._items,
            name=self.name,
            collection=self.collection,
            now=self._now,
        )
        for result in work.run(changed, deleted):
            tally.count(result.ending, result.faces)
            if result.reason is not None:
                report.failure(result.key, result.reason, result.detail)
            report.step(tally)
            if self._stopping.is_set():
                break

    def due(self) -> Sequence[KnownItem]:
        """Failed items whose next try is due."""
        return self._store.due_items(self.name, self.collection)


@contextlib.contextmanager
def open_run(
    store: Store, settings: Settings, *, stopping: threading.Event, role: str
) -> Iterator[Run]:
    """An open run over the configured source; the lease is released at the end.

    Raises LeaseHeld, ConfigError, and at the end LeaseLost when the lease was lost on the way.
    """
    if not settings.face_recognition_enabled:
        raise ConfigError("Face recognition is switched off (FACE_RECOGNITION_ENABLED=false).")
    with contextlib.closing(source_of(settings, stopping)) as source:
        name = name_of(settings, source)
        if store.active_model() is None:
            raise ConfigError(
                "The database is not set up yet: run `python -m migrations up` first."
            )
        store.ensure_collection(settings.cms_collection)
        lease = store.leases.acquire(f"source:{name}", Holder.this_process(role), LEASE_S)
        if lease is None:
            raise LeaseHeld
        models = Models(settings, store.active_model)
        with holding(lease, stopping) as lost, contextlib.closing(models):
            yield Run(
                store,
                settings,
                source,
                models,
                name=name,
                fence=lease.fence,
                now=server_clock(store.now),
                stopping=stopping,
            )
        if lost.is_set():
            raise LeaseLost
