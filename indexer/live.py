"""Follows the CMS's change stream between the nightly runs and asks for what changed by key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pymongo.change_stream import ChangeStream
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from faces.errors import DatabaseUnavailable
from faces.leases import Holder, Lease
from faces.live_tokens import LiveTokens
from faces.store import Store
from indexer.sources.records import key_of, value_at

BATCH = 200
AWAIT_MS = 500
LEASE_S = 30.0
SAVE_S = 30.0
"""A quiet stream's token is moved on so often, lest the server forget where it was."""
_REFUSED = (13, 18, 8000)  # Unauthorized, AuthenticationFailed, AtlasError
_CHANGED = ("insert", "update", "replace")
_ENDED = ("drop", "rename", "dropDatabase", "invalidate")


class Live:
    """One follower a source, kept single by a lease of its own.

    `whole` asks for a reconcile: when there is no token, when it is lost, and when the collection
    is dropped or renamed.
    """

    def __init__(
        self,
        store: Store,
        records: Collection[Any],
        *,
        id_field: str,
        name: str,
        collection: str,
        whole: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._store = store
        self._records = records
        self._id_field = id_field
        self._name = name
        self._collection = collection
        self._whole = whole
        self._stopping = stopping
        self._tokens = LiveTokens(store.db)
        self._log = structlog.get_logger("likeness.live")

    def run(self) -> None:
        """Follows until a stop. Raises what the database raises; call it again then."""
        lease = self._store.leases.acquire(
            f"live:{self._name}", Holder.this_process("live"), LEASE_S
        )
        if lease is None:
            self._stopping.wait(LEASE_S / 6)
            return
        with lease:
            token = self._tokens.load(self._name)
            try:
                with self._open(token) as stream:
                    if token is None:
                        # The stream is open already: nothing falls between it and the listing.
                        self._whole()
                    self._follow(stream, lease)
            except OperationFailure as error:
                if token is None or not _lost(error):
                    raise
                self._start_anew("live_token_lost")

    def _open(self, token: Mapping[str, Any] | None) -> ChangeStream[Any]:
        options: dict[str, Any] = {"max_await_time_ms": AWAIT_MS, "batch_size": BATCH}
        if self._id_field != "_id":
            options["full_document"] = "updateLookup"
        return self._records.watch(resume_after=token, **options)

    def _follow(self, stream: ChangeStream[Any], lease: Lease) -> None:
        changed: dict[str, None] = {}
        deleted: dict[str, None] = {}
        renewed = saved = time.monotonic()
        while not self._stopping.is_set():
            change = stream.try_next()
            if change is not None:
                if change["operationType"] in _ENDED:
                    self._start_anew("live_collection_gone")
                    return
                self._note(change, changed, deleted)
            full = len(changed) + len(deleted) >= BATCH
            if (change is None or full) and (changed or deleted):
                self._store.jobs.enqueue(
                    "sync",
                    self._collection,
                    {"source": self._name, "changed": list(changed), "deleted": list(deleted)},
                )
                changed, deleted, saved = {}, {}, 0.0
            now = time.monotonic()
            quiet = change is None and not changed and not deleted
            if quiet and now - saved >= SAVE_S and stream.resume_token is not None:
                # Only now: a crash before this repeats the events, and repeating is harmless.
                self._tokens.save(self._name, stream.resume_token)
                saved = now
            if now - renewed >= LEASE_S / 3:
                lease.renew()
                renewed = now

    def _note(
        self, change: Mapping[str, Any], changed: dict[str, None], deleted: dict[str, None]
    ) -> None:
        kind = change["operationType"]
        if self._id_field == "_id":
            key = key_of(change["documentKey"]["_id"])
        else:
            key = key_of(value_at(change.get("fullDocument") or {}, self._id_field))
        if kind == "delete" and self._id_field != "_id":
            # The event no longer says which item it was; the listing does.
            self._whole()
        elif key is None:
            return
        elif kind == "delete":
            changed.pop(key, None)
            deleted[key] = None
        elif kind in _CHANGED:
            deleted.pop(key, None)
            changed[key] = None

    def _start_anew(self, event: str) -> None:
        self._tokens.forget(self._name)
        self._log.warning(event, source=self._name, follows="a whole reconcile")


def _lost(error: OperationFailure) -> bool:
    """Whether the server no longer knows the place in its stream, or never did."""
    passing = error.has_error_label("ResumableChangeStreamError")
    return not passing and error.code not in _REFUSED


def follow(
    live: Live, stopping: threading.Event, guard: Callable[[Callable[[], None]], bool]
) -> None:
    """Keeps `live` running until a stop, with growing pauses while it cannot.

    `guard` calls its argument and says whether that came through.
    """
    log = structlog.get_logger("likeness.live")
    pause = 1.0

    def attempt() -> None:
        try:
            live.run()
        except PyMongoError as error:
            code = error.code if isinstance(error, OperationFailure) else None
            log.warning("live_interrupted", error=type(error).__name__, code=code)
            raise DatabaseUnavailable("The CMS's change stream cannot be read.") from error

    while not stopping.is_set():
        began = time.monotonic()
        came_through = guard(attempt)
        calm = came_through or time.monotonic() - began > 60
        pause = 1.0 if calm else min(pause * 2, 60.0)
        stopping.wait(pause)
