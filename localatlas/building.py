"""Reads whole collections into new builds, in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from localatlas.indexes import Build, Live, State
from localatlas.vectorfile import CODEC

log = logging.getLogger(__name__)

_BATCH = 500
_RETRY_S = 0.5


class Builder:
    """Makes builds, a few at a time. A build is handed on when every document has been read.

    `following` returns once events are being followed (False: never again), so that no write falls
    between the scan and the stream.
    """

    def __init__(
        self,
        client: MongoClient[dict[str, Any]],
        *,
        delay_s: float,
        following: Callable[[], bool],
    ) -> None:
        self._client = client
        self._delay_s = delay_s
        self._following = following
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="build")

    def request(self, live: Live, build: Build) -> None:
        """Queues a build."""
        if not self._stopping.is_set():
            self._pool.submit(self._run, live, build)

    def stop(self) -> None:
        """Gives up what is being built and returns when it has stopped."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _over(self, build: Build) -> bool:
        return build.abandoned or self._stopping.is_set()

    def _run(self, live: Live, build: Build) -> None:
        try:
            if self._delay_s and not build.abandoned:
                self._stopping.wait(self._delay_s / 2)
                build.state = State.BUILDING
                self._stopping.wait(self._delay_s / 2)
            build.state = State.BUILDING
            while not self._over(build):
                try:
                    if self._following():
                        self._scan(live, build)
                        return
                except PyMongoError as error:
                    # The collection was renamed or dropped under the scan, or the backend is away.
                    log.info("reading a collection again: %s", type(error).__name__)
                self._stopping.wait(_RETRY_S)
        except Exception:
            build.state = State.FAILED
            log.exception("an index could not be built")

    def _scan(self, live: Live, build: Build) -> None:
        database, name = live.entry.namespace
        collection = self._client.get_database(database, codec_options=CODEC)[name]
        batch = []
        # Whole documents: the engine hands them on as they lie, a projection costs it more.
        with collection.find({}, batch_size=_BATCH) as cursor:
            for document in cursor:
                batch.append(document)
                if len(batch) == _BATCH:
                    if self._over(build):
                        return
                    build.scanned(batch)
                    batch = []
                    time.sleep(0)  # lets waiting requests go first
        build.scanned(batch)
        build.ready_at = self._client.admin.command("hello")["operationTime"]
