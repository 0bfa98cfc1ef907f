"""A real service as a child process, on the embedded Atlas, with real photos and a real model."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

ROOT = Path(__file__).resolve().parents[3]
PEOPLE = ("ben_afflek", "elton_john", "madonna")
PER_PERSON = 4


@dataclass(frozen=True)
class Service:
    """A running web process."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, **options: object) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


Start = Callable[..., Service]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def launch(log: Path, env: dict[str, str], *, wait: str = "/healthz") -> Service:
    """Start `python -m app serve` and wait until `wait` answers 200."""
    port = free_port()
    base = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"],
            cwd=ROOT,
            env={**base, "PORT": str(port), "MODEL_AUTO_FETCH": "false", **env},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    url = f"http://127.0.0.1:{port}"
    limit = time.monotonic() + 120
    with httpx2.Client(trust_env=False) as client:
        while time.monotonic() < limit:
            if process.poll() is not None:
                break
            try:
                if client.get(url + wait).status_code == 200:
                    return Service(url, port, process, log)
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
    stop(process)
    pytest.fail(f"the service did not start: {log.read_text()[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts services with the given variables; they end with the session at the latest."""
    folder = tmp_path_factory.mktemp("services")
    running: list[subprocess.Popen[bytes]] = []

    def run(wait: str = "/healthz", **env: str) -> Service:
        service = launch(folder / f"{len(running)}.log", env, wait=wait)
        running.append(service.process)
        return service

    yield run
    for process in running:
        process.terminate()
    for process in running:
        stop(process)


def migrate(uri: str) -> dict[str, str]:
    """The variables of a new, migrated database with the model facenet128."""
    env = {
        "MONGODB_URI": uri,
        "MONGODB_DATABASE": f"api_{secrets.token_hex(6)}",
        "FACE_MODEL": "facenet128",
    }
    done = subprocess.run(
        [sys.executable, "-m", "migrations", "up", "--wait"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return env


@pytest.fixture(scope="session")
def migrated(atlas: str, models_dir: Path) -> dict[str, str]:
    """The variables of the database that most tests share."""
    return migrate(atlas)


@pytest.fixture(scope="session")
def gallery(samples_dir: Path) -> dict[str, Path]:
    """Some photos of some people by media id."""
    found = {}
    for person in PEOPLE:
        for path in sorted((samples_dir / "gallery" / person).iterdir())[:PER_PERSON]:
            found[f"{person}/{path.name}"] = path
    return found


@pytest.fixture(scope="session")
def probes(samples_dir: Path) -> dict[str, Path]:
    """One more photo of each of these people."""
    return {person: sorted((samples_dir / "probes" / person).iterdir())[0] for person in PEOPLE}


@pytest.fixture(scope="session")
def service(start: Start, migrated: dict[str, str], gallery: dict[str, Path]) -> Service:
    """A ready service without keys, with the gallery indexed and searchable."""
    running = start("/readyz", **migrated)
    with running.client() as client:
        for media_id, path in gallery.items():
            answer = client.put(
                f"/v1/collections/default/media/{quote(media_id)}",
                files={"image": path.read_bytes()},
                data={"title": f"Photo {media_id}", "taken_at": "2024-05-01T12:00:00Z"},
            )
            assert answer.status_code == 201, answer.text
        until_searchable(client, answer.json()["faces"][0]["face_id"])
    return running


def until_searchable(client: httpx2.Client, face_id: str, collection: str = "default") -> None:
    """Wait until a face is found by its own vector."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        answer = client.post(
            "/v1/search",
            json={
                "face_id": face_id,
                "collection": collection,
                "include_own": True,
                "min_similarity": 0.99,
            },
        )
        assert answer.status_code == 200, answer.text
        if any(m["face_id"] == face_id for m in answer.json()["faces"][0]["matches"]):
            return
        time.sleep(0.05)
    pytest.fail("the face did not become searchable")


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    """A client of the ready service."""
    with service.client() as made:
        yield made


@pytest.fixture
def collection(client: httpx2.Client) -> str:
    """A new, empty collection."""
    name = f"c-{secrets.token_hex(4)}"
    answer = client.post(
        "/v1/collections",
        json={"collection": name, "metadata_fields": {"city": "string", "year": "number"}},
    )
    assert answer.status_code == 201, answer.text
    return name


@pytest.fixture
def problem() -> Callable[..., dict[str, object]]:
    """Checks that an answer is a problem document of a status and code, and returns it."""

    def check(answer: httpx2.Response, status: int, code: str) -> dict[str, object]:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        body: dict[str, object] = answer.json()
        assert {"type", "title", "status", "detail", "code", "instance"} <= set(body)
        assert body["code"] == code, body
        assert body["status"] == status
        assert body["instance"] == answer.headers["x-request-id"]
        assert len(answer.content) < 2048
        return body

    return check
