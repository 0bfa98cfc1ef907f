"""Keeps the vectors in step with the collections, by one change stream over all of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bson.datetime_ms import DatetimeMS
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from localatlas import keeping, wire
from localatlas.indexes import Build, Indexes, Live, State
from localatlas.keeping import Token

log = logging.getLogger(__name__)

_AWAIT_MS = 100
_RETRY_S = 0.2
_STOP_S = 1.0
_KEEP_EVERY_S = 20.0
_MANY, _OLD_S = 500, 600.0
_BATCH = 1000


class Follower(threading.Thread):
    """Applies every write to the builds it concerns, `lag_s` after it happened.

    It follows even while there is no index, so that none is ever created before its first event.
    It is also what lets a build serve: when everything up to the end of its scan has been applied.
    Where the stream cannot be taken up again (its token is too old), every index is built anew.
    """

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        indexes: Indexes,
        folder: Path,
        *,
        lag_s: float = 0.0,
    ) -> None:
        super().__init__(name="follow", daemon=True)
        self._client = client
        self._indexes = indexes
        self._folder = folder
        self._lag_s = lag_s
        self._token: Token | None = None
        self._seen: Timestamp | None = None
        self._waiting: deque[tuple[float, Mapping[str, Any]]] = deque()
        self._stopping = threading.Event()
        self._streaming = threading.Event()
        self._looked_at = 0.0
        self.caught_up = threading.Event()
        self._rounds = 0

    def resume(self, token: Token | None) -> None:
        """Before the start: where to take up the stream."""
        self._token = token

    def following(self) -> bool:
        """Waits a moment for the stream; whether it is open."""
        return self._streaming.wait(1.0) and not self._stopping.is_set()

    def place(self) -> tuple[int, Timestamp | None]:
        """How often there was nothing left to apply, and the time of the last event applied."""
        return self._rounds, self._seen

    def stop(self) -> None:
        """Stops following and keeps the vectors on disk for the next start."""
        self._stopping.set()
        if not self.is_alive():
            return  # it was never started
        self.join(_STOP_S)
        if not self.is_alive():  # else it waits for a backend that is gone
            self._keep(everything=True)

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except OperationFailure as error:
                log.warning(
                    "the change stream cannot be resumed (code %s): the vectors are read anew",
                    error.code,
                )
                self._rebuild()
                self._stopping.wait(_RETRY_S)
            except PyMongoError as error:
                log.info("the change stream is opened again: %s", type(error).__name__)
                if self._token is None and self._streaming.is_set():
                    self._rebuild()
                self._stopping.wait(_RETRY_S)
            except Exception:
                log.exception("an event could not be applied: the vectors are read anew")
                self._rebuild()
                self._stopping.wait(_RETRY_S)

    def _rebuild(self) -> None:
        self._streaming.clear()
        self._token = None
        self._waiting.clear()
        for live in self._indexes.all():
            self._indexes.rebuild(live)
        self._forget_missing()

    def _follow(self) -> None:
        self._waiting.clear()
        with self._client.watch(
            full_document="updateLookup",
            show_expanded_events=True,
            resume_after=self._token,
            batch_size=_BATCH,
            max_await_time_ms=min(_AWAIT_MS, 50) if self._lag_s else _AWAIT_MS,
        ) as stream:
            self._advance(stream.resume_token)
            self._streaming.set()
            while not self._stopping.is_set():
                scanned = self._scanned()
                event = stream.try_next()
                if event is not None:
                    self._waiting.append((time.monotonic() + self._lag_s, event))
                self._apply_due()
                if event is None and not self._waiting:
                    self._rounds += 1
                    self._advance(stream.resume_token)
                    self._finish(scanned)
                    self._first_time_caught_up()
                if time.monotonic() - self._looked_at > _KEEP_EVERY_S:
                    self._keep()

    def _advance(self, token: Token | None) -> None:
        if token is not None:
            self._token = token

    def _first_time_caught_up(self) -> None:
        if not self.caught_up.is_set():
            self._forget_missing()
            self.caught_up.set()

    def _apply_due(self) -> None:
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            _, event = self._waiting.popleft()
            self._apply(event)
            self._advance(event["_id"])
            self._seen = event.get("clusterTime")
            if self._seen is not None:
                self._finish(
                    [
                        (live, build)
                        for live, build in self._scanned()
                        if build.ready_at is not None and build.ready_at < self._seen
                    ]
                )

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind, uuid, at = event["operationType"], event.get("collectionUUID"), event["clusterTime"]
        if uuid is None:
            return  # of a whole database, or of no collection
        uuid = bytes(uuid)
        namespace = (event["ns"]["db"], event["ns"]["coll"])
        if kind in ("insert", "update", "replace", "delete"):
            followed = self._indexes.followed(uuid, namespace, at)
            if followed:
                identity = event["documentKey"]["_id"]
                document = None if kind == "delete" else event.get("fullDocument")
                for live in followed:
                    for build in live.builds:
                        build.apply(identity, document)
        elif kind == "drop":
            self._indexes.dropped(uuid, namespace, at)
        elif kind == "rename":
            target = (event["to"]["db"], event["to"]["coll"])
            wall = event.get("wallTime") or DatetimeMS(int(time.time() * 1000))
            self._indexes.renamed(uuid, namespace, target, at, wall.as_datetime(wire.EXACT))

    def _scanned(self) -> list[tuple[Live, Build]]:
        return [
            (live, live.staged)
            for live in self._indexes.all()
            if live.staged is not None
            and live.staged.ready_at is not None
            and live.staged.state is State.BUILDING
        ]

    def _finish(self, builds: list[tuple[Live, Build]]) -> None:
        for live, build in builds:
            self._indexes.ready(live, build)
            if build.unsaved:
                self._save(live, build)
        if builds:
            self._keep()

    def _forget_missing(self) -> None:
        """Drops the indexes of collections that went while nobody followed."""
        try:
            present = {
                bytes(info["info"]["uuid"]): (database, info["name"])
                for database in self._client.list_database_names()
                for info in self._client[database].list_collections()
                if "uuid" in info.get("info", {})
            }
        except PyMongoError as error:
            log.info("the collections could not be listed: %s", type(error).__name__)
            return
        self._indexes.drop(*self._indexes.missing(present))

    def _keep(self, *, everything: bool = False) -> None:
        """Keeps the place on disk, and vectors of which much has changed or long ago."""
        self._looked_at = time.monotonic()
        if self._token is None:
            return
        clean = []
        for live in self._indexes.all():
            build = live.serving
            if build is None:
                continue
            many = build.unsaved > max(_MANY, len(build.index) // 20)
            old = time.monotonic() - build.saved_at > _OLD_S
            if build.unsaved and (everything or many or old):
                self._save(live, build)
            if not build.unsaved:
                clean.append(self._indexes.file(live, build).name)
        keeping.save_place(self._folder, self._token, clean)

    def _save(self, live: Live, build: Build) -> None:
        if self._token is None or live.serving is not build:
            return
        if keeping.save(self._indexes.file(live, build), build.index, self._token):
            build.unsaved, build.saved_at = 0, time.monotonic()
