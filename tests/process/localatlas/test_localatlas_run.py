"""localatlas as a process: what it starts, what it ends, and what it says when it cannot."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.alive import gone

ROOT = Path(__file__).resolve().parents[3]
MODULE = [sys.executable, "-m", "localatlas"]
MEBIBYTE = 1 << 20

# Writes what it is told by its URI, says that it has begun, and waits for a signal.
COMMAND = """
import os, signal, sys, time, pymongo
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
client = pymongo.MongoClient(os.environ["MONGODB_URI"])
client.d.c.insert_one({"pid": os.getpid()})
print(os.getpid(), os.environ["MONGODB_URI"], flush=True)
time.sleep(60)
"""


def localatlas(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MODULE, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `localatlas run` with the command above."""
    started: list[subprocess.Popen[str]] = []

    def start(data: Path = tmp_path / "atlas") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*MODULE, "run", "--data", str(data), "--", sys.executable, "-c", COMMAND],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def began(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The command's process id and URI."""
    assert process.stdout is not None
    pid, uri = process.stdout.readline().split()
    return int(pid), uri


def test_run_gives_the_command_a_uri_and_returns_its_status(tmp_path: Path) -> None:
    script = (
        "import os, sys, pymongo; c = pymongo.MongoClient(os.environ['MONGODB_URI']);"
        "c.d.c.insert_one({'_id': 1}); sys.exit(40 + c.d.c.count_documents({}))"
    )
    done = localatlas("run", "--data", tmp_path / "atlas", "--", sys.executable, "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (41, "", "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_the_command_and_then_all_ends(
    running: Callable[..., subprocess.Popen[str]], signum: signal.Signals
) -> None:
    process = running()
    command, _ = began(process)
    others = [child.pid for child in psutil.Process(process.pid).children()]
    process.send_signal(signum)
    assert process.wait(60) == (7 if signum == signal.SIGTERM else 128 + signal.SIGINT)
    assert gone(command, *others)


@pytest.mark.parametrize("victim", ["front", "engine", "command"])
def test_kill_9_of_any_leaves_nothing_behind_and_the_next_start_works(
    running: Callable[..., subprocess.Popen[str]], victim: str, tmp_path: Path
) -> None:
    process = running()
    command, uri = began(process)
    (engine,) = {child.pid for child in psutil.Process(process.pid).children()} - {command}
    os.kill({"front": process.pid, "engine": engine, "command": command}[victim], signal.SIGKILL)
    if victim == "engine":
        # It comes back by itself; then everything ends as ever.
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=10_000) as client:
            assert client.d.c.count_documents({}) == 1
        process.terminate()
    process.wait(60)
    assert gone(command, engine)
    again = running()
    _, uri = began(again)
    with MongoClient[dict[str, Any]](uri) as client:
        assert client.d.c.count_documents({}) == 2
    again.terminate()
    assert again.wait(60) == 7


def test_everything_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen({[*MODULE, 'serve', '--data', str(tmp_path / 'atlas')]!r},"
        " stdout=subprocess.PIPE, text=True);"
        "print(p.pid, p.stdout.readline().strip(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        front = int(parent.stdout.readline().split()[0])
        engine = [child.pid for child in psutil.Process(front).children()]
        parent.kill()
        parent.wait()
    assert gone(front, *engine)


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = localatlas("serve", "--data", tmp_path / "atlas", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Port {port} of 127.0.0.1 cannot be opened: address already in use" in done.stderr
    assert "--port" in done.stderr


def test_a_folder_in_use_is_named_with_who_uses_it(serve: Callable[..., Any]) -> None:
    server = serve()
    done = localatlas("serve", "--data", server.data)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"in use by another localatlas (process {server.front_pid})" in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    done = localatlas("serve", "--data", file / "atlas")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"The data folder {file / 'atlas'} cannot be written" in done.stderr


def test_other_machines_are_let_in_only_with_users(tmp_path: Path) -> None:
    done = localatlas("serve", "--data", tmp_path / "atlas", "--host", "0.0.0.0")  # noqa: S104
    assert (done.returncode, done.stdout) == (1, "")
    assert "--auth" in done.stderr


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = localatlas("run", "--data", tmp_path / "atlas", "--", "no-such-command")
    assert done.returncode == 1
    assert "no-such-command cannot be started" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_backend_that_does_not_answer_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    done = localatlas("serve", "--data", tmp_path / "a", "--backend", "mongodb://")
    assert done.returncode == 1
    assert "--backend" in done.stderr


def test_a_full_disk_refuses_writes_and_loses_nothing(serve: Callable[..., Any]) -> None:
    limit = 28 * MEBIBYTE
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        server = serve()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with server.client() as client:

        def insert(count: int) -> None:
            for number in range(count):
                client.d.c.insert_one({"_id": number, "blob": os.urandom(MEBIBYTE // 4)})

        with pytest.raises(OperationFailure, match="disk of the data folder is full") as full:
            insert(200)
        assert full.value.code == 14031
        written = client.d.c.count_documents({})
        assert written > 10
    server.stop()
    server.start()
    with server.client() as client:
        assert client.d.c.count_documents({}) == written
        client.d.c.insert_one({"_id": "room again"})


def test_a_file_limit_that_is_too_small_is_named(tmp_path: Path) -> None:
    done = localatlas(
        "serve",
        "--data",
        tmp_path / "atlas",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE, MEBIBYTE)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "ulimit -f" in done.stderr


def test_status_tells_what_runs_and_the_state_of_each_index(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    idle = localatlas("status", "--data", tmp_path / "nothing")
    assert (idle.returncode, "nothing runs" in idle.stdout) == (3, True)
    server = serve()
    definition = {
        "fields": [{"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"}]
    }
    with server.client() as client:
        client.d.create_collection("c")
        client.d.command(
            {
                "createSearchIndexes": "c",
                "indexes": [{"name": "vs", "type": "vectorSearch", "definition": definition}],
            }
        )
    deadline = time.monotonic() + 60
    while "READY" not in (busy := localatlas("status", "--data", server.data)).stdout:
        assert time.monotonic() < deadline
    assert busy.returncode == 0
    assert f"process {server.front_pid} serves" in busy.stdout
    assert server.uri in busy.stdout
    assert "d.c vs: READY, queryable" in busy.stdout


def test_the_version_names_both_parts() -> None:
    done = localatlas("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("localatlas ")
    assert "SecantusDB" in done.stdout
