"""The whole system as real processes, with a fault proxy before the database and the CMS."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil
from pymongo import MongoClient
from pymongo.database import Database

from bench.fault_proxy import Proxy
from faces import processes
from faces.models.files import recorded_choice
from faces.settings import load

ROOT = Path(__file__).resolve().parents[1]
DATABASE = "faults"
BUILD_MS = "500"
"""So long a vector index is being built at least: what happens meanwhile can be met."""


class Wrong(Exception):
    """A promise that did not hold."""


def eventually(
    true: Callable[[], bool], what: str, within: float = 60.0, every: float = 0.1
) -> float:
    """Seconds until `true`; raises Wrong with `what` when it does not come."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within:
            raise Wrong(f"{what} (waited {within:.0f} s)")
        time.sleep(every)
    return time.monotonic() - began


class System:
    """Starts, strikes and stops web, worker, embedded Atlas and media server in one folder."""

    def __init__(self, folder: Path, *, proxied: bool = True) -> None:
        self.folder = folder
        self._proxied = proxied
        self.media_folder = folder / "media"
        self.strikes = folder / "strikes"
        for each in (self.media_folder, self.strikes, folder / "logs"):
            each.mkdir(parents=True)
        self.listed: dict[str, str] = {}
        settings = load()
        self.models = settings.models_path.resolve()
        self.model = recorded_choice(self.models) or "facenet128"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment: dict[str, str] = {}
        self.list({}, {})

    def up(self) -> None:
        """Start everything, and return when it is ready."""
        atlas = self._start("atlas", "localatlas", "serve", "--data", str(self.folder / "atlas"),
                            "--enable-test-commands", "--build-delay", BUILD_MS)  # fmt: skip
        self.uri = _line(atlas)
        self.client: MongoClient[dict[str, Any]] = MongoClient(self.uri, tz_aware=True)
        self.db: Database[dict[str, Any]] = self.client[DATABASE]
        self.database_proxy = Proxy(_address(self.uri), database=True)
        media = self._start("media", "bench.fault_media", str(self.media_folder))
        self.media_proxy = Proxy(("127.0.0.1", int(_line(media))))
        self.port = _free_port()
        host = f"127.0.0.1:{self.media_proxy.port}"
        self._environment = {
            "MONGODB_URI": self._proxy_uri() if self._proxied else self.uri,
            "MONGODB_DATABASE": DATABASE,
            "MODEL_DIR": str(self.models),
            "FACE_MODEL": self.model,
            "MODEL_AUTO_FETCH": "false",
            "PORT": str(self.port),
            "CMS_SOURCE": "http",
            "CMS_SOURCE_NAME": "cms",
            "CMS_HTTP_URL": f"http://{host}/list",
            "MEDIA_ALLOWED_HOSTS": host,
            "INDEX_SCHEDULE": "0 2 29 2 *",
        }
        self.run("migrations", "up", "--wait")
        self.start_worker()
        self.start_web()
        self.ready()

    def start_web(self) -> None:
        """Start the web process; it may not be ready yet."""
        self._start("web", "app", "serve", "--workers", "1", "--graceful", "5")

    def start_spare(self, **more: str) -> int:
        """The port of a second web process, which has these variables besides."""
        port = _free_port()
        argv = ("app", "serve", "--workers", "1", "--graceful", "5")
        self._start("spare", *argv, PORT=str(port), **more)
        return port

    def start_worker(self, name: str = "worker", *, ahead_s: int = 0) -> None:
        """Start a worker, its clock `ahead_s` seconds ahead."""
        self._start(name, "indexer", "run", LIKENESS_AHEAD=str(ahead_s))

    def ready(self, within: float = 120.0) -> float:
        """Seconds until the service says that it is ready."""
        return eventually(lambda: self._ready(), "the service did not become ready again", within)

    def alive(self, name: str) -> bool:
        """Whether a process runs."""
        return self.processes[name].poll() is None

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """The exit status of a process that got a signal. Raises Wrong when it goes on."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            return process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Wrong(f"the {name} process was still there 40 s after {number.name}") from None

    def kill_engine(self) -> None:
        """kill -9 of the database engine below the embedded Atlas, which starts it again."""
        for child in psutil.Process(self.processes["atlas"].pid).children(recursive=True):
            if "secantus" in " ".join(child.cmdline()):
                child.kill()
                return
        raise Wrong("the embedded Atlas has no engine")

    def lanes(self) -> list[psutil.Process]:
        """The worker's children that run jobs."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.processes["worker"].pid).children()
            return [child for child in found if "work" in child.cmdline()]
        return []

    @contextlib.contextmanager
    def strike(
        self,
        role: str,
        point: str,
        number: signal.Signals = signal.SIGKILL,
        count: int = 1,
        *,
        delay: float = 0.0,
        whom: str = "self",
    ) -> Iterator[Callable[[], bool]]:
        """Arms a point; gives a function that says whether it was reached.

        `bench/struck` says what a point is, and what `delay` and `whom` do.
        """
        path = self.strikes / "strike.json"
        text = {"role": role, "point": point, "count": count, "signal": int(number),
                "delay": delay, "whom": whom}  # fmt: skip
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**text, "at": time.monotonic()}))
        temporary.replace(path)
        try:
            yield lambda: not path.exists()
        finally:
            path.unlink(missing_ok=True)

    def active_model(self) -> str:
        """The key of the model that the database says is active."""
        document = self.db.likeness_models.find_one({"_id": "active"})
        return str(document["model"]) if document else ""

    def sent(self) -> set[str]:
        """The names of all commands that the service's processes sent to the database so far."""
        return {line.split("\t")[1].split()[0] for line in self._noted("sent")}

    def failures(self, command: str) -> int:
        """How often the service's processes saw this command fail or come late so far."""
        return sum(line.split("\t")[1] == command for line in self._noted("failed"))

    def _noted(self, what: str) -> Sequence[str]:
        path = self.strikes / what
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def list(self, listed: Mapping[str, str], photos: Mapping[str, bytes]) -> None:
        """Make the CMS hold exactly these: media id to photo."""
        self.listed = dict(listed)
        for name in set(listed.values()):
            (self.media_folder / f"{name}.jpg").write_bytes(photos[name])
        items = [
            {"_id": key, "url": f"/files/{name}.jpg", "updated_at": name}
            for key, name in sorted(listed.items())
        ]
        temporary = self.media_folder / "list.tmp"
        temporary.write_text(json.dumps({"items": items, "next_cursor": None}))
        temporary.replace(self.media_folder / "list.json")

    def run(self, *argv: str, through_proxy: bool = True, check: bool = True, **more: str) -> str:
        """What a command of the service printed; `more` are variables of its environment.

        Raises Wrong when it fails.
        """
        env = self._env() | more
        if not through_proxy:
            env["MONGODB_URI"] = self.uri
        done = subprocess.run(
            [sys.executable, "-m", *argv],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise Wrong(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr[-300:]}")
        return done.stdout

    def down(self) -> None:
        """Stop everything."""
        if hasattr(self, "client"):
            self.client.close()  # while there is somebody to tell of its sessions
        order = ["web", "spare", "worker", "second", "media", "atlas"]
        for name in order:
            if (process := self.processes.pop(name, None)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                processes.stop([process], grace=10)
        for name in ("database_proxy", "media_proxy"):
            if (closing := getattr(self, name, None)) is not None:
                closing.close()

    def _proxy_uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.database_proxy.port}/?directConnection=true"

    def _ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.port}/readyz"
            return httpx2.get(url, timeout=10).status_code == 200
        except httpx2.HTTPError:
            return False

    def _env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        struck = str(Path(__file__).parent / "struck")
        return {
            **kept,
            **self._environment,
            "PYTHONPATH": struck,
            "LIKENESS_STRIKES": str(self.strikes),
        }

    def _start(self, name: str, *argv: str, **more: str) -> subprocess.Popen[bytes]:
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            asked = name in ("atlas", "media")
            process = processes.start(
                [sys.executable, "-m", *argv],
                on_parent_death=signal.SIGTERM,
                env=self._env() | more,
                cwd=ROOT,
                stdout=subprocess.PIPE if asked else log,
                stderr=log,
            )
        self.processes[name] = process
        return process


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    process.stdout.close()
    if not line:
        raise Wrong(f"{' '.join(map(str, process.args[2:4]))} did not start")  # type: ignore[index]
    return line


def _address(uri: str) -> tuple[str, int]:
    host, _, port = uri.removeprefix("mongodb://").partition("/")[0].partition(":")
    return host, int(port)


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port
