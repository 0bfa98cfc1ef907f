"""`make run` as its user waits for it: first start, start with all in place, stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, say
from faces import processes
from faces.settings import load

READY_SECONDS = 180


def rows() -> Iterator[Row]:
    """Seconds from the command to `ready`, and from SIGTERM to the end, models being there."""
    settings = load()
    with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
        folder = Path(name)
        (folder / "samples").symlink_to((settings.var_dir / "samples").absolute())
        environment = {key: value for key, value in os.environ.items() if key != "MONGODB_URI"}
        environment |= {"VAR_DIR": name, "MODEL_DIR": str(settings.models_path.absolute())}
        for title, goal in (("first start, 93 photos to index", None), ("second start", 5.0)):
            say(f"start: {title}")
            ready, stopped = _once(environment | {"PORT": str(_free_port())})
            yield Row(f"start: {title}, to ready", ready, "s", goal=goal)
            yield Row("start: SIGTERM to the end", stopped, "s", goal=10.0)


def _once(environment: dict[str, str]) -> tuple[float, float]:
    """Seconds to ready, and seconds from SIGTERM until the last process has gone."""
    began = time.perf_counter()
    with processes.start(
        [sys.executable, "-m", "app", "up"], env=environment, stderr=subprocess.DEVNULL
    ) as child:
        while not _is_ready(environment["PORT"]):
            if child.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                raise RuntimeError("`python -m app up` did not become ready; run it to see why")
            time.sleep(0.05)
        ready = time.perf_counter() - began
        began = time.perf_counter()
        child.terminate()
        child.wait()
    return ready, time.perf_counter() - began


def _is_ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ready")
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port
