"""Photo bytes to faces with embeddings: probe, decode, detect, align, judge, encode. No I/O."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from faces import align, quality
from faces.decoder import Decoder, OpenPicture
from faces.detect import Detector
from faces.encode import Encoder
from faces.errors import InvalidRequest
from faces.gate import Gate
from faces.image import probe
from faces.pictures import Pictures
from faces.types import Analysis, Box, Detection, Face, Picture, Pixels

Choose = Callable[[Sequence[Face]], Sequence[int]]
Cancelled = Callable[[], bool]

DETECTION_SIDE = 640


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
        max_bytes: int | None = None,
    ) -> None:
        """`alignment` names the encoder's template; pictures over `max_bytes` are refused."""
        self._decoder = decoder
        self._detector = detector
        self._encoder = encoder
        self._alignment = alignment
        self._size = align.TEMPLATES[alignment].size
        self._side = detection_side
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
        header = probe(data, max_bytes=self._max_bytes)
        clock = _Clock()
        with self._decoder.open(data, header, side=self._side, cancelled=cancelled) as picture:
            clock.lap("decode")
            found = _in_full(self._detector.detect(picture.image), picture)
            found.sort(key=lambda d: d.box.area, reverse=True)
            clock.lap("detect")
            faces, crops, chosen = self._crops(picture, found, choose)
            clock.lap("decode")
        faces = self._encoded(faces, crops, chosen, cancelled)
        clock.lap("encode")
        return self._analysis(data, header.width, header.height, faces, clock)

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
        header = probe(data, max_bytes=self._max_bytes)
        clock = _Clock()
        with self._decoder.open(data, header, side=self._side, cancelled=cancelled) as picture:
            faces, crops, chosen = self._crops(picture, list(detections), None)
            clock.lap("decode")
        clock.lap("detect")
        faces = self._encoded(faces, crops, chosen, cancelled)
        clock.lap("encode")
        return self._analysis(data, header.width, header.height, faces, clock)

    def thumbnail(self, data: bytes, max_side: int = 320) -> bytes:
        """The upright picture as a JPEG, its longest side at most `max_side` pixels."""
        return self._pictures.thumbnail(data, max_side)

    def crop(self, data: bytes, box: Box) -> bytes:
        """The face in `box`, padded by half its size, as a JPEG of at most 20 kB."""
        return self._pictures.crop(data, box)

    def check(self) -> None:
        """Nothing: all that it needs is in this process. A remote pipeline raises when away."""

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def _crops(
        self, picture: OpenPicture, found: Sequence[Detection], choose: Choose | None
    ) -> tuple[list[Face], Pixels, list[int]]:
        """The faces with their quality, and the crops of the chosen ones."""
        try:
            placements = [align.placement(d.landmarks, self._alignment) for d in found]
        except ValueError as error:
            raise InvalidRequest.field("faces", "a face's landmarks coincide") from error
        first = picture.cut(placements, self._size)
        faces = []
        for detection, crop in zip(found, first, strict=True):
            judged = quality.judge(detection, crop)
            faces.append(Face(detection, judged.value, judged.reasons))
        chosen = list(range(len(faces)) if choose is None else choose(faces))
        fine = picture.cut([placements[i] for i in chosen], self._size, finer=True)
        return faces, fine, chosen

    def _encoded(
        self,
        faces: list[Face],
        crops: Pixels,
        chosen: list[int],
        cancelled: Cancelled | None,
    ) -> list[Face]:
        if not chosen:
            return faces
        with self._encoding.enter(cancelled):
            vectors = self._encoder.encode(crops)
        for index, vector in zip(chosen, vectors, strict=True):
            faces[index] = replace(faces[index], embedding=vector)
        return faces

    def _analysis(
        self, data: bytes, width: int, height: int, faces: list[Face], clock: _Clock
    ) -> Analysis:
        return Analysis(
            Picture(width, height, hashlib.sha256(data).hexdigest()),
            tuple(faces),
            self.model,
            self.build,
            clock.laps,
        )


class _Clock:
    """Milliseconds by step."""

    def __init__(self) -> None:
        self.laps = {"decode": 0.0, "detect": 0.0, "encode": 0.0}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(self.laps[name] + (now - self._last) * 1000, 3)
        self._last = now


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
