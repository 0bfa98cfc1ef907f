"""The worker that runs as a child of the web process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from app import embedded

CHILD = """
import os, pathlib, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(60)
"""


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


@pytest.fixture
def worker(pids: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[embedded.EmbeddedWorker]:
    monkeypatch.setattr(embedded, "FIRST_PAUSE", 0.05)
    worker = embedded.EmbeddedWorker([sys.executable, "-c", CHILD, str(pids)])
    worker.start()
    yield worker
    worker.stop()


def started(pids: Path, number: int) -> int:
    """The process id of the child that was started as this one, once it runs."""
    deadline = time.monotonic() + 60
    while not pids.exists() or len(pids.read_text().splitlines()) < number:
        assert time.monotonic() < deadline, "it was not started"
        time.sleep(0.02)
    return int(pids.read_text().splitlines()[number - 1])


def test_it_ends_with_the_web_process(worker: embedded.EmbeddedWorker, pids: Path) -> None:
    child = started(pids, 1)
    worker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_one_that_cannot_be_started_is_tried_again(
    pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of memory, say: nothing was indexed any more, and nobody said so."""
    start, tries = embedded.processes.start, []

    def starting(command: Sequence[str]) -> subprocess.Popen[bytes]:
        tries.append(command)
        if len(tries) < 3:
            raise OSError(errno.ENOMEM, "no memory")
        return start(command)

    monkeypatch.setattr(embedded, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(embedded.processes, "start", starting)
    worker = embedded.EmbeddedWorker([sys.executable, "-c", CHILD, str(pids)])
    worker.start()
    started(pids, 1)
    worker.stop()
    assert len(tries) == 3


def test_one_that_is_killed_is_started_again(worker: embedded.EmbeddedWorker, pids: Path) -> None:
    os.kill(started(pids, 1), signal.SIGKILL)
    assert started(pids, 2) != started(pids, 1)
