"""What each mode of the web process needs, and what it does without."""

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

ROOT = Path(__file__).parents[2]
HEAVY = ("cv2", "onnxruntime", "numpy", "PIL", "h5py", "onnx")


def bare() -> dict[str, str]:
    """An environment with nothing of ours in it."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def get(port: int, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


class Server:
    """A server that was started and answers /healthz."""

    def __init__(self, *argv: str, port: int, **env: str) -> None:
        self.port = port
        began = time.monotonic()
        self.process = processes.start(
            [sys.executable, "-m", *argv],
            env={**bare(), "PORT": str(port), **env},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while True:
            with contextlib.suppress(OSError):
                if get(port, "/healthz")[0] == 200:
                    break
            if self.process.poll() is not None or time.monotonic() - began > 60:
                self.stop()
                pytest.fail("it did not bind")
            time.sleep(0.02)

    def stop(self) -> None:
        processes.stop([self.process], grace=10)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        free: int = trial.getsockname()[1]
        return free


@pytest.fixture
def start(port: int) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def run(*argv: str, **env: str) -> Server:
            server = Server(*argv, port=port, **env)
            stack.callback(server.stop)
            return server

        yield run


def test_importing_the_application_loads_neither_opencv_nor_a_runtime() -> None:
    code = f"import app.main, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**bare(), "FACE_RECOGNITION_ENABLED": "false"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_switched_off_it_starts_with_nothing_else_set(start: Any, port: int) -> None:
    """The deployment guide's own command line."""
    command = ("uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", str(port))  # noqa: S104
    server = start(*command, FACE_RECOGNITION_ENABLED="false")
    status, answer = get(port, "/readyz")
    assert (status, answer["status"]) == (200, "disabled")
    assert answer["checks"]["encoder"] == "disabled"
    assert answer["checks"]["database"] == "not_configured"
    resident = psutil.Process(server.process.pid).memory_info().rss / 2**20
    assert resident <= 80
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert not [name for name in ("onnxruntime", "/cv2/", "/numpy/") if name in maps]
    status, answer = get(port, "/v1/search", "POST", b"{}")
    assert (status, answer["code"]) == (503, "face_recognition_disabled")


def test_switched_off_the_bookkeeping_works_without_any_model(
    start: Any, port: int, atlas: str, database: Any, tmp_path: Path
) -> None:
    env = {
        "MONGODB_URI": atlas,
        "MONGODB_DATABASE": database.name,
        "FACE_RECOGNITION_ENABLED": "false",
        "VAR_DIR": str(tmp_path),
    }
    subprocess.run(
        [sys.executable, "-m", "migrations", "up"],
        cwd=ROOT,
        env={**bare(), **env},
        check=True,
        capture_output=True,
        timeout=60,
    )
    start("app", "serve", **env)
    assert get(port, "/readyz")[1]["status"] == "disabled"
    status, answer = get(port, "/v1/collections")
    assert (status, answer["items"][0]["collection"]) == (200, "default")
    assert get(port, "/v1/collections/default/media")[1]["items"] == []
    assert get(port, "/v1/collections/default/media/x", "DELETE")[0] == 404
    assert get(port, "/v1/models")[1]["encoder"]["kind"] == "disabled"


def test_a_wish_for_deepface_without_the_package_falls_back_and_says_so(
    start: Any, port: int, models_dir: Path
) -> None:
    start(
        *("app", "encoder"),
        USE_LITE_EMBEDDINGS="false",
        MODEL_DIR=str(models_dir),
        FACE_MODEL="facenet128-int8",
    )
    encoder = get(port, "/v1/models")[1]["encoder"]
    assert encoder["kind"] == "onnx"
    assert "DeepFace is not installed" in encoder["reason"]


def test_a_lazy_start_binds_without_its_model_and_names_the_command_that_fetches_it(
    start: Any, port: int, tmp_path: Path
) -> None:
    start(
        *("app", "encoder"),
        MODEL_DIR=str(tmp_path),
        MODEL_AUTO_FETCH="false",
        FACE_MODEL="facenet128-int8",
    )
    deadline = time.monotonic() + 60
    while (answer := get(port, "/readyz"))[1]["status"] == "loading":
        assert time.monotonic() < deadline, "loading for ever"
        time.sleep(0.05)
    assert (answer[0], answer[1]["status"]) == (503, "degraded")
    assert "faces.models fetch facenet128-int8" in answer[1]["reasons"]["encoder"]


def test_a_lazy_start_answers_loading_until_its_model_is_there_and_everything_else_at_once(
    start: Any, port: int, models_dir: Path, tmp_path: Path
) -> None:
    """The model's record is a pipe, so that loading lasts until this test writes it."""
    model = "facenet128-int8.onnx"
    for name in ("yunet.onnx", "yunet.onnx.json", model):
        (tmp_path / name).symlink_to(models_dir / name)
    record, whole = tmp_path / f"{model}.json", tmp_path / "record"
    whole.write_bytes((models_dir / record.name).read_bytes())
    os.mkfifo(record)
    env = {"MODEL_DIR": str(tmp_path), "FACE_MODEL": "facenet128-int8"}
    start("app", "encoder", LAZY_LOAD_ML="true", MODEL_AUTO_FETCH="false", **env)

    def ask() -> tuple[int, str, str | None]:
        form = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n'
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/detect",
            data=form,
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)  # noqa: S310
        with caught.value as error:
            return error.code, json.loads(error.read())["code"], error.headers["Retry-After"]

    for _ in range(3):
        status, code, later = ask()
        assert (status, code) == (503, "loading")
        assert later is not None
        assert 1 <= int(later) <= 10
        assert get(port, "/healthz") == (200, {"status": "ok"})
        status, answer = get(port, "/readyz")
        assert (status, answer["status"]) == (503, "loading")
        assert get(port, "/openapi.json")[0] == 200
        time.sleep(0.2)
    descriptor = os.open(record, os.O_WRONLY | os.O_NONBLOCK)  # fails unless somebody reads it
    content = whole.read_bytes()
    os.replace(whole, record)
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(content)
    deadline = time.monotonic() + 60
    while get(port, "/readyz")[1]["status"] != "ready":
        assert time.monotonic() < deadline, get(port, "/readyz")
        time.sleep(0.05)
    assert ask()[:2] == (415, "unsupported_image")


def test_an_eager_start_has_its_model_before_it_binds(
    start: Any, port: int, models_dir: Path
) -> None:
    start(
        *("app", "encoder"),
        LAZY_LOAD_ML="false",
        MODEL_DIR=str(models_dir),
        FACE_MODEL="facenet128-int8",
    )
    status, answer = get(port, "/readyz")
    assert (status, answer["checks"]["encoder"]) == (200, "ready")


def test_production_without_keys_refuses_to_start_and_says_how_to_make_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        cwd=ROOT,
        env={**bare(), "DYNO": "web.1", "PORT": "9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "app keys new" in done.stderr
    assert "Traceback" not in done.stderr
