"""Children end with whoever started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces import processes
from tests.alive import alive, gone

ROOT = Path(__file__).parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
PARENT = """
import sys, time
from faces import processes
child = processes.start([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        yield process
        process.kill()


def test_a_child_ends_when_its_parent_is_killed(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    assert gone(child, within=60)


def test_a_child_leads_its_own_group() -> None:
    child = processes.start(SLEEP)
    try:
        assert os.getpgid(child.pid) == child.pid
    finally:
        assert processes.stop([child], grace=5)


def test_a_starter_keeps_children_when_the_asking_thread_ends() -> None:
    starter = processes.Starter()
    children: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(
        target=lambda: children.append(starter.start(lambda: processes.start(SLEEP)))
    )
    thread.start()
    thread.join()
    time.sleep(0.2)
    (child,) = children
    assert child.poll() is None
    starter.close()
    assert child.wait(60) == -signal.SIGKILL


def test_a_starter_hands_on_what_went_wrong() -> None:
    starter = processes.Starter()
    with contextlib.closing(starter), pytest.raises(FileNotFoundError):
        starter.start(lambda: processes.start(["/no/such/program"]))


def test_stopping_kills_what_does_not_listen_and_its_group(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    deaf = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"temporary = pathlib.Path({str(note)!r} + '.new')\n"
        "temporary.write_text(str(child.pid))\n"
        f"temporary.rename({str(note)!r})\n"
        "time.sleep(60)\n"
    )
    child = processes.start([sys.executable, "-c", deaf])
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    grandchild = int(note.read_text())
    began = time.monotonic()
    assert processes.stop([child], grace=0.3) is False
    assert time.monotonic() - began < 50  # not until it ends by itself
    assert child.returncode == -signal.SIGKILL
    assert gone(grandchild, within=60)
