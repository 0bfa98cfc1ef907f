"""Photo bytes to faces with embeddings: probe, decode, detect, align, judge, encode. No I/O."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from faces import align, quality
from faces.decoder import Decoder, OpenPicture
from faces.detect import Detector
from faces.encode import Encoder
from faces.errors import InvalidRequest
from faces.gate import Gate
from faces.image import probe
from faces.pictures import Pictures
from faces.types import Analysis, Box, Detection, Face, Picture, Pixels, Vector

Choose = Callable[[Sequence[Face]], Sequence[int]]
Cancelled = Callable[[], bool]

DETECTION_SIDE = 640
CLOSER_SIDE = 1280
MAX_FACES = 1000
"""Of one picture; the smallest beyond are left out."""
_FARTHEST = 1e6
"""Pixels from the origin beyond which no known face is looked for."""
_CHUNK, _HELD = 16, 64
"""Faces cut at once, and held at most after the picture is closed: 77 kB each."""


class Pipeline:
    """What web and worker share to look at a picture. Safe to use from any thread."""

    def __init__(
        self,
        decoder: Decoder,
        detector: Detector,
        encoder: Encoder,
        *,
        alignment: str,
        detection_side: int = DETECTION_SIDE,
        closer_side: int = CLOSER_SIDE,
        max_bytes: int | None = None,
    ) -> None:
        """`alignment` names the encoder's template; pictures over `max_bytes` are refused.

        Faces are looked for with the picture's longest side at `detection_side` pixels, and at
        `closer_side` where the first look finds small ones or none.
        """
        self._decoder = decoder
        self._detector = detector
        self._encoder = encoder
        self._alignment = alignment
        self._size = align.TEMPLATES[alignment].size
        self._side = detection_side
        self._closer_side = closer_side
        self._max_bytes = max_bytes
        self._pictures = Pictures(decoder, max_bytes=max_bytes)
        self._encoding = Gate(waiting=64, patience=20.0)

    @property
    def model(self) -> str:
        """The key of the model that makes the embeddings."""
        return self._encoder.key

    @property
    def build(self) -> str:
        """The SHA-256 of the encoder's build."""
        return self._encoder.build

    @property
    def load(self) -> int:
        """How many callers are being served or in line."""
        return self._decoder.load

    def analyse(
        self,
        data: bytes,
        *,
        choose: Choose | None = None,
        cancelled: Cancelled | None = None,
    ) -> Analysis:
        """All faces of a picture, largest first; the chosen ones (None: all) with embeddings.

        Raises ImageTooLarge, UnsupportedImage, InvalidImage, Busy, and Cancelled when `cancelled`
        answers True while waiting in line.
        """
        return self._run(data, self._found, choose, cancelled)

    def embed_known(
        self,
        data: bytes,
        detections: Sequence[Detection],
        *,
        cancelled: Cancelled | None = None,
    ) -> Analysis:
        """The faces that the caller names, in its order, all with embeddings; nothing is detected.

        Raises as `analyse` does, and InvalidRequest when a face's landmarks coincide.
        """
        _check_known(detections)
        return self._run(data, lambda _: list(detections), None, cancelled)

    def thumbnail(self, data: bytes, max_side: int = 320) -> bytes:
        """The upright picture as a JPEG, its longest side at most `max_side` pixels."""
        return self._pictures.thumbnail(data, max_side)

    def crop(self, data: bytes, box: Box) -> bytes:
        """The face in `box`, padded by half its size, as a JPEG of at most 20 kB."""
        return self._pictures.crop(data, box)

    def crops(self, data: bytes, boxes: Sequence[Box]) -> list[bytes]:
        """`crop` of every box, from one decode."""
        return self._pictures.crops(data, boxes)

    def check(self) -> None:
        """Nothing: all that it needs is in this process. A remote pipeline raises when away."""

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def _run(
        self,
        data: bytes,
        find: Callable[[OpenPicture], list[Detection]],
        choose: Choose | None,
        cancelled: Cancelled | None,
    ) -> Analysis:
        header = probe(data, max_bytes=self._max_bytes)
        vectors: list[Vector] = []
        with self._decoder.open(data, header, side=self._side, cancelled=cancelled) as picture:
            clock = _Clock(decode=picture.opened_ms)
            found = find(picture)
            clock.lap("detect")
            placements = [align.placement(d.landmarks, self._alignment) for d in found]
            looks = self._looks(picture, found, placements)
            faces = [look.face for look in looks]
            chosen = list(range(len(faces)) if choose is None else choose(faces))
            while True:
                part = chosen[len(vectors) :]
                last = len(part) <= _HELD
                crops = self._sharpest(picture, placements, looks, part if last else part[:_CHUNK])
                clock.lap("decode")
                if last:
                    break
                vectors += self._encoded(crops, cancelled, clock)
            faces = [look.face for look in looks]
        vectors += self._encoded(crops, cancelled, clock)
        for index, vector in zip(chosen, vectors, strict=True):
            faces[index] = replace(faces[index], embedding=vector)
        known = Picture(header.width, header.height, hashlib.sha256(data).hexdigest())
        return Analysis(known, tuple(faces), self.model, self.build, clock.laps)

    def _found(self, picture: OpenPicture) -> list[Detection]:
        """The faces in full-size coordinates, largest first, at most MAX_FACES."""

        def closer() -> Pixels | None:
            side = min(self._closer_side, max(picture.header.width, picture.header.height))
            return picture.look(side) if side > 1.2 * max(picture.image.shape) else None

        found = _in_full(self._detector.detect(picture.image, closer), picture)
        found = [detection for detection in found if _placeable(detection)]
        return sorted(found, key=lambda d: d.box.area, reverse=True)[:MAX_FACES]

    def _looks(
        self,
        picture: OpenPicture,
        found: Sequence[Detection],
        placements: Sequence[align.Affine],
    ) -> list[_Look]:
        """The faces as the picture shows them at the size that it is decoded at."""
        looks: list[_Look] = []
        for start in range(0, len(found), _CHUNK):
            end = start + _CHUNK
            crops, fine = picture.cut(placements[start:end], self._size)
            for detection, crop, enough in zip(found[start:end], crops, fine, strict=True):
                keep = enough and len(looks) < _HELD
                looks.append(_Look(_judged(detection, crop), crop if keep else None))
        return looks

    def _sharpest(
        self,
        picture: OpenPicture,
        placements: Sequence[align.Affine],
        looks: list[_Look],
        wanted: Sequence[int],
    ) -> Pixels:
        """The crops to encode; where the picture was decoded too small, cut and judged again."""
        crops = np.empty((len(wanted), self._size, self._size, 3), np.uint8)
        for row, index in enumerate(wanted):
            crop = looks[index].crop
            if crop is None:
                ((crop,), _) = picture.cut([placements[index]], self._size, finer=True)
                looks[index] = _Look(_judged(looks[index].face.detection, crop), None)
            crops[row] = crop
        return crops

    def _encoded(self, crops: Pixels, cancelled: Cancelled | None, clock: _Clock) -> list[Vector]:
        if not len(crops):
            return []
        with self._encoding.enter(cancelled):
            clock.start()
            vectors = list(self._encoder.encode(crops))
            clock.lap("encode")
        return vectors


@dataclass(frozen=True, slots=True)
class _Look:
    """A judged face, and its crop where that is worth keeping."""

    face: Face
    crop: Pixels | None


def _judged(detection: Detection, crop: Pixels) -> Face:
    judged = quality.judge(detection, crop)
    return Face(
        detection,
        judged.value,
        judged.reasons,
        brightness=judged.brightness,
        sharpness=judged.sharpness,
    )


class _Clock:
    """Milliseconds by step, time in line not counted."""

    def __init__(self, *, decode: float) -> None:
        self.laps = {"decode": decode, "detect": 0.0, "encode": 0.0}
        self.start()

    def start(self) -> None:
        """Begin a lap."""
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count what passed since to `name`, and begin the next lap."""
        now = time.perf_counter()
        self.laps[name] = round(self.laps[name] + (now - self._last) * 1000, 3)
        self._last = now


def _check_known(detections: Sequence[Detection]) -> None:
    """Raises InvalidRequest for a face whose landmarks are absurd or show no face."""
    for detection in detections:
        if not all(abs(v) <= _FARTHEST for point in detection.landmarks for v in point):
            raise InvalidRequest.field("faces", "a face's landmarks lie outside any picture")
        if not _placeable(detection):
            raise InvalidRequest.field("faces", "a face's landmarks coincide or show no face")


def _placeable(detection: Detection) -> bool:
    try:
        align.placement(detection.landmarks, "sface")
    except ValueError:
        return False
    return True


def _in_full(found: Sequence[Detection], picture: OpenPicture) -> list[Detection]:
    """The detections in coordinates of the full-size picture, boxes kept inside it."""
    x, y = picture.scale
    width, height = picture.header.width, picture.header.height
    result = []
    for detection in found:
        box = detection.box.scaled(x, y)
        left, top = max(0.0, box.x), max(0.0, box.y)
        right, bottom = min(width, box.x + box.width), min(height, box.y + box.height)
        if right <= left or bottom <= top:
            continue
        r, n = [(u * x, v * y) for u, v in detection.landmarks], detection.confidence
        landmarks = (r[0], r[1], r[2], r[3], r[4])
        result.append(Detection(Box(left, top, right - left, bottom - top), n, landmarks))
    return result
