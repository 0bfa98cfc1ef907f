"""What has to be true before anything starts: a data folder that is ours alone, and a port."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

_LOCK_PATIENCE_S = 10.0  # a predecessor that was killed may take a moment to be gone


class StartError(Exception):
    """localatlas cannot start, or cannot go on; the text says why and what to do."""


class DataFolder:
    """A folder held by this process alone until it, and the engine that it started, have ended.

    `engine` is the engine's own folder, `front` holds index definitions and vectors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.engine = self.path / "engine"
        self.front = self.path / "front"
        self.log = self.path / "engine.log"
        self._lock = -1

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor; a child that inherits it keeps the folder locked."""
        return self._lock

    def take(self) -> None:
        """Creates and locks the folder; StartError when it is in use or cannot be written."""
        try:
            for folder in (self.path, self.engine, self.front):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            probe = self.front / "probe"
            probe.write_bytes(b"localatlas")
            probe.unlink()
        except OSError as error:
            raise StartError(
                f"The data folder {self.path} cannot be written: {error.strerror}. "
                "Make it writable, or choose another one with --data."
            ) from error
        self._wait_for_lock()
        self._record({"pid": os.getpid()})

    def _wait_for_lock(self) -> None:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                holder = self.holder()
                alive = holder is not None and _alive(int(holder.get("pid", 0)))
                if time.monotonic() > deadline or (alive and self._settled(holder)):
                    number = f" (process {holder['pid']})" if holder and alive else ""
                    raise StartError(
                        f"The data folder {self.path} is in use by another localatlas{number}. "
                        "Stop that one, or choose another folder with --data."
                    ) from None
                time.sleep(0.05)

    @staticmethod
    def _settled(holder: dict[str, Any] | None) -> bool:
        # One that has announced its URI runs; one that has not may be about to fail or to end.
        return bool(holder and holder.get("uri"))

    def announce(self, uri: str) -> None:
        """Records where this localatlas can be reached, for `status`."""
        self._record({"pid": os.getpid(), "uri": uri})

    def holder(self) -> dict[str, Any] | None:
        """What the last localatlas here recorded about itself, or None."""
        try:
            found = json.loads((self.path / "lock").read_bytes() or b"null")
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def held(self) -> bool:
        """Whether a localatlas, or an engine that it left, holds the folder at this moment."""
        try:
            probe = os.open(self.path / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(probe)
        return False

    def _record(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, data, 0)

    def release(self) -> None:
        """Gives the folder back."""
        if self._lock >= 0:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A bound socket that does not accept yet; StartError when the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartError(
            f"The address {host} cannot be resolved: {error.strerror}. Choose another with --host."
        ) from error
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Linux lets two sockets bind one port while neither listens: listening settles it.
        bound.listen(512)
    except OSError as error:
        bound.close()
        reason = (error.strerror or "it cannot be used").lower()
        raise StartError(
            f"Port {port} of {host} cannot be opened: {reason}. "
            "Stop what uses it, or choose another port with --port (0: any free one)."
        ) from error
    bound.setblocking(False)
    return bound


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
