"""The embedded database: SecantusDB as a child process, its data on disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from faces import processes
from localatlas import wire
from localatlas.startup import DataFolder, StartError, free_port

PROGRAM = "secantusd-py"
# As a server gives every user; the engine alone would leave the older one out.
MECHANISMS = ["SCRAM-SHA-1", "SCRAM-SHA-256"]
OWN_USER = "__localatlas"
CACHE = "128M"
# An hour and 100,000 entries by default: one bulk load longer, and every vector would be read anew.
OPLOG_SECONDS = 24 * 3600
OPLOG_ENTRIES = 500_000
_START_PATIENCE_S = 60.0
_STOP_PATIENCE_S = 8.0
_KNOCK_AFTER_S = 0.05


class Engine:
    """One embedded engine, started on `start` and restarted on the same port by `restart`.

    Every acknowledged write is on disk (`--sync-on-commit`): the engine's default loses some of
    them at kill -9. It listens on loopback only, whatever the front does.
    """

    def __init__(
        self, folder: DataFolder, *, auth: bool = False, test_commands: bool = False
    ) -> None:
        self._folder = folder
        self._auth = auth
        self._test_commands = test_commands
        self._port = 0
        self._password = ""
        self._child: subprocess.Popen[bytes] | None = None
        self._starter = processes.Starter()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def uri(self) -> str:
        """Where the front's own clients connect, with their own credentials where users count."""
        login = f"{OWN_USER}:{self._password}@" if self._password else ""
        query = "&authSource=admin" if self._password else ""
        return f"mongodb://{login}127.0.0.1:{self._port}/?directConnection=true{query}"

    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self, first_user: tuple[str, str] | None = None) -> None:
        """Returns when the engine answers; StartError when it does not.

        With authentication, `first_user` (name, password) is created with all rights unless it is
        there already; the front's own user always is.
        """
        self._port = free_port()
        if self._auth:
            self._provide_users(first_user)
        self._launch(auth=self._auth)

    def restart(self) -> None:
        """Starts the engine again after it ended by itself; StartError when it does not come up."""
        self._launch(auth=self._auth)

    def stop(self) -> None:
        """Ends the engine in order, or by force when it does not within a few seconds."""
        if self._child is not None:
            if self._child.poll() is None:
                _ask_to_end(self._child.pid)
                # Its accepting thread looks up only when somebody knocks; it waits 2 s for that.
                time.sleep(_KNOCK_AFTER_S)
                with contextlib.suppress(OSError):
                    socket.create_connection(self.address, timeout=1).close()
            # Asked once is enough: a second SIGTERM would run its shutdown inside its shutdown.
            processes.stop([self._child], grace=_STOP_PATIENCE_S, ask=signal.SIGCONT)
            self._child = None

    def close(self) -> None:
        """Stops the engine and what starts it."""
        self.stop()
        self._starter.close()

    def _provide_users(self, first_user: tuple[str, str] | None) -> None:
        secret = self._folder.front / "secret"
        if secret.exists():
            self._password = secret.read_text().strip()
            if first_user is None:
                return
        else:
            self._password = secrets.token_hex(24)
        self._launch(auth=False)
        try:
            with MongoClient[dict[str, Any]](
                *self.address, directConnection=True, serverSelectionTimeoutMS=5000
            ) as client:
                for name, password in [(OWN_USER, self._password), *filter(None, [first_user])]:
                    with contextlib.suppress(OperationFailure):  # there already
                        client.admin.command(
                            "createUser", name, pwd=password, roles=["root"], mechanisms=MECHANISMS
                        )
        except PyMongoError as error:
            raise StartError(
                "The embedded engine refused to create its first users. "
                f"Its log, {self._folder.log}, may say why."
            ) from error
        finally:
            self.stop()
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._password)
            file.flush()
            os.fsync(file.fileno())

    def _launch(self, *, auth: bool) -> None:
        config = self._folder.front / "engine.toml"
        config.write_text("# Given so that no other configuration is looked for.\n")
        argv = [_program(), "--config", str(config), "--host", "127.0.0.1"]
        argv += ["--port", str(self._port), "--storage-path", str(self._folder.engine)]
        argv += ["--cache-size", CACHE, "--sync-on-commit", "--log-level", "WARNING"]
        argv += ["--oplog-retention-seconds", str(OPLOG_SECONDS)]
        argv += ["--oplog-max-entries", str(OPLOG_ENTRIES)]
        argv += ["--auth"] if auth else []
        argv += ["--enable-test-commands"] if self._test_commands else []
        try:
            with self._folder.log.open("wb") as log:
                child = self._starter.start(
                    lambda: processes.start(
                        argv, stdout=log, stderr=log, pass_fds=(self._folder.lock_fd,)
                    )
                )
        except OSError as error:
            raise StartError(
                f"The embedded engine cannot be started: {error.strerror}. "
                "Install the development packages (make run does), or set MONGODB_URI."
            ) from error
        self._child = child
        self._wait_until_it_answers(child)

    def _wait_until_it_answers(self, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_PATIENCE_S
        while not self._answers():
            if child.poll() is not None:
                raise StartError(self._why_it_ended(child.returncode))
            if time.monotonic() > deadline:
                self.stop()
                raise StartError(
                    f"The embedded engine did not answer within {_START_PATIENCE_S:.0f} s. "
                    f"Its log, {self._folder.log}, may say why."
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(self.address, timeout=5) as probe:
                probe.sendall(wire.message({"hello": 1, "$db": "admin"}, request_id=1))
                return len(probe.recv(wire.HEADER_SIZE)) > 0
        except OSError:
            return False

    def _why_it_ended(self, status: int) -> str:
        lines = self._folder.log.read_bytes()[-4000:].decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
        return (
            f"The embedded engine ended at its start (status {status}): {last[:300]}. "
            f"Its whole log is {self._folder.log}."
        )


def _ask_to_end(pid: int) -> None:
    """Sends SIGTERM to the main thread of `pid`.

    Sent to the process, the signal may be taken by a thread that is just starting another one, and
    Python's main thread, which has to act on it, then sleeps on.
    """
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    if tgkill is None or tgkill(pid, pid, int(signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _program() -> str:
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise StartError(
            f"{PROGRAM}, the embedded engine, is not installed. "
            "Install the development packages (make run does), or set MONGODB_URI."
        )
    return found
