"""The supervisor behind `make run`, with small programs in the place of the real ones."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces import processes
from tests.alive import gone

ROOT = Path(__file__).parents[2]
RUNNING = ("atlas", "web", "worker")

# Each program writes its process id into a file of its name and lives until it is told to end.
PROGRAM = """
import http.server, os, pathlib, signal, subprocess, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def note(name, pid):
    (folder / (name + ".new")).write_text(str(pid))
    (folder / (name + ".new")).rename(folder / name)
def end(*_):
    with (folder / "ended").open("a") as log:
        log.write(name + "\\n")
    os._exit(0)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, end)
note(name, os.getpid())
if name == "atlas":
    if "broken" in sys.argv:
        sys.exit(1)
    print("mongodb://127.0.0.1:1/?fake", flush=True)
if name in ("models", "migrations", "samples"):
    with (folder / "steps").open("a") as log:
        log.write(name + " " + os.environ.get("MONGODB_URI", "-") + "\\n")
    time.sleep(60 if "slow" in sys.argv else 0)
    sys.exit(5 if "broken" in sys.argv else 0)
if name == "web":
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"status": "ready"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *_):
            pass
    http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
time.sleep(60)
"""
MAIN = """
import sys
from app import ports, up
def fake(name):
    extra = [part.partition(":")[2] for part in sys.argv[3:] if part.startswith(name + ":")]
    return (sys.executable, "-c", sys.argv[1], name, sys.argv[2], *extra)
up.commands = lambda settings: up.Commands(
    **{n: fake(n) for n in ("atlas", "models", "migrations", "samples", "web", "worker")}
)
grace = 2.0 if "worker:deaf" in sys.argv else 60.0
up.WEB_DRAIN, up.SERVICE_GRACE, up.ATLAS_GRACE, ports.PATIENCE = 1, grace, grace, 0.5
sys.exit(up.main([]))
"""


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def started(note: Path) -> int:
    """The process id in a program's note, once it is there."""
    deadline = time.monotonic() + 60
    while not note.exists():
        assert time.monotonic() < deadline, f"{note.name} never started"
        time.sleep(0.02)
    return int(note.read_text())


class Run:
    """A supervisor over fake programs, and what can be seen of it from outside."""

    def __init__(self, folder: Path, *behaviour: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        env = {k: v for k, v in os.environ.items() if k not in ("MONGODB_URI", "MAKELEVEL")}
        self.process = processes.start(
            [sys.executable, "-c", MAIN, PROGRAM, str(folder), *behaviour],
            env={**env, "PORT": str(self.port), "VAR_DIR": str(folder)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def pid(self, name: str) -> int:
        """The process id of a program, once it runs."""
        return started(self.folder / name)

    def until_ready(self) -> str:
        """The line that tells the address."""
        assert self.process.stdout is not None
        line = next(line.decode() for line in self.process.stdout if b"Ready" in line)
        for name in RUNNING:
            self.pid(name)
        return line

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def end(self) -> tuple[int, str]:
        """The exit status and all of stderr."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def run(*behaviour: str, port: int | None = None) -> Run:
            run = Run(tmp_path, *behaviour, port=port)
            stack.enter_context(run.process)
            stack.callback(run.process.kill)
            return run

        yield run


def test_it_runs_the_steps_in_order_and_tells_the_address(start: Any) -> None:
    run = start()
    assert f"http://127.0.0.1:{run.port}/" in run.until_ready()
    assert run.lines("steps") == [
        "models -",
        "migrations mongodb://127.0.0.1:1/?fake",
        "samples mongodb://127.0.0.1:1/?fake",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_web_and_worker_and_then_the_atlas(
    start: Any, number: signal.Signals
) -> None:
    run = start()
    run.until_ready()
    run.process.send_signal(number)
    assert run.end() == (0, "")
    ended = run.lines("ended")
    assert ended[-1] == "atlas"
    assert sorted(ended) == ["atlas", "web", "worker"]


def test_two_signals_are_as_good_as_one(start: Any) -> None:
    run = start()
    run.until_ready()
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == (0, "")
    assert run.lines("ended")[-1] == "atlas"


def test_what_does_not_stop_is_killed_and_named(start: Any) -> None:
    run = start("worker:deaf")
    run.until_ready()
    pids = [run.pid(name) for name in RUNNING]
    run.process.terminate()
    status, errors = run.end()
    assert status == 0
    assert "Had to kill what did not stop in time: The worker." in errors
    assert gone(*pids), "processes were left behind"


def test_a_signal_during_a_step_ends_the_step(start: Any) -> None:
    run = start("samples:slow")
    pids = [run.pid("samples"), run.pid("atlas")]
    run.process.terminate()
    assert run.end() == (0, "")
    assert gone(*pids), "processes were left behind"
    assert not (run.folder / "worker").exists()


@pytest.mark.parametrize("victim", RUNNING)
def test_when_one_process_is_killed_all_end_and_it_is_named(start: Any, victim: str) -> None:
    run = start()
    run.until_ready()
    pids = [run.pid(name) for name in RUNNING]
    os.kill(run.pid(victim), signal.SIGKILL)
    status, errors = run.end()
    name = {"atlas": "The embedded Atlas", "web": "The web process", "worker": "The worker"}
    assert status == 1
    assert f"{name[victim]} was killed by SIGKILL." in errors
    assert gone(*pids), "processes were left behind"


def test_when_the_supervisor_is_killed_all_end(start: Any) -> None:
    run = start()
    run.until_ready()
    pids = [run.pid(name) for name in RUNNING]
    run.process.kill()
    assert gone(*pids), "processes were left behind"


def test_a_step_that_fails_is_named_and_nothing_is_served(start: Any) -> None:
    run = start("migrations:broken")
    status, errors = run.end()
    assert status == 1
    assert "Applying the migrations ended with status 5" in errors
    assert not (run.folder / "web").exists()


def test_a_busy_port_is_one_plain_sentence(start: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = start(port=port)
        status, errors = run.end()
    assert status == 1
    assert errors.count("\n") == 1
    assert f"Port {port} on 127.0.0.1 is in use" in errors
    assert not (run.folder / "atlas").exists()


def test_an_atlas_that_does_not_start_is_no_loss_of_data(start: Any) -> None:
    run = start("atlas:broken", "models:slow")
    status, errors = run.end()
    assert status == 1
    assert "The embedded Atlas did not start" in errors
    assert not (run.folder / "web").exists()


def test_killing_make_ends_everything(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(
        textwrap.dedent(
            """\
            run:
            \t@exec "$$PYTHON" -c "$$MAIN" "$$PROGRAM" "$$FOLDER"
            """
        )
    )
    env = {k: v for k, v in os.environ.items() if k not in ("MONGODB_URI", "MAKELEVEL")}
    env |= {"MAIN": MAIN, "PROGRAM": PROGRAM, "FOLDER": str(tmp_path), "PYTHON": sys.executable}
    env |= {"PORT": str(free_port()), "PYTHONPATH": str(ROOT), "VAR_DIR": str(tmp_path)}
    make = processes.start(["make", "-C", str(tmp_path), "run"], env=env, stdout=subprocess.PIPE)
    with make:
        assert make.stdout is not None
        assert any(b"Ready" in line for line in make.stdout)
        pids = [started(tmp_path / name) for name in RUNNING]
        make.kill()
        assert gone(*pids), "processes were left behind"
