"""`make run` as a stranger meets it: started, searched, stopped, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from faces import processes

pytestmark = pytest.mark.xdist_group("run")
ROOT = Path(__file__).parents[2]
READY_SECONDS = 120
STOP_SECONDS = 10


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


class Place:
    """A data folder and a port for `make run`; the models and photos are those fetched before."""

    def __init__(self, folder: Path, models: Path, samples: Path, **env: str) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "samples").symlink_to(samples)
        self.environment = {
            **os.environ,
            "VAR_DIR": str(folder),
            "MODEL_DIR": str(models),
            "PORT": str(self.port),
        }
        for name in ("MONGODB_URI", "MAKELEVEL", "MAKEFLAGS", "MFLAGS"):
            self.environment.pop(name, None)
        self.environment |= env
        self.starts: list[tuple[float, float]] = []
        self._make: subprocess.Popen[bytes] | None = None

    def running(self) -> subprocess.Popen[bytes]:
        """The `make run` that is under way, or a new one."""
        if self._make is None or self._make.poll() is not None:
            self._make = self._start()
        return self._make

    def stop(self) -> bool:
        """Whether what runs stopped in time when asked to."""
        return self._make is None or processes.stop([self._make], grace=STOP_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            # -o: the environment that runs this test is the one to use, however old it looks.
            make = processes.start(
                ["make", "-o", ".venv/.stamp", f"PY={sys.executable}", "run"],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        while True:
            with contextlib.suppress(OSError, ValueError):
                if self.get("/readyz")[1]["status"] == "ready":
                    break
            if make.poll() is not None or time.monotonic() - began > READY_SECONDS:
                processes.stop([make], grace=10)
                pytest.fail(f"make run did not get ready:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        self.starts.append((time.monotonic() - began, work_of(make)))
        return make

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def call(
        self, method: str, path: str, body: bytes | None = None, kind: str = ""
    ) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, method=method
        )
        if kind:
            request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def send(self, method: str, path: str, photo: bytes, **fields: str) -> tuple[int, Any]:
        """A multipart request as curl -F makes it."""
        parts = [
            f'--limit\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = b'--limit\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n\r\n'
        body = b"".join(parts) + head + photo + b"\r\n--limit--\r\n"
        return self.call(method, path, body, "multipart/form-data; boundary=limit")

    def counts(self, collection: str = "default") -> tuple[int, int]:
        """How many items and faces the lists hold."""
        return len(self.all("media", collection)), len(self.all("faces", collection))

    def all(self, kind: str, collection: str = "default") -> list[Any]:
        status, page = self.get(f"/v1/collections/{collection}/{kind}?limit=1000")
        assert (status, page["next_cursor"]) == (200, None)
        items: list[Any] = page["items"]
        return items


ROLES = {
    "supervisor": "app up",
    "front": "localatlas serve",
    "engine": "secantus",
    "web": "app serve",
    "worker": "indexer run",
}


def family(make: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """The processes below make by their role; every one has to be there."""
    found: dict[str, psutil.Process] = {"make": psutil.Process(make.pid)}
    for process in psutil.Process(make.pid).children(recursive=True):
        line = " ".join(process.cmdline())
        for role, mark in ROLES.items():
            if mark in line and role not in found:
                found[role] = process
    assert set(found) == {"make", *ROLES}
    return found


def work_of(make: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time that all processes of a run have used, ended steps included."""
    total = 0.0
    for process in everything(make):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def everything(make: subprocess.Popen[bytes]) -> list[psutil.Process]:
    root = psutil.Process(make.pid)
    return [root, *root.children(recursive=True)]


def assert_gone(was: list[psutil.Process], port: int) -> None:
    """No process is left within 10 seconds, and nobody holds the port."""
    deadline = time.monotonic() + STOP_SECONDS
    while left := [p for p in was if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, [p.cmdline() for p in left]
        time.sleep(0.05)
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("127.0.0.1", port))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path, samples_dir: Path
) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("run"), models_dir, samples_dir)
    yield place
    place.stop()


def test_the_first_start_ends_with_every_gallery_photo_indexed(place: Place) -> None:
    place.running()
    items, faces = place.counts()
    assert items == 93
    assert faces >= 93
    log = place.log()
    assert "93 pictures" in log
    assert f"http://127.0.0.1:{place.port}/" in log


def test_probes_find_their_person(place: Place, samples_dir: Path) -> None:
    place.running()
    probes = sorted(path for path in (samples_dir / "probes").rglob("*") if path.is_file())
    assert len(probes) == 25
    right = 0
    for probe in probes:
        status, answer = place.send("POST", "/v1/search", probe.read_bytes(), limit="3")
        assert status == 200, answer
        (face,) = answer["faces"]
        assert min(face["box"]["width"], face["box"]["height"]) > 0
        assert set(answer["timings_ms"]) >= {"decode", "detect", "encode", "search"}
        similarities = [match["similarity"] for match in face["matches"]]
        assert similarities == sorted(similarities, reverse=True)
        assert all(-1 <= value <= 1 for value in similarities)
        best = face["matches"][0]["media_id"] if face["matches"] else ""
        right += best.startswith(f"{probe.parent.name}/")
    assert right >= 24


def test_files_that_are_no_pictures_get_their_code_and_the_service_goes_on(
    place: Place, samples_dir: Path
) -> None:
    place.running()
    photo = min((samples_dir / "probes").rglob("*.jpg")).read_bytes()
    huge = bytes.fromhex("ffd8ffc0000b08ffffffff01011100ffd9")
    for body, status, code in (
        (b"This is a text file that somebody called photo.jpg.\n", 415, "unsupported_image"),
        (photo[: len(photo) // 2], 422, "invalid_image"),
        (huge, 422, "invalid_image"),
        (b"", 422, "invalid_image"),
    ):
        answered, answer = place.send("POST", "/v1/search", body)
        assert (answered, answer["code"]) == (status, code)
    assert place.send("POST", "/v1/search", photo)[0] == 200


def test_a_second_run_beside_the_first_says_so_in_one_sentence(place: Place) -> None:
    make = place.running()
    done = subprocess.run(
        [sys.executable, "-m", "app", "up"],
        cwd=ROOT,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert f"Port {place.port}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert make.poll() is None


def test_sigterm_to_make_leaves_nothing_and_a_second_start_indexes_nothing_twice(
    place: Place,
) -> None:
    make = place.running()
    before, was = place.counts(), everything(make)
    make.terminate()
    assert_gone(was, place.port)
    place.running()
    assert place.counts() == before


@pytest.mark.parametrize("victim", ["make", *ROLES])
def test_after_kill_9_of_any_process_all_end_and_the_next_start_has_everything(
    place: Place, samples_dir: Path, victim: str
) -> None:
    make = place.running()
    photo = min((samples_dir / "probes").rglob("*.jpg")).read_bytes()
    mine = f"/v1/collections/default/media/kept-{victim}"
    status, answer = place.send("PUT", mine, photo)
    assert status == 201, answer
    was = everything(make)
    family(make)[victim].kill()
    assert_gone(was, place.port)
    place.running()
    status, item = place.get(mine)
    assert status == 200
    assert len(item["faces"]) == 1


def test_a_start_that_finds_all_in_place_serves_in_under_five_seconds(place: Place) -> None:
    place.running()
    if len(place.starts) == 1:
        place.stop()
        place.running()
    # A machine that is busy with other things makes everybody wait; the work done is then the
    # measure, and two free cores do this much in less than the five seconds.
    assert min(wall for wall, _ in place.starts[1:]) < 5 or (
        min(work for _, work in place.starts[1:]) < 4
    ), place.starts


def test_with_a_database_of_ones_own_samples_go_in_on_request_and_apart(
    tmp_path: Path, models_dir: Path, samples_dir: Path, atlas: str, database: Any
) -> None:
    own = {"MONGODB_URI": atlas, "MONGODB_DATABASE": database.name}
    for name, env, items in (("plain", {}, 0), ("asked", {"SAMPLES": "1"}, 93)):
        folder = tmp_path / name
        folder.mkdir()
        place = Place(folder, models_dir, samples_dir, **own, **env)
        try:
            place.running()
            assert place.counts() == (0, 0)
            assert not (folder / "atlas").exists(), "an embedded Atlas was started"
            if items:
                assert place.counts("samples")[0] == items
            else:
                assert place.get("/v1/collections/samples")[0] == 404
        finally:
            assert place.stop()
