"""Health, readiness and metrics, with the database there, away and back."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.contract.api.conftest import Service, Start

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]


class Proxy:
    """A TCP forwarder that can go away and come back at the same port."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.up = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if not self.up:
                inner.close()
                continue
            outer = socket.create_connection(self._target)
            self._pairs += [inner, outer]
            for a, b in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Close what is open and refuse what comes."""
        self.up = False
        pairs, self._pairs = self._pairs, []
        for side in pairs:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def close(self) -> None:
        self.cut()
        self._listener.close()
        self._thread.join(60)


@pytest.fixture
def proxy(atlas: str) -> Iterator[Proxy]:
    target = urlsplit(atlas)
    made = Proxy(target.hostname or "", target.port or 0)
    yield made
    made.close()


def until(client: httpx2.Client, path: str, status: int) -> httpx2.Response:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        answer = client.get(path)
        if answer.status_code == status:
            return answer
        time.sleep(0.1)
    pytest.fail(f"{path} never answered {status}; at last {answer.status_code}: {answer.text}")


def test_a_ready_service_says_so(client: httpx2.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.head("/healthz").status_code == client.head("/readyz").status_code == 200
    assert client.get("/readyz").json() == {
        "status": "ready",
        "checks": {"encoder": "ready", "database": "ready", "vector_index": "ready"},
        "reasons": {},
    }


def test_recognition_can_be_off_without_database_or_model(start: Start, problem: Check) -> None:
    service = start(FACE_RECOGNITION_ENABLED="false", MODEL_DIR="/nonexistent")
    with service.client() as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["status"] == "disabled"
        assert ready.json()["checks"]["encoder"] == "disabled"
        assert ready.json()["checks"]["database"] == "not_configured"
        for path in ("search", "detect", "embed", "compare"):
            answer = client.post(f"/v1/{path}", files={"image": b"x"})
            problem(answer, 503, "face_recognition_disabled")
        answer = client.put("/v1/collections/default/media/m", files={"image": b"x"})
        problem(answer, 503, "face_recognition_disabled")
        assert client.get("/v1/models").json()["encoder"]["kind"] == "disabled"
        problem(client.get("/v1/collections"), 503, "database_unavailable")


def test_the_rest_works_while_recognition_is_off(
    start: Start, migrated: dict[str, str], service: Service
) -> None:
    off = start("/readyz", **migrated, FACE_RECOGNITION_ENABLED="false")
    with off.client() as client:
        assert client.get("/readyz").json()["status"] == "disabled"
        items = client.get("/v1/collections/default/media?limit=1").json()["items"]
        image = client.get(f"/v1/collections/default/thumbnails/{items[0]['image_id']}")
        assert image.status_code == 200
        assert client.get("/v1/jobs").status_code == 200


def test_without_a_database_the_service_says_what_to_set(start: Start, problem: Check) -> None:
    service = start(FACE_MODEL="facenet128")
    with service.client() as client:
        state = until(client, "/readyz", 503).json()
        assert state["status"] in ("loading", "degraded")
        assert state["checks"]["database"] == "not_configured"
        assert "MONGODB_URI" in state["reasons"]["database"]


def test_missing_model_files_are_named_with_the_command(
    start: Start, migrated: dict[str, str], tmp_path: Path, problem: Check
) -> None:
    service = start(**migrated, MODEL_DIR=str(tmp_path), MODEL_AUTO_FETCH="false")
    with service.client() as client:
        limit = time.monotonic() + 60
        while client.get("/readyz").json()["status"] == "loading":
            assert time.monotonic() < limit
            time.sleep(0.1)
        state = client.get("/readyz").json()
        assert state["status"] == "degraded"
        assert "python -m faces.models fetch facenet128" in state["reasons"]["encoder"]
        answer = client.post("/v1/detect", files={"image": b"x"})
        body = problem(answer, 503, "encoder_unavailable")
        assert "python -m faces.models fetch facenet128" in str(body["detail"])
        assert answer.headers["retry-after"]
        assert client.get("/v1/collections").status_code == 200


def test_a_database_without_migrations_is_told_apart_from_an_empty_answer(
    start: Start, migrated: dict[str, str], problem: Check
) -> None:
    service = start(**{**migrated, "MONGODB_DATABASE": "api_never_migrated"})
    with service.client() as client:
        limit = time.monotonic() + 60
        while True:
            answer = client.post("/v1/search", json={"vector": [1.0] * 128})
            if answer.json().get("code") != "loading":
                break
            assert time.monotonic() < limit
            time.sleep(0.1)
        body = problem(answer, 503, "index_not_ready")
        assert "python -m migrations up" in str(body["detail"])
        assert client.get("/readyz").json()["checks"]["vector_index"] != "ready"


def test_the_service_starts_without_its_database_and_recovers_alone(
    start: Start, migrated: dict[str, str], proxy: Proxy, problem: Check
) -> None:
    proxy.up = False
    uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
    service = start(**{**migrated, "MONGODB_URI": uri}, MONGODB_TIMEOUT_MS="1000")
    with service.client() as client:
        assert client.get("/healthz").status_code == 200
        state = client.get("/readyz").json()
        assert state["checks"]["database"] == "unavailable"
        assert state["reasons"]["database"]
        answer = client.get("/v1/collections")
        problem(answer, 503, "database_unavailable")
        assert answer.headers["retry-after"]
        proxy.up = True
        until(client, "/readyz", 200)
        assert client.get("/v1/collections").status_code == 200
        proxy.cut()
        problem(client.get("/v1/collections"), 503, "database_unavailable")
        until(client, "/readyz", 503)
        proxy.up = True
        until(client, "/readyz", 200)
        assert client.get("/v1/collections").status_code == 200


def test_an_address_that_does_not_resolve_is_reported_not_fatal(start: Start) -> None:
    for uri in ("mongodb+srv://nowhere.invalid/x", "mongodb://user:secret@nowhere.invalid/x"):
        service = start(MONGODB_URI=uri, FACE_MODEL="facenet128", MONGODB_TIMEOUT_MS="1000")
        with service.client() as client:
            state = client.get("/readyz")
            assert state.status_code == 503
            assert state.json()["checks"]["database"] == "unavailable"
            assert "secret" not in state.text
        assert "secret" not in service.log.read_text()


def test_metrics_are_prometheus_text(client: httpx2.Client, probes: dict[str, Path]) -> None:
    client.post("/v1/search", files={"image": probes["madonna"].read_bytes()})
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert re.search(
        r'likeness_requests_total\{method="POST",route="/v1/search",status="200"\}', text
    )
    assert re.search(r'likeness_stage_seconds_count\{stage="encode"\} [1-9]', text)
    assert 'likeness_state{part="encoder",state="ready"} 1.0' in text
    assert "likeness_worker_alive 0.0" in text
    assert re.search(r"process_resident_memory_bytes [1-9]", text)


def test_models_are_listed_with_their_cards(client: httpx2.Client) -> None:
    body = client.get("/v1/models").json()
    fields = {
        *("key", "name", "dimensions", "detector", "active", "licence", "source", "sha256"),
        *("size_bytes", "threshold", "threshold_source"),
    }
    assert all(fields <= set(item) for item in body["items"])
    assert [item["key"] for item in body["items"] if item["active"]] == ["facenet128"]
    assert body["encoder"]["kind"] == "onnx"
    assert body["encoder"]["reason"]


def test_the_log_is_json_without_personal_data(
    service: Service, client: httpx2.Client, probes: dict[str, Path]
) -> None:
    canary = "canary-7c1f"
    client.get(f"/v1/collections/default/media/{canary}%0d%0a{canary}")
    client.get(f"/v1/collections/default/media?cursor={canary}")
    client.get("/v1/models", headers={"x-api-key": canary, "user-agent": f"{canary}\x1b[31m"})
    client.post("/v1/search", json={"image_url": f"http://{canary}.example/?token={canary}"})
    photo = {"image": (f"{canary}.jpg", probes["madonna"].read_bytes())}
    client.post("/v1/search", files=photo, data={"filter": f'{{"media_id": "{canary}"}}'})
    text = service.log.read_text()
    assert canary not in text
    lines = [line for line in text.splitlines() if line.startswith("{")]
    assert len(lines) == len(text.splitlines())
    last = httpx2.Response(200, content=lines[-1].encode()).json()
    assert {"request_id", "route", "status", "ms", "timestamp"} <= set(last)


def test_importing_the_application_opens_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, threading, app.main\n"
        "bad = {'cv2', 'onnxruntime', 'PIL'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[3],
        env={"PATH": "/usr/bin:/bin"},
    )
