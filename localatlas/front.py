"""The front: accepts clients, gives each a backend connection, and keeps vectors in step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson.codec_options import DatetimeConversion
from bson.timestamp import Timestamp
from pymongo import AsyncMongoClient, MongoClient

from localatlas.answers import Answers
from localatlas.building import Builder
from localatlas.catalog import Catalog
from localatlas.connection import Connection
from localatlas.disk import Disk
from localatlas.follow import Follower
from localatlas.indexes import Build, Indexes
from localatlas.keeping import Kept
from localatlas.names import Names

log = logging.getLogger(__name__)

_CATCH_UP_S = 20.0
_FOLLOWED_S = 5.0
_SELECTION_MS = 800  # short: a backend that is away must not keep us from ending


@dataclass(frozen=True, slots=True)
class Options:
    """How visible effects are delayed, in seconds."""

    lag_s: float = 0.0
    build_delay_s: float = 0.0


class Front:
    """Everything between the clients and one backend.

    `uri` is for the front's own clients; `address` gives where the backend's primary is at this
    moment; `catalog` and `folder` keep index definitions and vectors. With `others` the backend's
    collections may be changed past this front.
    """

    def __init__(
        self,
        *,
        uri: str,
        address: Callable[[], tuple[str, int]],
        folder: Path,
        catalog: Catalog,
        options: Options,
        tls: ssl.SSLContext | None = None,
        disk: Disk | None = None,
        others: bool = True,
    ) -> None:
        self._names = Names(others=others)
        self._disk = disk
        self._address = address
        self._tls = tls
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            uri,
            connect=False,
            appname="localatlas",
            serverSelectionTimeoutMS=_SELECTION_MS,
            datetime_conversion=DatetimeConversion.DATETIME_MS,
        )
        self._async_client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            uri, connect=False, appname="localatlas", serverSelectionTimeoutMS=_SELECTION_MS
        )
        self._builder = Builder(
            self._client,
            delay_s=options.build_delay_s,
            following=lambda: self._follower.following(),
        )
        self._indexes = Indexes(catalog, folder, self._builder.request)
        self._follower = Follower(self._client, self._indexes, folder, lag_s=options.lag_s)

    def take_up(self, kept: Kept) -> None:
        """Takes up what an earlier run kept. Blocks; the backend has to answer."""
        now = self._client.admin.command("hello").get("operationTime")
        self._follower.resume(kept.token)
        for entry, index in kept.entries:
            build = None
            if index is not None:
                build = Build(entry, index)
                build.ready_at = now
            self._indexes.restore(entry, build)

    async def serve(self, listening: socket.socket) -> None:
        """Returns when clients are being accepted and kept vectors have caught up."""
        self._follower.start()
        await asyncio.to_thread(self._follower.caught_up.wait, _CATCH_UP_S)
        answers = Answers(
            self._indexes,
            self._async_client,
            disk_full=self._disk_full,
            followed=self._followed,
            names=self._names,
        )

        def connection() -> Connection:
            made = Connection(
                answers, self._dial, self._connections.discard, held=self._held, names=self._names
            )
            self._connections.add(made)
            return made

        self._server = await asyncio.get_running_loop().create_server(
            connection, sock=listening, backlog=512
        )

    async def _followed(self, until: Timestamp | None) -> None:
        """Returns once every change up to that time has been applied, or after a few seconds."""
        began, _ = self._follower.place()
        deadline = time.monotonic() + _FOLLOWED_S
        while len(self._indexes) and time.monotonic() < deadline:
            rounds, seen = self._follower.place()
            # The round that was under way may have been asked for before the change.
            if rounds > began + 1 or (until is not None and seen is not None and seen >= until):
                return
            await asyncio.sleep(0.002)

    def _disk_full(self) -> bool:
        return self._disk is not None and self._disk.full

    def _held(self, command: str, size: int) -> bool:
        return self._disk is not None and self._disk.refuses(command, size)

    async def _dial(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        host, port = self._address()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, host, port, ssl=self._tls, server_hostname=host if self._tls else None
        )
        return transport

    async def close(self) -> None:
        """Ends every connection, stops following and keeps the vectors on disk."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)
        await asyncio.gather(
            asyncio.to_thread(self._builder.stop), asyncio.to_thread(self._follower.stop)
        )
        await asyncio.gather(self._async_client.close(), asyncio.to_thread(self._client.close))
        with contextlib.suppress(TimeoutError):
            if self._server is not None:
                await asyncio.wait_for(self._server.wait_closed(), 2)
