"""The whole system under load: as `make faults` runs it, but without proxies and strikes."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from bench.fault_ledger import Client
from bench.fault_system import System, Wrong
from bench.report import Row, say, table
from bench.vitals import Vitals
from faces.settings import load

SAMPLED = ("web", "worker", "atlas")


class Plain(System):
    """Web, worker, embedded Atlas and media server, each an unchanged process of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, proxied=False)
        self._more: dict[str, str] = {}

    def vitals(self) -> Vitals:
        """A sampler of all processes but the media server, which is not ours to judge."""
        return Vitals({name: self.processes[name].pid for name in SAMPLED})

    def restart_web(self, **more: str) -> None:
        """Another web process in place of the one that runs, with these variables set as well."""
        self.kill("web", signal.SIGTERM)
        self._more = more
        self.start_web()
        self.ready()

    def _env(self) -> dict[str, str]:
        env = super()._env() | self._more
        del env["PYTHONPATH"], env["LIKENESS_STRIKES"]
        return env


Measured: TypeAlias = tuple[list[Row], list[str]]
"""Rows, and a sentence for everything that was wrong."""


def run(name: str, measure: Callable[[Plain, Path], Measured]) -> int:
    """Measure a system of its own and print the table: exit status 0 when nothing was wrong.

    Otherwise what was wrong is said, and the folder with the ledger and the logs is kept.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"likeness-{name}-"))
    system = Plain(folder / "system")
    try:
        say(f"{name}: starting the system; ledger and logs in {folder}")
        system.up()
        rows, wrong = measure(system, folder)
    except Wrong as error:
        rows, wrong = [], [str(error)]
    finally:
        system.down()
    print(table(rows))
    for line in wrong:
        print(f"bench: {line}", file=sys.stderr)
    if wrong:
        print(f"bench: the ledger and the logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def gallery() -> dict[str, bytes]:
    """Every sample photo by a short name. Raises Wrong when there are none."""
    folder = load().var_dir / "samples" / "gallery"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise Wrong(f"{folder} holds no photos: run python -m faces.models fetch --samples")
    return {f"photo-{number}": path.read_bytes() for number, path in enumerate(files)}


def with_a_face(client: Client) -> dict[str, bytes]:
    """Those of the client's photos in which at least one face is found."""
    found = {}
    for name, data in client.photos.items():
        status, body = client.call("POST", "/v1/detect", files={"image": ("p.jpg", data)})
        if status == 200 and body["faces"]:
            found[name] = data
    return found


def vectors(client: Client, photos: dict[str, bytes], most: int = 16) -> list[list[float]]:
    """A face's vector from each of the first photos."""
    found: list[list[float]] = []
    for data in list(photos.values())[:most]:
        status, body = client.call("POST", "/v1/embed", files={"image": ("p.jpg", data)})
        answer: dict[str, Any] = body
        if status == 200:
            found += [face["embedding"] for face in answer["faces"][:1]]
    return found
