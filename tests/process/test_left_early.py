"""Commands that are left early: Ctrl-C while they wait for a database, a reader that has enough."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def heard() -> Iterator[None]:
    """Children hear SIGINT, which a shell has a run in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    "command", ["app doctor", "indexer status", "indexer audit", "migrations status"]
)
def test_a_command_that_waits_for_the_database_ends_in_one_sentence(
    command: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "MONGODB_URI": f"mongodb://127.0.0.1:{silent.getsockname()[1]}/",
                "VAR_DIR": str(tmp_path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            asked, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            asked.close()
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert len(said.splitlines()) == 1
    assert "topped" in said


@pytest.mark.parametrize("command", ["app doctor", "app keys new", "faces.models list"])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(command: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")
