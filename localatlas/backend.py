"""What stands behind the front: the embedded engine, or a replica set that somebody else runs."""

from __future__ import annotations

import ssl
from typing import Any, Protocol

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError

from localatlas.disk import Disk
from localatlas.engine import Engine
from localatlas.startup import StartError

_PATIENCE_MS = 3_000


class Backend(Protocol):
    """A MongoDB-compatible server with change streams."""

    tls: ssl.SSLContext | None
    disk: Disk | None

    @property
    def uri(self) -> str:
        """Where the front's own clients connect."""

    def start(self) -> None:
        """Returns when it answers; StartError when it does not."""

    def restart(self) -> None:
        """Brings it back after `running` said that it is gone."""

    def running(self) -> bool: ...

    def address(self) -> tuple[str, int]:
        """Where its primary is at this moment; OSError when there is none."""

    def close(self) -> None: ...


class Embedded:
    """The embedded engine."""

    tls: ssl.SSLContext | None = None

    def __init__(self, engine: Engine, disk: Disk, first_user: tuple[str, str] | None) -> None:
        self._engine = engine
        self._first_user = first_user
        self.disk: Disk | None = disk

    @property
    def uri(self) -> str:
        return self._engine.uri

    def start(self) -> None:
        if self.disk is not None:
            self.disk.check_at_start()
        self._engine.start(self._first_user)

    def restart(self) -> None:
        self._engine.restart()

    def running(self) -> bool:
        return self._engine.running()

    def address(self) -> tuple[str, int]:
        return self._engine.address

    def close(self) -> None:
        self._engine.close()


class External:
    """A replica set of somebody else's, by its URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.tls: ssl.SSLContext | None = None
        self.disk: Disk | None = None  # its owner's business
        self._client: MongoClient[dict[str, Any]] | None = None

    def start(self) -> None:
        try:
            self._client = MongoClient(self.uri, serverSelectionTimeoutMS=_PATIENCE_MS)
            hello = self._client.admin.command("hello")
        except (InvalidURI, ConfigurationError, ValueError) as error:
            raise StartError(f"The URI given with --backend cannot be used: {error}.") from error
        except PyMongoError as error:
            raise StartError(
                "The server given with --backend does not answer. Start it, or correct the URI."
            ) from error
        if "setName" not in hello:
            raise StartError(
                "The server given with --backend is not a replica set, and only a replica set "
                "tells what changes. Start it with --replSet."
            )
        if self._client.options.pool_options._ssl_context is not None:
            # Certificates were checked against the client's own rules when it said hello.
            self.tls = ssl.create_default_context()

    def restart(self) -> None:
        """Nothing: its owner brings it back."""

    def running(self) -> bool:
        return True

    def address(self) -> tuple[str, int]:
        client = self._client
        primary = None if client is None else client.primary or client.address
        if primary is None:
            raise ConnectionRefusedError("the backend has no primary at this moment")
        return str(primary[0]), int(primary[1] or 27017)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
