"""A pipeline whose work is done by another instance of this service: `ENCODER=remote`.

It has the interface of `faces.pipeline.Pipeline` and holds no model. A photo that its header
condemns is refused here, without being sent. Every vector is checked on arrival: right model, right
size, unit length.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
import numpy as np

from faces.breaker import Breaker
from faces.errors import (
    Busy,
    Cancelled,
    EncoderUnavailable,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    LikenessError,
    Loading,
    ModelMismatch,
    Unavailable,
    UnsupportedImage,
)
from faces.image import probe
from faces.types import Analysis, Box, Detection, Face, Picture, Vector

Choose = Callable[[Sequence[Face]], Sequence[int]]
GaveUp = Callable[[], bool]

ATTEMPTS = 3
CHECK_FRESH = 2.0  # seconds for which the answer to "is it there?" is reused
_AWAY = "The encoder service of ENCODER_URL does not answer. Start it with `python -m app encoder`."
_REFUSED = "The encoder service refuses ENCODER_API_KEY: it must be one of its keys."
_STRANGE = "The encoder service of ENCODER_URL answers with something else than embeddings."


class Thumbnailer(Protocol):
    """What still happens here: small pictures for the page, which need no model."""

    def thumbnail(self, data: bytes, max_side: int = 320) -> bytes: ...

    def crop(self, data: bytes, box: Box) -> bytes: ...

    def crops(self, data: bytes, boxes: Sequence[Box]) -> list[bytes]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Expected:
    """The vectors that are wanted: of which model and how long."""

    model: str
    dimensions: int


class RemotePipeline:
    """Photos to faces by way of `POST /v1/embed` of another instance. Thread-safe.

    Every method that needs the service raises EncoderUnavailable (away, or its breaker is open),
    Loading or Busy (it said so), ModelMismatch, or the image error that it answered with.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        expected: Expected,
        local: Thumbnailer,
        *,
        max_bytes: int | None = None,
        timeout: float = 20.0,
        transport: httpx2.BaseTransport | None = None,
        breaker: Breaker | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._expected, self._local, self._sleep = expected, local, sleep
        self._max_bytes = max_bytes
        self._busy = 0
        self._counting = threading.Lock()
        self._breaker = breaker or Breaker()
        self._client = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"X-API-Key": key} if key else {},
            timeout=httpx2.Timeout(timeout, connect=2.0),
            limits=httpx2.Limits(max_connections=8, max_keepalive_connections=8),
            transport=transport,
            trust_env=False,
        )
        self._lock = threading.Lock()
        self._build: str | None = None
        self._checked_at = float("-inf")
        self._fault: LikenessError | None = None

    @property
    def model(self) -> str:
        """The key of the model whose vectors this makes."""
        return self._expected.model

    @property
    def build(self) -> str:
        """What the service's encoder was built as; asked of it once."""
        if self._build is None:
            self._identify()
        assert self._build is not None  # noqa: S101 - _identify raises or sets it
        return self._build

    @property
    def load(self) -> int:
        """How many photos are being sent or waited for."""
        return self._busy

    def check(self) -> None:
        """Returns when the service is there and makes the right vectors; asks every 2 seconds."""
        with self._lock:
            if time.monotonic() - self._checked_at > CHECK_FRESH:
                try:
                    self._identify(attempts=1)
                    self._fault = None
                except LikenessError as error:
                    self._fault = error
                self._checked_at = time.monotonic()
            fault = self._fault
        if fault is not None:
            raise fault

    def analyse(
        self, data: bytes, *, choose: Choose | None = None, cancelled: GaveUp | None = None
    ) -> Analysis:
        """All faces of the photo, the largest first; those that `choose` names are encoded.

        `cancelled` is asked before the photo is sent; the wait for the answer has its own limit.
        """
        header = probe(data, max_bytes=self._max_bytes)
        _unless(cancelled)
        picture = Picture(header.width, header.height, hashlib.sha256(data).hexdigest())
        if choose is None:
            return self._analysis(picture, self._post("/v1/embed", data, {}))
        found = self._post("/v1/detect", data, {})
        faces = [_face(entry) for entry in _faces(found)]
        chosen = list(choose(faces))
        if not chosen:
            return Analysis(picture, tuple(faces), self.model, self.build, _timings(found))
        known = self._embed([faces[index].detection for index in chosen], data)
        vectors = [self._vector(entry) for entry in _faces(known)]
        if len(vectors) != len(chosen):
            raise EncoderUnavailable(_STRANGE)
        for index, vector in zip(chosen, vectors, strict=True):
            face = faces[index]
            faces[index] = Face(face.detection, face.quality, face.reasons, vector)
        timings = {
            name: _timings(found).get(name, 0.0) + _timings(known).get(name, 0.0)
            for name in ("decode", "detect", "encode")
        }
        return Analysis(picture, tuple(faces), self.model, self._own(known), timings)

    def embed_known(
        self,
        data: bytes,
        detections: Sequence[Detection],
        *,
        cancelled: GaveUp | None = None,
    ) -> Analysis:
        """The given faces of the photo, encoded, in the given order; nothing is detected."""
        header = probe(data, max_bytes=self._max_bytes)
        _unless(cancelled)
        picture = Picture(header.width, header.height, hashlib.sha256(data).hexdigest())
        return self._analysis(picture, self._embed(detections, data))

    def thumbnail(self, data: bytes, max_side: int = 320) -> bytes:
        """As the local pipeline's."""
        return self._local.thumbnail(data, max_side)

    def crop(self, data: bytes, box: Box) -> bytes:
        """As the local pipeline's."""
        return self._local.crop(data, box)

    def crops(self, data: bytes, boxes: Sequence[Box]) -> list[bytes]:
        """As the local pipeline's."""
        return self._local.crops(data, boxes)

    def close(self) -> None:
        """Ends the connections and what makes thumbnails."""
        self._client.close()
        self._local.close()

    def _embed(self, detections: Sequence[Detection], data: bytes) -> Mapping[str, Any]:
        known = [
            {
                "box": {
                    "x": d.box.x,
                    "y": d.box.y,
                    "width": d.box.width,
                    "height": d.box.height,
                },
                "landmarks": [list(point) for point in d.landmarks],
            }
            for d in detections
        ]
        return self._post("/v1/embed", data, {"faces": json.dumps(known)})

    def _post(self, path: str, data: bytes, fields: dict[str, str]) -> Mapping[str, Any]:
        if path == "/v1/embed":
            fields = {**fields, "model": self.model}
        files = {"image": ("photo", data, "application/octet-stream")}
        with self._counting:
            self._busy += 1
        try:
            return self._answer(lambda: self._client.post(path, data=fields, files=files), ATTEMPTS)
        finally:
            with self._counting:
                self._busy -= 1

    def _identify(self, attempts: int = ATTEMPTS) -> None:
        """Learns the build; raises ModelMismatch when the service makes other vectors."""
        answer = self._answer(lambda: self._client.get("/v1/models", timeout=3.0), attempts)
        active = [entry for entry in answer.get("items", []) if entry.get("active")]
        if not active:
            raise Loading("The encoder service is still loading its model.")
        if all(entry.get("key") != self.model for entry in active):
            raise ModelMismatch(
                f"The encoder service makes vectors of another model than {self.model}, which the "
                f"database holds: start it with FACE_MODEL={self.model}."
            )
        entry = next(entry for entry in active if entry.get("key") == self.model)
        if entry.get("dimensions") != self._expected.dimensions or not entry.get("sha256"):
            raise EncoderUnavailable(_STRANGE)
        self._build = str(entry["sha256"])

    def _answer(self, call: Callable[[], httpx2.Response], attempts: int) -> Mapping[str, Any]:
        """The decoded answer, after up to `attempts` tries with growing, jittered pauses."""
        attempt = 0
        while True:
            attempt += 1
            if pause := self._breaker.wait():
                raise EncoderUnavailable(_AWAY, retry_after=max(1.0, pause))
            try:
                answer = _decoded(call())
            except (httpx2.TransportError, Unavailable) as error:
                # An instance that says that it loads or is busy is there: no case for the breaker.
                there = isinstance(error, (Loading, Busy))
                self._breaker.succeeded() if there else self._breaker.failed()
                if attempt >= attempts:
                    if isinstance(error, Unavailable):
                        raise
                    raise EncoderUnavailable(_AWAY, retry_after=5.0) from error
                self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            except LikenessError:
                self._breaker.succeeded()
                raise
            else:
                self._breaker.succeeded()
                return answer

    def _analysis(self, picture: Picture, answer: Mapping[str, Any]) -> Analysis:
        faces = tuple(
            Face(face.detection, face.quality, face.reasons, self._vector(entry))
            for entry in _faces(answer)
            for face in (_face(entry),)
        )
        return Analysis(picture, faces, self.model, self._own(answer), _timings(answer))

    def _own(self, answer: Mapping[str, Any]) -> str:
        """The build that made this very answer; ModelMismatch when its model is another."""
        if answer.get("model") != self.model:
            raise ModelMismatch(
                f"The encoder service answered with another model than {self.model}: start it "
                f"with FACE_MODEL={self.model}."
            )
        build = answer.get("build")
        return build if isinstance(build, str) and build else self.build

    def _vector(self, entry: Mapping[str, Any]) -> Vector:
        try:
            vector = np.asarray(entry.get("embedding", ()), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EncoderUnavailable(_STRANGE) from error
        if vector.shape != (self._expected.dimensions,) or not np.isfinite(vector).all():
            raise EncoderUnavailable(_STRANGE)
        norm = float(np.linalg.norm(vector))
        if abs(norm - 1.0) > 1e-3:
            raise EncoderUnavailable(_STRANGE)
        return vector / np.float32(norm)


def _unless(cancelled: GaveUp | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled


def _decoded(response: httpx2.Response) -> Mapping[str, Any]:
    """The body of a success; else the error that the problem document stands for."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise EncoderUnavailable(_STRANGE)
    if response.is_success:
        return body
    code, detail = body.get("code"), str(body.get("detail", ""))
    match code:
        case "loading":
            raise Loading("The encoder service is still loading its model.")
        case "busy" | "rate_limited":
            raise Busy("The encoder service has no place free.")
        case "unsupported_image":
            raise UnsupportedImage(detail)
        case "image_too_large" | "request_too_large":
            raise ImageTooLarge("The picture has more bytes than the encoder service accepts.")
        case "invalid_image":
            raise InvalidImage(str(body.get("reason", "decoder_failed")), detail)
        case "invalid_request":
            raise InvalidRequest("The encoder service cannot use the faces that it was given.")
        case "model_mismatch" | "not_found":
            raise ModelMismatch("The encoder service has another model: set its FACE_MODEL.")
        case "unauthorized" | "forbidden":
            raise EncoderUnavailable(_REFUSED, retry_after=30.0)
        case _:
            raise EncoderUnavailable(_AWAY, retry_after=5.0)


def _faces(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    faces = answer.get("faces")
    if not isinstance(faces, list) or not all(isinstance(entry, dict) for entry in faces):
        raise EncoderUnavailable(_STRANGE)
    return faces


def _face(entry: Mapping[str, Any]) -> Face:
    try:
        box = entry["box"]
        a, b, c, d, e = ((float(x), float(y)) for x, y in entry["landmarks"])
        return Face(
            Detection(
                Box(float(box["x"]), float(box["y"]), float(box["width"]), float(box["height"])),
                float(entry["confidence"]),
                (a, b, c, d, e),
            ),
            float(entry["quality"]),
            tuple(str(reason) for reason in entry.get("reasons", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderUnavailable(_STRANGE) from error


def _timings(answer: Mapping[str, Any]) -> dict[str, float]:
    given = answer.get("timings_ms") or {}
    return {name: float(given.get(name, 0.0)) for name in ("decode", "detect", "encode")}
