"""A pipeline whose work is done by another instance of this service: `ENCODER=remote`.

It has the interface of `faces.pipeline.Pipeline` and holds no model. A photo that its header
condemns is refused here, without being sent. Every vector is checked on arrival: right model, right
size, unit length.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx2

from faces.breaker import Breaker
from faces.errors import (
    Busy,
    Cancelled,
    EncoderUnavailable,
    ImageTooLarge,
    LikenessError,
    Loading,
    ModelMismatch,
    Unavailable,
)
from faces.image import probe
from faces.remote_answers import (
    AWAY,
    STRANGE,
    Answer,
    decoded,
    entries,
    error_of,
    face_of,
    timings,
    with_vector,
)
from faces.types import Analysis, Box, Detection, Face, Picture

Choose = Callable[[Sequence[Face]], Sequence[int]]
GaveUp = Callable[[], bool]

ATTEMPTS = 3
CHECK_FRESH = 2.0  # seconds for which the answer to "is it there?" is reused
BATCH_PHOTOS = 8
BATCH_BYTES = 4 * 1024 * 1024
"""So many photos, and bytes of them together, go to the service in one request."""
_BATCH = "/v1/embed/batch"


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


class _OneByOne(LikenessError):
    """The service does not know requests with several photos."""


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
        self._batches = True

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
        picture = self._picture(data)
        _unless(cancelled)
        if choose is None:
            return self._analysis(picture, self._post("/v1/embed", data, {}))
        found = self._post("/v1/detect", data, {})
        faces = [face_of(entry) for entry in entries(found, "faces")]
        chosen = list(choose(faces))
        if not chosen:
            return Analysis(picture, tuple(faces), self.model, self.build, timings(found))
        known = self._embed([faces[index].detection for index in chosen], data)
        embedded = entries(known, "faces")
        if len(embedded) != len(chosen):
            raise EncoderUnavailable(STRANGE)
        for index, entry in zip(chosen, embedded, strict=True):
            faces[index] = with_vector(faces[index], entry, self._expected.dimensions)
        took = {
            name: timings(found).get(name, 0.0) + timings(known).get(name, 0.0)
            for name in ("decode", "detect", "encode")
        }
        return Analysis(picture, tuple(faces), self.model, self._own(known), took)

    def analyse_many(self, photos: Sequence[bytes]) -> list[Analysis | LikenessError]:
        """What `analyse` makes of each photo, or the error that it would raise, in their order.

        At most `BATCH_PHOTOS` travel in one request. A service that does not take several at once,
        or not these, gets them one by one. Raises what `analyse` raises when the service is away.
        """
        results: dict[int, Analysis | LikenessError] = {}
        pictures: dict[int, Picture] = {}
        for index, data in enumerate(photos):
            try:
                pictures[index] = self._picture(data)
            except LikenessError as error:
                results[index] = error
        if len(pictures) > 1 and self._batches:
            results |= self._together(photos, pictures)
        for index in pictures.keys() - results.keys():
            try:
                results[index] = self.analyse(photos[index])
            except (EncoderUnavailable, Loading, ModelMismatch):
                raise
            except LikenessError as error:
                results[index] = error
        return [results[index] for index in range(len(photos))]

    def embed_known(
        self,
        data: bytes,
        detections: Sequence[Detection],
        *,
        cancelled: GaveUp | None = None,
    ) -> Analysis:
        """The given faces of the photo, encoded, in the given order; nothing is detected."""
        picture = self._picture(data)
        _unless(cancelled)
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

    def _embed(self, detections: Sequence[Detection], data: bytes) -> Answer:
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

    def _post(self, path: str, data: bytes, fields: dict[str, str]) -> Answer:
        if path == "/v1/embed":
            fields = {**fields, "model": self.model}
        files = {"image": ("photo", data, "application/octet-stream")}
        with self._counted(1):
            return self._answer(lambda: self._client.post(path, data=fields, files=files), ATTEMPTS)

    def _identify(self, attempts: int = ATTEMPTS) -> None:
        """Learns the build; raises ModelMismatch when the service makes other vectors."""
        answer = self._answer(lambda: self._client.get("/v1/models", timeout=3.0), attempts)
        active = [entry for entry in entries(answer, "items") if entry.get("active")]
        if not active:
            raise Loading("The encoder service is still loading its model.")
        if all(entry.get("key") != self.model for entry in active):
            raise ModelMismatch(
                f"The encoder service makes vectors of another model than {self.model}, which the "
                f"database holds: start it with FACE_MODEL={self.model}."
            )
        entry = next(entry for entry in active if entry.get("key") == self.model)
        if entry.get("dimensions") != self._expected.dimensions or not entry.get("sha256"):
            raise EncoderUnavailable(STRANGE)
        self._build = str(entry["sha256"])

    def _answer(self, call: Callable[[], httpx2.Response], attempts: int) -> Answer:
        """The decoded answer, after up to `attempts` tries with growing, jittered pauses."""
        attempt = 0
        while True:
            attempt += 1
            if pause := self._breaker.wait():
                raise EncoderUnavailable(AWAY, retry_after=max(1.0, pause))
            try:
                answer = decoded(call())
            except (httpx2.TransportError, Unavailable) as error:
                # An instance that says that it loads or is busy is there: no case for the breaker.
                there = isinstance(error, (Loading, Busy))
                self._breaker.succeeded() if there else self._breaker.failed()
                if attempt >= attempts:
                    if isinstance(error, Unavailable):
                        raise
                    raise EncoderUnavailable(AWAY, retry_after=5.0) from error
                self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            except LikenessError:
                self._breaker.succeeded()
                raise
            else:
                self._breaker.succeeded()
                return answer

    def _together(
        self, photos: Sequence[bytes], pictures: Mapping[int, Picture]
    ) -> dict[int, Analysis | LikenessError]:
        """The results of one request; none when the service does not take it."""
        files = {
            f"image_{number}": ("photo", photos[index], "application/octet-stream")
            for number, index in enumerate(pictures, 1)
        }
        fields = {"model": self.model}

        def call() -> httpx2.Response:
            response = self._client.post(_BATCH, data=fields, files=files)
            if response.status_code in (404, 405):
                raise _OneByOne
            return response

        try:
            with self._counted(len(files)):
                answer = self._answer(call, ATTEMPTS)
        except _OneByOne:
            self._batches = False
            return {}
        except ImageTooLarge:
            return {}  # each of them may still fit
        items = entries(answer, "items")
        if len(items) != len(pictures):
            raise EncoderUnavailable(STRANGE)
        return {
            index: self._item(picture, item)
            for (index, picture), item in zip(pictures.items(), items, strict=True)
        }

    def _item(self, picture: Picture, item: Answer) -> Analysis | LikenessError:
        error, embedded = item.get("error"), item.get("embedded")
        if isinstance(error, dict):
            return error_of(error)
        if not isinstance(embedded, dict):
            raise EncoderUnavailable(STRANGE)
        return self._analysis(picture, embedded)

    @contextlib.contextmanager
    def _counted(self, photos: int) -> Iterator[None]:
        with self._counting:
            self._busy += photos
        try:
            yield
        finally:
            with self._counting:
                self._busy -= photos

    def _picture(self, data: bytes) -> Picture:
        """What the photo's header says; raises as `probe` does."""
        header = probe(data, max_bytes=self._max_bytes)
        return Picture(header.width, header.height, hashlib.sha256(data).hexdigest())

    def _analysis(self, picture: Picture, answer: Answer) -> Analysis:
        size = self._expected.dimensions
        faces = tuple(
            with_vector(face_of(entry), entry, size) for entry in entries(answer, "faces")
        )
        return Analysis(picture, faces, self.model, self._own(answer), timings(answer))

    def _own(self, answer: Answer) -> str:
        """The build that made this very answer; ModelMismatch when its model is another."""
        if answer.get("model") != self.model:
            raise ModelMismatch(
                f"The encoder service answered with another model than {self.model}: start it "
                f"with FACE_MODEL={self.model}."
            )
        build = answer.get("build")
        return build if isinstance(build, str) and build else self.build


def _unless(cancelled: GaveUp | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled
