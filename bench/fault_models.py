"""Model files: a fetch that ends half-way, and a disk that is full under the models folder."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2

from bench.fault_kills import another_database
from bench.fault_ledger import Client
from bench.fault_system import Wrong, eventually
from faces.models import files
from faces.models.cards import DETECTOR, card

KEY = "sface"
LITTLE, ENOUGH = 4 * 2**20, 256 * 2**20
"""Room beside the published files: less than the model takes, and more."""
SAID = "the disk of the models folder is full"


def fetch_struck(point: str, number: signal.Signals, client: Client, chance: random.Random) -> None:
    """`faces.models fetch` ends at a point: what is there is not taken for a model, and the same
    command again makes it."""
    system = client.system
    with _folder(client, chance) as folder:
        # The detector and its record are made first, then the model.
        with system.strike(
            "models", f"{point} faces.models.files:make_atomically", number, 3
        ) as at:
            system.run("faces.models", "fetch", KEY, check=False, MODEL_DIR=str(folder))
            if not at():
                raise Wrong(f"the point was not reached: {point}")
        if files.problem(folder, card(KEY)) is None:
            raise Wrong("a model that was never finished is taken for one")
        system.run("faces.models", "fetch", KEY, MODEL_DIR=str(folder))
        system.run("faces.models", "verify", KEY, MODEL_DIR=str(folder))
        _nothing_half_done(folder)


def disk_full(client: Client, chance: random.Random) -> None:
    """A web process fetches its model onto a full disk: it serves what needs no model, says what
    is wrong, takes nothing for a model, and is ready by itself once there is room."""
    system = client.system
    with _folder(client, chance) as folder, another_database(client, chance) as name:
        system.run("migrations", "up", "--wait", FACE_MODEL=KEY, MONGODB_DATABASE=name)
        with _little_room(folder) as room:
            port = system.start_spare(
                MODEL_DIR=str(folder),
                FACE_MODEL=KEY,
                MODEL_AUTO_FETCH="true",
                MONGODB_DATABASE=name,
            )
            pid = system.processes["spare"].pid
            room.hold(pid)
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                eventually(lambda: _answers(http) == 200, "the port was not bound", 60)
                eventually(lambda: SAID in _reason(http), "nothing said that the disk is full", 90)
                _waits_for_a_model(http, client)
                if (folder / card(KEY).file).exists():
                    raise Wrong("something half written lies where the model belongs")
                room.widen(pid)
                eventually(lambda: _answers(http, "/readyz") == 200, "it did not recover", 150)
                if _upload(http, client).status_code != 201:
                    raise Wrong("an upload failed once there was room again")
            _nothing_half_done(folder)
        system.kill("spare", signal.SIGTERM)


def _waits_for_a_model(http: httpx2.Client, client: Client) -> None:
    refused = _upload(http, client)
    if refused.status_code != 503 or refused.json().get("code") not in (
        "encoder_unavailable",
        "loading",
    ):
        raise Wrong(f"without a model an upload was answered {refused.status_code}")
    if "retry-after" not in refused.headers:
        raise Wrong("without a model an upload was refused without Retry-After")
    for path in ("/healthz", "/v1/collections", "/v1/jobs"):
        if _answers(http, path) != 200:
            raise Wrong(f"without a model {path} was answered {_answers(http, path)}")


def _answers(http: httpx2.Client, path: str = "/healthz") -> int:
    try:
        return http.get(path).status_code
    except httpx2.TransportError:
        return 0


def _reason(http: httpx2.Client) -> str:
    return str(http.get("/readyz").json().get("reasons", {}).get("encoder", ""))


def _upload(http: httpx2.Client, client: Client) -> httpx2.Response:
    photo = client.photos[min(client.photos)]
    url = "/v1/collections/default/media/disk"
    return http.put(url, files={"image": ("p.jpg", photo)})


def _nothing_half_done(folder: Path) -> None:
    left = [path.name for path in folder.rglob(".partial-*")]
    if left:
        raise Wrong(f"a fetch left {len(left)} half-written files behind")


@contextlib.contextmanager
def _folder(client: Client, chance: random.Random) -> Iterator[Path]:
    """A models folder without models; published files are brought in by `_provide`."""
    folder = client.system.folder / f"models-{chance.randrange(1_000_000)}"
    folder.mkdir()
    _provide(client, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _provide(client: Client, folder: Path) -> None:
    """Puts the files as published there, so that nothing has to be downloaded."""
    for download in (card(KEY).download, DETECTOR.download):
        assert download is not None
        there = files.source_path(client.system.models, download.name)
        if not there.is_file():
            raise Wrong(f"{there.name} is not here: run python -m faces.models fetch {KEY}")
        target = files.source_path(folder, download.name)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(there, target)


class SmallDisk:
    """A small file system of its own below a folder, where that is allowed (for root)."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def mount(self) -> bool:
        """Whether it could be mounted."""
        return os.geteuid() == 0 and self._mount(f"size={self._used + LITTLE}")

    def hold(self, pid: int) -> None:
        """Nothing: the file system is small already."""

    def widen(self, pid: int) -> None:
        """Makes the file system large."""
        if not self._mount(f"remount,size={self._used + ENOUGH}"):
            raise Wrong("the small file system could not be made larger")

    def _mount(self, options: str) -> bool:
        command = ["/bin/mount", "-t", "tmpfs", "-o", options, "none", self._folder]
        return subprocess.run(command, capture_output=True).returncode == 0


class SmallFiles:
    """A limit on the size of each file that a process writes: needs no privilege."""

    def hold(self, pid: int) -> None:
        """Sets the limit, for the processes that it starts from now on, too."""
        self._limit(pid, LITTLE)

    def widen(self, pid: int) -> None:
        """Takes the limit away."""
        self._limit(pid, resource.RLIM_INFINITY)

    def _limit(self, pid: int, soft: int) -> None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _little_room(folder: Path) -> Iterator[SmallDisk | SmallFiles]:
    """Little room below a folder that holds published files, until `widen` is called."""
    sources = {path.name: path.read_bytes() for path in files.source_path(folder, "").iterdir()}
    disk = SmallDisk(folder)
    if not disk.mount():
        yield SmallFiles()
        return
    try:
        for name, data in sources.items():
            files.write_atomically(files.source_path(folder, name), data)
        yield disk
    finally:
        subprocess.run(["/bin/umount", "-l", str(folder)], check=True)
