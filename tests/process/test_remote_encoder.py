"""A dyno without models and an encoder service beside it, as two real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces import processes
from faces.loading import load_pipeline
from faces.settings import Settings
from tests.private import MARK

ROOT = Path(__file__).parents[2]
KEY = f"{MARK}-an-encoder-key-of-its-own"
MODEL = "facenet128-int8"


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def ask(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def until(port: int, path: str, wanted: Any, seconds: float = 30) -> Any:
    """The first answer that `wanted` accepts."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            last = ask(port, path)
            if wanted(*last):
                return last[1]
        time.sleep(0.05)
    pytest.fail(f"{path} went on answering {last}")


class Stage:
    """Starts the processes of this test with the smallest environment."""

    def __init__(self, folder: Path, atlas: str, models: Path, database: str) -> None:
        self.folder, self.models = folder, models
        self.encoder_port = free_port()
        self.running: list[subprocess.Popen[bytes]] = []
        self._base = {"PATH": os.environ["PATH"], "HOME": str(folder), "FACE_MODEL": MODEL}
        # The dyno's side: no models folder, an address and a key.
        self.dyno = {
            "MONGODB_URI": atlas,
            "MONGODB_DATABASE": database,
            "VAR_DIR": str(folder / "var"),
            "ENCODER": "remote",
            "ENCODER_URL": f"http://127.0.0.1:{self.encoder_port}",
            "ENCODER_API_KEY": KEY,
        }

    def start(self, *argv: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = processes.start(
                [sys.executable, "-m", *argv],
                env={**self._base, **env},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def encoder(self) -> subprocess.Popen[bytes]:
        """The service, ready."""
        process = self.start(
            *("app", "encoder"),
            PORT=str(self.encoder_port),
            MODEL_DIR=str(self.models),
            API_KEY=KEY,
        )
        until(self.encoder_port, "/readyz", lambda status, _: status == 200)
        return process

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]


@pytest.fixture
def stage(tmp_path: Path, atlas: str, models_dir: Path, database: Any) -> Iterator[Stage]:
    stage = Stage(tmp_path, atlas, models_dir, database.name)
    yield stage
    processes.stop(stage.running, grace=10)


def test_an_encoder_that_goes_away_during_a_backfill_loses_nothing(
    stage: Stage, database: Any, samples_dir: Path
) -> None:
    photos = sorted((samples_dir / "gallery").rglob("*.jpg"))[:40]
    for number, photo in enumerate(photos):
        (stage.folder / "cms").mkdir(exist_ok=True)
        shutil.copy(photo, stage.folder / "cms" / f"{number:03}.jpg")
    encoder = stage.encoder()
    assert stage.start("migrations", "up", **stage.dyno).wait(60) == 0, stage.log()
    folder = str(stage.folder / "cms")
    run = stage.start("indexer", "once", "--folder", folder, "--source-name", "cms", **stage.dyno)
    media = database["likeness_media"]
    deadline = time.monotonic() + 60
    while media.count_documents({"state": "done"}) < 5:
        assert time.monotonic() < deadline, stage.log()
        assert run.poll() is None, stage.log()
        time.sleep(0.005)
    encoder.kill()
    encoder.wait()
    time.sleep(1)
    assert run.poll() is None, "the run gave up while the encoder was away"
    assert media.count_documents({}) < len(photos), "it was over before the encoder was away"
    stage.encoder()
    assert run.wait(90) == 0, stage.log()
    assert media.count_documents({"state": "done"}) == len(photos)
    assert media.count_documents({"state": "failed"}) == 0
    assert database["likeness_faces"].count_documents({}) >= len(photos)
    assert not (stage.folder / "var" / "models").exists(), "the dyno holds no model"


def answered(port: int, route: str) -> int:
    """How many requests of a route the service has answered, by its own count."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"X-API-Key": KEY})
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        lines = response.read().decode().splitlines()
    found = [
        line
        for line in lines
        if f'route="{route}"' in line and line.startswith("likeness_requests_total")
    ]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def test_a_backfill_sends_several_photos_in_a_request(
    stage: Stage, database: Any, samples_dir: Path
) -> None:
    photos = sorted((samples_dir / "gallery").rglob("*.jpg"))[:48]
    (stage.folder / "cms").mkdir()
    for number, photo in enumerate(photos):
        shutil.copy(photo, stage.folder / "cms" / f"{number:03}.jpg")
    (stage.folder / "cms" / "broken.jpg").write_bytes(photos[0].read_bytes()[:2000])
    stage.encoder()
    assert stage.start("migrations", "up", **stage.dyno).wait(60) == 0, stage.log()
    folder = str(stage.folder / "cms")
    run = stage.start("indexer", "once", "--folder", folder, "--source-name", "cms", **stage.dyno)
    assert run.wait(90) == 0, stage.log()
    media = database["likeness_media"]
    assert media.count_documents({"state": "done"}) == len(photos)
    (failed,) = media.find({"state": "failed"})
    assert failed["media_id"] == "broken.jpg", "the others of its request are not held against it"
    batches = answered(stage.encoder_port, "/v1/embed/batch")
    alone = answered(stage.encoder_port, "/v1/embed")
    assert batches >= 1
    assert (batches + alone) / len(photos) <= 0.5, f"{batches} batches, {alone} alone"
    # What travelled together is what a photo gets alone.
    pipelines = _remote_and_local(stage)
    for data in (photo.read_bytes() for photo in photos[:2]):
        remote, local = (pipeline.analyse(data).faces for pipeline in pipelines)
        for ours, theirs in zip(remote, local, strict=True):
            assert ours.quality == pytest.approx(theirs.quality, abs=1e-5)
            assert ours.brightness == pytest.approx(theirs.brightness, abs=1e-5)
            assert ours.sharpness == pytest.approx(theirs.sharpness, abs=1e-5)
    for pipeline in pipelines:
        pipeline.close()


def _remote_and_local(stage: Stage) -> tuple[Any, Any]:
    local = Settings(model_dir=stage.models, face_model=MODEL)
    remote = Settings(
        encoder="remote",
        encoder_url=f"http://127.0.0.1:{stage.encoder_port}",
        encoder_api_key=KEY,
        face_model=MODEL,
    )
    return load_pipeline(remote, MODEL), load_pipeline(local, MODEL)


def test_the_web_process_says_when_the_encoder_is_away_and_when_it_is_back(
    stage: Stage, samples_dir: Path
) -> None:
    encoder = stage.encoder()
    assert stage.start("migrations", "up", **stage.dyno).wait(60) == 0, stage.log()
    port = free_port()
    web = stage.start("app", "serve", PORT=str(port), **stage.dyno)
    until(port, "/readyz", lambda status, _: status == 200)
    maps = Path(f"/proc/{web.pid}/maps").read_text()
    assert "onnxruntime" not in maps
    encoder.send_signal(signal.SIGKILL)
    encoder.wait()
    answer = until(port, "/readyz", lambda status, _: status == 503)
    assert answer["checks"]["encoder"] == "unavailable"
    assert "ENCODER_URL" in answer["reasons"]["encoder"]
    stage.encoder()
    until(port, "/readyz", lambda status, _: status == 200)


def test_a_wrong_key_is_told_from_an_absent_service(stage: Stage) -> None:
    stage.encoder()
    wrong = {**stage.dyno, "ENCODER_API_KEY": "another-key-altogether-0123456789"}
    assert stage.start("migrations", "up", **wrong).wait(60) == 1
    assert "refuses ENCODER_API_KEY" in stage.log()


def test_an_encoder_with_another_model_is_refused(stage: Stage) -> None:
    stage.encoder()
    other = {**stage.dyno, "FACE_MODEL": "facenet128"}
    assert stage.start("migrations", "up", **other).wait(60) == 1
    assert "another model than facenet128" in stage.log()
