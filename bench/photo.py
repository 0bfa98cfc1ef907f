"""From photo bytes to faces and vectors: decoding, detection, the whole way, and its memory."""

from __future__ import annotations

import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from bench.report import Row, say
from bench.trees import Sampler
from faces import processes
from faces.decoder import Decoder
from faces.detect import Detector
from faces.image import probe
from faces.loading import largest, load_pipeline
from faces.models import cards, files
from faces.pipeline import DETECTION_SIDE
from faces.sessions import open_session
from faces.settings import Settings, load
from faces.types import Pixels

MODEL = "facenet128-int8"
CLIENTS = 8
UPLOADS_EACH = 6
ROUNDS = 25
KEY = "bench-key-that-only-this-run-knows-0123456789"


def rows() -> Iterator[Row]:
    """Each figure as soon as it is measured. Needs the models and sample photos."""
    settings = load()
    cv2.setNumThreads(1)
    photos = _photos(settings)
    yield from _decoding(photos)
    yield from _detection(settings)
    say(f"photo to embedding, {MODEL}")
    pipeline = load_pipeline(settings, MODEL)
    try:
        goals = {"preview 380 px": 10.0, "12 MP JPEG": 50.0}
        for name, data in photos.items():
            took = _milliseconds(partial(pipeline.analyse, data, choose=largest))
            yield Row(f"photo to embedding, {name}", took, "ms", goal=goals.get(name))
    finally:
        pipeline.close()
    yield from _memory(settings, photos["12 MP JPEG"])


def _decoding(photos: dict[str, bytes]) -> Iterator[Row]:
    say("decoding")
    decoder = Decoder()
    try:
        for name, data in photos.items():
            reduced = cv2.IMREAD_REDUCED_COLOR_4 if "12 MP" in name else cv2.IMREAD_COLOR
            yield Row(
                f"decode to {DETECTION_SIDE} px, {name}",
                _milliseconds(partial(_open, decoder, data)),
                "ms",
                peer=_milliseconds(partial(_by_opencv, data, reduced)),
                peer_name="cv2.imdecode and resize, in process",
                limit=_milliseconds(partial(_by_libjpeg, data)),
                limit_name="libjpeg-turbo alone, reduced",
            )
    finally:
        decoder.close()


def _detection(settings: Settings) -> Iterator[Row]:
    say("detection")
    detector = Detector(open_session(files.detector_path(settings.models_path), threads=1))
    source = files.source_path(settings.models_path, cards.DETECTOR.download.name)
    samples = [_read(path) for path in _samples(settings)]
    canvas = Image.new("RGB", (640, 480))
    portrait = _typical(settings)
    canvas.paste(portrait.resize((round(480 * portrait.width / portrait.height), 480)), (0, 0))
    photo = np.ascontiguousarray(np.asarray(canvas)[:, :, ::-1])
    peer = cv2.FaceDetectorYN.create(str(source), "", (640, 480), 0.6) if source.is_file() else None
    yield Row(
        "detect, one full pass at 640x480",
        _milliseconds(lambda: detector.detect(photo)),
        "ms",
        peer=_milliseconds(lambda: peer.detect(photo)) if peer else None,
        peer_name="cv2.FaceDetectorYN, one thread" if peer else None,
        goal=8.0,
    )

    def by_peer(image: Pixels) -> None:
        assert peer is not None
        peer.setInputSize((image.shape[1], image.shape[0]))
        peer.detect(image)

    ours = [_milliseconds(partial(detector.detect, image), 3) for image in samples]
    theirs = [_milliseconds(partial(by_peer, image), 3) for image in samples if peer]
    yield Row(
        f"detect, mean over {len(samples)} sample photos",
        statistics.fmean(ours),
        "ms",
        peer=statistics.fmean(theirs) if theirs else None,
        peer_name="cv2.FaceDetectorYN, one thread" if peer else None,
        goal=4.0,
    )


def _memory(settings: Settings, photo: bytes) -> Iterator[Row]:
    say(f"memory of the web process, {CLIENTS} clients uploading 12 MP photos")
    with served(settings) as (pid, port):
        upload(port, photo)
        time.sleep(1)
        sampler = Sampler(pid, limit_mib=2048, period=0.02)
        try:
            time.sleep(0.5)
            yield Row("web process with model, idle", sampler.level, "MB PSS", goal=180)
            sampler.mark()
            began = time.perf_counter()
            statuses = upload_together(port, photo)
            took = time.perf_counter() - began
            yield Row(
                f"web process, peak with {CLIENTS} clients",
                sampler.peak,
                "MB PSS",
                goal=256,
                note=f"{statuses.count(200)} of {len(statuses)} answered 200",
            )
            rate = statuses.count(200) / took
            yield Row("12 MP uploads answered", rate, "1/s", better="higher")
        finally:
            sampler.close()


@contextmanager
def served(settings: Settings) -> Iterator[tuple[int, int]]:
    """The process id and port of a web process that has loaded MODEL; it needs no database."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "VAR_DIR": folder,
            "FACE_MODEL": MODEL,
            "MODEL_DIR": str(settings.models_path.resolve()),
            "PORT": str(port),
            "API_KEY": KEY,
        }
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = processes.start(
                [sys.executable, "-m", "app", "encoder"],
                env=env,
                cwd=Path(__file__).parents[1],
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            _until_ready(port, process, log)
            yield process.pid, port
        finally:
            processes.stop([process], grace=10)


def upload(port: int, photo: bytes) -> int:
    """The status of one photo sent for its embeddings."""
    mark = b"----likeness-bench"
    body = b"".join(
        (
            b"--" + mark + b'\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"',
            b"\r\nContent-Type: image/jpeg\r\n\r\n" + photo + b"\r\n--" + mark + b"--\r\n",
        )
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embed",
        data=body,
        headers={
            "Content-Type": f"multipart/form-data; boundary={mark.decode()}",
            "X-API-Key": KEY,
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (as above)
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def upload_together(port: int, photo: bytes, each: int = UPLOADS_EACH) -> list[int]:
    """The statuses of CLIENTS clients that each send the photo `each` times."""
    statuses: list[int] = []

    def client() -> None:
        statuses.extend(upload(port, photo) for _ in range(each))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def large_photo(portrait: Image.Image, width: int, height: int) -> bytes:
    """A JPEG of this size as a camera makes it: a portrait, sensor noise, quality 90."""
    grow = max(width / portrait.width, height / portrait.height)
    size = round(portrait.width * grow), round(portrait.height * grow)
    large = portrait.resize(size, Image.Resampling.BICUBIC).crop((0, 0, width, height))
    noise = np.random.default_rng(0).normal(0, 5, (height, width, 1))
    grainy = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grainy).save(out, "JPEG", quality=90)
    return out.getvalue()


def _photos(settings: Settings) -> dict[str, bytes]:
    portrait = _typical(settings)
    preview = io.BytesIO()
    portrait.resize((round(380 * portrait.width / portrait.height), 380)).save(preview, "JPEG")
    return {
        "preview 380 px": preview.getvalue(),
        "2 MP JPEG": large_photo(portrait, 1600, 1200),
        "12 MP JPEG": large_photo(portrait, 4000, 3000),
    }


def _typical(settings: Settings) -> Image.Image:
    """The photo, of the first twenty, whose face is as sure as the median one's."""
    detector = Detector(open_session(files.detector_path(settings.models_path), threads=1))
    paths = _samples(settings)[:20]
    sure = {path: detector.detect(_read(path))[0].confidence for path in paths}
    return Image.open(sorted(paths, key=lambda path: sure[path])[len(paths) // 2]).convert("RGB")


def _samples(settings: Settings) -> list[Path]:
    found = sorted((settings.var_dir / "samples").glob("*/*/*"))
    if not found:
        raise RuntimeError(
            "there are no sample photos: run `python -m faces.models fetch --samples`"
        )
    return found


def _milliseconds(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median time of one call, after one that does not count."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _open(decoder: Decoder, data: bytes) -> None:
    with decoder.open(data, probe(data), side=DETECTION_SIDE):
        pass


def _by_opencv(data: bytes, how: int) -> None:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    assert image is not None
    shrink = min(1.0, DETECTION_SIDE / max(image.shape))
    cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)


def _by_libjpeg(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))
    image.draft(None, (DETECTION_SIDE, DETECTION_SIDE * image.height // image.width))
    image.load()


def _read(path: Path) -> Pixels:
    return np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1])


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                answer.read()
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the web process did not get ready: {log.read_text()[-500:]}")
