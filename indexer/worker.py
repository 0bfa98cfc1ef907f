"""The worker: a light parent that keeps the schedule and starts a child for each batch of jobs."""

from __future__ import annotations

import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from faces import canary
from faces.database import connect, database
from faces.errors import ConfigError, DatabaseUnavailable, IndexNotReady, LikenessError
from faces.job_history import ask, last_success, unfinished
from faces.leases import Holder
from faces.models.cards import CARDS
from faces.models.files import encoder_path
from faces.settings import Settings
from faces.store import Store
from indexer import schedule
from indexer.handlers import LONG, SHORT, own_jobs
from indexer.lanes import Lane, Lanes
from indexer.wiring import name_of, source_of

LOOK_S = 1.0
BEAT_S = 5.0
LAG_EVERY_S = 60.0
RETRY_LOOK_S = 60.0
GRACE_S = 9.0
SLACK = dt.timedelta(seconds=2)
"""By so much the same moment may differ between two workers."""
LONG_KINDS = ("backfill", "sync", "reembed", "audit")


class Worker:
    """Keeps the schedule of one source and runs everybody's jobs until it is asked to stop."""

    def __init__(self, settings: Settings, store: Store, stopping: threading.Event) -> None:
        self._settings = settings
        self._store = store
        self._stopping = stopping
        self._holder = Holder.this_process("worker")
        self._log = structlog.get_logger("likeness.worker")
        self._trigger = schedule.parse(settings.index_schedule)
        self._source = _source_name(settings)
        lanes = [Lane(LONG, LONG_KINDS), Lane(SHORT, _short_kinds())]
        self._lanes = Lanes(lanes, source=self._source)
        self._away = False
        self._owed = threading.Event()
        self._owed_since: dt.datetime | None = None
        self._faulty = False

    def run(self) -> bool:
        """Returns after a stop, with its children ended, whatever the database does.

        False when it stopped by itself, over a fault of ours: whoever started it starts it again.
        """
        scheduler = schedule.scheduler()
        if self._source is not None:
            scheduler.add_job(self._owe, self._trigger)
        scheduler.start()
        self._log.info("worker_started", source=self._source)
        thread = self._thread("tend", self._tend)
        self._thread("lag", self._measuring)
        if self._settings.index_live:
            self._thread("live", self._live)
        self._stopping.wait()
        scheduler.shutdown(wait=False)
        thread.join(0.5)
        if not self._lanes.stop(GRACE_S):
            self._log.warning("batch_killed")
        self._thread("leave", self._leave).join(0.5)
        self._log.info("worker_stopped")
        return not self._faulty

    def _thread(self, name: str, act: Callable[[], None]) -> threading.Thread:
        """A running thread. A worker of which a part has died would only look alive: it ends."""

        def whole() -> None:
            try:
                act()
            except Exception:
                self._faulty = True
                try:
                    self._log.exception("unexpected_error", thread=name)
                finally:  # also where nothing can be logged
                    self._stopping.set()

        thread = threading.Thread(target=whole, name=name, daemon=True)
        thread.start()
        return thread

    def _tend(self) -> None:
        """The worker's rounds, until it is asked to stop."""
        rounds = [_Round(BEAT_S, self._beat), _Round(RETRY_LOOK_S, self._retries)]
        caught_up = self._source is None
        while not self._stopping.is_set():
            if not caught_up:
                caught_up = self._guard(self._catch_up)
            if self._owed.is_set() and self._guard(self._due_now):
                self._owed.clear()
            for each in rounds:
                if each.due():
                    self._guard(each.act)
            self._guard(self._look)
            self._stopping.wait(LOOK_S)

    def _look(self) -> None:
        def claimable(kinds: Sequence[str]) -> bool:
            return not self._stopping.is_set() and self._store.jobs.claimable(
                kinds, own_jobs(self._settings, self._source)
            )

        self._lanes.tend(claimable)

    def _leave(self) -> None:
        self._guard(lambda: self._store.presence.leave(self._holder))

    def _beat(self) -> None:
        folder = self._settings.models_path
        models = [key for key in CARDS if encoder_path(folder, key).exists()]
        # A worker that encodes nothing does not stand in the way of a model switch.
        encodes = self._settings.face_recognition_enabled
        self._store.presence.beat(self._holder, models if encodes else ["*"])

    def _measure(self) -> None:
        """The index's lag, for /metrics; not while the index cannot be queried."""
        active = self._store.active_model()
        if active is not None and self._settings.face_recognition_enabled:
            try:
                canary.measure(self._store.db, active)
            except IndexNotReady:
                return

    def _measuring(self) -> None:
        while not self._stopping.wait(LAG_EVERY_S):
            self._guard(self._measure)

    def _owe(self) -> None:
        """The schedule's moment came, within a second or two."""
        self._owed_since = dt.datetime.now(dt.UTC) - SLACK
        self._owed.set()

    def _due_now(self) -> None:
        """Ask for the reconcile whose moment came, unless another worker has."""
        self._ask(since=self._owed_since)

    def _ask(self, *, under_way: bool = True, since: dt.datetime | None = None) -> None:
        collection = self._settings.cms_collection
        ask(self._store.jobs, self._source, collection, under_way=under_way, since=since)

    def _catch_up(self) -> None:
        """Ask for the reconcile that a sleeping or restarting worker missed."""
        last = last_success(self._store.db, "backfill", self._source)
        if last is None or schedule.missed(self._trigger, last, dt.datetime.now(dt.UTC)):
            self._ask()

    def _retries(self) -> None:
        """Ask for another try at failed items that are due, between the nightly runs."""
        if self._source is None:
            return
        collection, jobs = self._settings.cms_collection, self._store.jobs
        if not self._store.due_items(self._source, collection, limit=1):
            return
        for kind in ("backfill", "sync"):
            if unfinished(self._store.db, kind, self._source, collection):
                return
        jobs.enqueue("sync", collection, {"source": self._source, "due": True})

    def _live(self) -> None:
        """Follows the CMS's changes, with a client of its own that waits without a deadline."""
        from indexer.live import Live, follow
        from indexer.sources.connection import records_of

        records = records_of(self._settings, deadline=False)
        live = Live(
            self._store,
            records,
            id_field=self._settings.cms_field_id,
            name=self._source or "",
            collection=self._settings.cms_collection,
            # A listing under way may be past what the stream missed: it takes one that begins now.
            whole=lambda: self._ask(under_way=False),
            stopping=self._stopping,
        )
        follow(live, self._stopping, self._guard)
        records.database.client.close()

    def _guard(self, act: Callable[[], object]) -> bool:
        """Whether `act` came through. The worker outlives a database that is away; said once."""
        try:
            act()
        except DatabaseUnavailable as error:
            if not self._away:
                self._log.warning("database_away", detail=error.detail)
            self._away = True
            return False
        except LikenessError as error:
            self._log.warning("worker_trouble", detail=error.detail)
            return False
        self._away = False
        return True


class _Round:
    """Something to do every so often; the first time at once."""

    def __init__(self, every: float, act: Callable[[], None]) -> None:
        self._every = every
        self._next = 0.0
        self.act = act

    def due(self) -> bool:
        """Whether it is time, which counts as done."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every
        return True


def run(settings: Settings) -> int:
    """Exit status 0 after SIGTERM or SIGINT, 1 after a fault, which its log has.

    Raises ConfigError for what cannot be used.
    """
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())
    client = connect(settings, "worker")
    whole = Worker(settings, Store(database(client, settings)), stopping).run()
    client.close()
    return 0 if whole else 1


def _source_name(settings: Settings) -> str | None:
    """The configured source's name, checked by opening it once; None without a source."""
    if settings.index_live and settings.cms_source != "mongo":
        raise ConfigError(
            "INDEX_LIVE follows a MongoDB collection: it needs CMS_SOURCE=mongo. Other CMSs call"
            " POST /v1/hooks/cms."
        )
    if settings.cms_source is None or not settings.face_recognition_enabled:
        return None
    source = source_of(settings, threading.Event())
    try:
        return name_of(settings, source)
    finally:
        source.close()


def _short_kinds() -> tuple[str, ...]:
    from indexer.handlers import short_handlers

    return tuple(short_handlers())
