"""A localatlas as a process of its own, which tests start, kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

ROOT = Path(__file__).resolve().parents[3]
MODULE = [sys.executable, "-m", "localatlas"]


class Server:
    """`python -m localatlas serve` on one data folder."""

    def __init__(self, data: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.data = data
        self._arguments = arguments
        self._env = env or {}
        self.process: subprocess.Popen[str] | None = None
        self.uri = ""

    def start(self) -> Server:
        """Start it and wait for its URI."""
        self.process = subprocess.Popen(
            [*MODULE, "serve", "--data", str(self.data), *self._arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._env},
        )
        assert self.process.stdout is not None
        self.uri = self.process.stdout.readline().strip()
        if not self.uri:
            self._reap()
            pytest.fail("localatlas did not start; its message is on stderr")
        return self

    @property
    def front_pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def engine_pid(self) -> int:
        (child,) = psutil.Process(self.front_pid).children()
        return int(child.pid)

    def kill(self, *pids: int) -> None:
        """Kill these processes of it, the front last."""
        for pid in pids or (self.front_pid,):
            os.kill(pid, signal.SIGKILL)
        if self.process is not None and (not pids or self.front_pid in pids):
            self._reap()

    def stop(self) -> None:
        """Ask it to end and wait until it has."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            self._reap()

    def _reap(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.uri, serverSelectionTimeoutMS=5000, **options)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a localatlas on a folder of this test; all of them end with the test."""
    started: list[Server] = []

    def start(*arguments: str, folder: str = "atlas", env: dict[str, str] | None = None) -> Server:
        server = Server(tmp_path / folder, *arguments, env=env)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server_on() -> Iterator[Callable[..., Server]]:
    """Start a localatlas on any folder; all of them end with the test."""
    started: list[Server] = []

    def start(data: Path, *arguments: str) -> Server:
        started.append(Server(data, *arguments))
        return started[-1].start()

    yield start
    for server in started:
        server.stop()
