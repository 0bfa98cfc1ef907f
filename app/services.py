"""What a web process is made of, wired in one place; nothing is opened before `start`."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from app.auth import Keys
from app.bodies import Budget
from app.engine import Engine, Wanted
from app.gate import Gate
from app.limits import Limits
from app.metrics import Metrics
from app.modelfiles import ModelFiles
from app.thumbnails import Thumbnails
from faces.addresses import Network, media_origins, parse_networks, parse_origins
from faces.choice import Choice, choose, deepface_installed
from faces.database import Client, connect, database
from faces.errors import ConfigError, DatabaseUnavailable, LikenessError
from faces.finder import Finder
from faces.latefetch import LateFetcher
from faces.leases import Holder
from faces.models import files
from faces.originals import Originals, folders_of
from faces.pool import PoolWatch
from faces.records import ActiveModel, Item, StoredFace
from faces.settings import Settings
from faces.store import Store
from faces.watch import Watch

if TYPE_CHECKING:
    from faces.loading import AnyPipeline
    from faces.pictures import Pictures

GATE_WIDTH = 2
GATE_QUEUE = 16
FETCH_WIDTH = 4
FETCH_QUEUE = 8
ORIGINALS_QUEUE = 16
"""A gallery asks for many thumbnails, and each is made of a whole picture."""
FETCH_SECONDS = 10.0
PART_SECONDS = 1.0
INDEX_LAG = dt.timedelta(seconds=5)
"""An item that was written longer ago counts as searchable."""
BUDGET_PICTURES = 4
STRANGERS_PICTURES = 2
"""How much of the budget may be bodies of callers of whom nothing is known yet."""

NO_DATABASE = (
    "No database is configured: set MONGODB_URI to the address of your MongoDB Atlas cluster, or "
    "use `make run`, which brings its own."
)


@dataclass(slots=True)
class Services:
    """The parts of one web process."""

    settings: Settings
    keys: Keys
    limits: Limits
    metrics: Metrics
    trusted: tuple[Network, ...]
    engine: Engine
    fetcher: LateFetcher
    originals: LateFetcher
    gate: Gate
    fetch_gate: Gate
    originals_gate: Gate
    budget: Budget
    strangers: Budget
    thumbnails: Thumbnails
    encoder_choice: Choice
    encoder_only: bool = False
    client: Client | None = None
    _store: Store | None = None
    _watch: Watch | None = None
    _finder: Finder | None = None
    _pictures: Pictures | None = None
    _pictures_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def store(self) -> Store:
        """The repository. Raises DatabaseUnavailable when no database is configured."""
        self._check_database()
        assert self._store is not None  # noqa: S101 - it is there where a watch is
        return self._store

    @property
    def finder(self) -> Finder:
        """The search. Raises DatabaseUnavailable when no database is configured."""
        self._check_database()
        assert self._finder is not None  # noqa: S101 - it is there where a watch is
        return self._finder

    def _check_database(self) -> None:
        """Refuse at once what a database that is not there, or known to be away, cannot answer."""
        if self._watch is None:
            raise DatabaseUnavailable(NO_DATABASE, retry_after=3600)
        if (problem := self._watch.away()) is not None:
            raise DatabaseUnavailable(problem.detail, retry_after=2)

    @property
    def watch(self) -> Watch | None:
        """The background reader of database and index state; None without a database."""
        return self._watch

    def active_model(self) -> ActiveModel:
        """The database's active model. Raises IndexNotReady before there is one."""
        self._check_database()
        assert self._watch is not None  # noqa: S101 - the check has seen it
        return self._watch.require_active()

    def ensure_queryable(self, active: ActiveModel) -> None:
        """Returns when the model's index can be queried. Raises IndexNotReady otherwise."""
        if self._watch is not None:
            self._watch.ensure_queryable(active.index)

    def index_is_building(self) -> bool:
        """Whether the active model's index is in its first build."""
        if self._watch is None:
            return False
        active = self._watch.active()
        state = self._watch.index_state(active.index) if active else None
        return state is not None and state.status in ("PENDING", "BUILDING")

    def searchable(self, item: Item, faces: Sequence[StoredFace]) -> bool:
        """Whether a search can find these faces of an item, as far as is known without asking.

        A replaced picture keeps its faces' ids and gives them new vectors: what counts is when the
        item was last written, and that the index follows. Without a face nothing can be found.
        """
        if self._watch is None or not faces or item.hidden:
            return False
        active = self._watch.require_active()
        state = self._watch.index_state(active.index)
        if state is None or not state.queryable or state.status == "STALE":
            return False
        old = dt.datetime.now(dt.UTC) - INDEX_LAG
        return item.updated_at < old and all(active.key in face.models for face in faces)

    def thumbnail(
        self, item: Item, crop: bytes | None, gone: threading.Event, deadline: float
    ) -> tuple[bytes, bool]:
        """A thumbnail of an item, and whether it may be kept. Raises NotFound, Busy."""
        return self.thumbnails.of(
            item,
            crop,
            lambda data: self.shrink(data, gone),
            lambda: self.originals_gate.place(gone, deadline),
        )

    def shrink(self, data: bytes, gone: threading.Event) -> bytes:
        """A thumbnail of a picture; works without a model, too."""
        deadline = time.monotonic() + FETCH_SECONDS
        with self.gate.place(gone, deadline):
            if self.engine.state == "ready":
                with self.engine.pipeline() as pipeline:
                    return pipeline.thumbnail(data)
            with self._pictures_lock:
                if self._pictures is None:
                    from faces.decoder import Decoder
                    from faces.pictures import Pictures

                    cap = self.settings.max_upload_bytes
                    self._pictures = Pictures(Decoder(), max_bytes=cap)
            return self._pictures.thumbnail(data)

    def start(self) -> None:
        """Begin watching the database and loading the models, both in the background."""
        chosen = self.encoder_choice
        structlog.get_logger("likeness.encoder").log(
            logging.WARNING if chosen.warning else logging.INFO,
            "encoder_chosen",
            kind=chosen.kind,
            reason=chosen.warning or chosen.reason,
        )
        if self._watch is not None:
            self._watch.start()
        if not self.settings.lazy_load_ml:
            self.engine.load_now()
        self.engine.start()

    def stop(self) -> None:
        """End the threads and close connections, whatever state the database is in."""
        self.engine.stop()
        # A database that is away keeps its driver waiting for seconds: the process does not.
        parting = threading.Thread(target=self._part, name="parting", daemon=True)
        parting.start()
        self.fetcher.close()
        self.originals.close()
        if self._pictures is not None:
            self._pictures.close()
        parting.join(PART_SECONDS)

    def _part(self) -> None:
        """Say farewell to the database."""
        with contextlib.suppress(LikenessError):  # the heartbeat expires by itself, too
            if self._store is not None and self.engine.beating:
                self._store.presence.leave(Holder.this_process("web"))
        if self.client is not None:
            self.client.close()  # first: it ends what other threads still wait for
        if self._watch is not None:
            self._watch.stop()


def check(settings: Settings) -> Keys:
    """The keys of these settings. Raises ConfigError for what a service must not start with."""
    keys = Keys(settings.key_entries)
    if settings.production and not keys:
        raise ConfigError(
            "A production service needs API keys: run `python -m app keys new --role admin`, and "
            "set API_KEYS to the entry that it prints."
        )
    return keys


def build(settings: Settings, metrics: Metrics, *, encoder_only: bool = False) -> Services:
    """The services of one process, not started. Raises ConfigError."""
    keys = check(settings)
    client, watch, store, finder = None, None, None, None
    if settings.mongodb_uri is not None and not encoder_only:
        pool = PoolWatch()
        client = connect(settings, "web", pool=pool)
        _count_connections(metrics, pool, client)
        db = database(client, settings)
        watch, store = Watch(db), Store(db)
        finder = Finder(db, watch)
    # What a caller names is held to the allow-list alone; what was indexed may also come from the
    # CMS's own address, which an operator configured.
    fetcher = LateFetcher(parse_origins(settings.media_allowed_hosts), timeout=FETCH_SECONDS)
    originals = LateFetcher(media_origins(settings), timeout=FETCH_SECONDS)
    gate, budget = (
        Gate(GATE_WIDTH, GATE_QUEUE),
        Budget(BUDGET_PICTURES * settings.max_upload_bytes + 8 * 1024 * 1024),
    )
    metrics.gauge("gate_held", "Pictures that are worked on now.", lambda: gate.held)
    metrics.gauge("gate_waiting", "Pictures that wait for a place.", lambda: gate.waiting)
    metrics.gauge("body_bytes", "Bytes of request bodies held now.", lambda: budget.held)
    return Services(
        settings=settings,
        keys=keys,
        limits=Limits(
            per_key=settings.rate_limit_per_key, per_address=settings.rate_limit_per_address
        ),
        metrics=metrics,
        trusted=parse_networks(settings.trusted_proxies),
        engine=_engine(settings, watch, store),
        fetcher=fetcher,
        gate=gate,
        fetch_gate=Gate(FETCH_WIDTH, FETCH_QUEUE),
        originals_gate=Gate(FETCH_WIDTH, ORIGINALS_QUEUE),
        budget=budget,
        strangers=Budget(STRANGERS_PICTURES * settings.max_upload_bytes, budget),
        originals=originals,
        thumbnails=Thumbnails(
            Originals(folders_of(settings), originals), max_bytes=settings.max_upload_bytes
        ),
        encoder_choice=choose(settings, installed=deepface_installed()),
        encoder_only=encoder_only,
        client=client,
        _store=store,
        _watch=watch,
        _finder=finder,
    )


def _count_connections(metrics: Metrics, pool: PoolWatch, client: Client) -> None:
    most = client.options.pool_options.max_pool_size
    metrics.gauge("database_connections_open", "Connections of the pool.", lambda: pool.open)
    metrics.gauge("database_connections_in_use", "Connections at work.", lambda: pool.in_use)
    metrics.gauge("database_connections_max", "What the pool may grow to.", lambda: most or 0)
    metrics.gauge("database_waiting", "Who waits for a connection.", lambda: pool.waiting)
    metrics.gauge(
        "database_refused", "How often nobody got a connection in time.", lambda: pool.refused
    )


def configured_model(settings: Settings) -> str | None:
    """The model to load while the database's choice is not known; None when nobody has chosen."""
    if settings.face_model and settings.face_model != "auto":
        return settings.face_model
    return files.recorded_choice(settings.models_path) or (
        "facenet512" if settings.face_model is None and settings.production else None
    )


def _engine(settings: Settings, watch: Watch | None, store: Store | None) -> Engine:
    def wanted() -> Wanted:
        try:
            active = watch.active() if watch is not None else None
        except LikenessError:
            # The database is away: go on with what is loaded or configured.
            return Wanted(engine.model or configured_model(settings))
        if active is None:
            return Wanted(configured_model(settings))
        upcoming = active.next.key if active.preparing and active.next else None
        return Wanted(active.key, upcoming)

    def load(key: str) -> AnyPipeline:
        from faces.loading import load_pipeline  # heavy: only once the port is bound

        return load_pipeline(settings, key)

    beat = None
    if store is not None:
        holder = Holder.this_process("web")
        presence = store.presence

        def beat(models: list[str], problem: str | None) -> None:
            presence.beat(holder, models, problem)

    auto = settings.model_auto_fetch
    engine = Engine(
        enabled=settings.face_recognition_enabled,
        wanted=wanted,
        load=load,
        files=ModelFiles(
            settings.models_path,
            may_fetch=not settings.production if auto is None else auto,
            remote=settings.encoder == "remote",
        ),
        beat=beat,
    )
    return engine
