"""The values that flow through the core.

Coordinates are pixels of the upright image (EXIF applied), origin at the top left, unless a name
says otherwise.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # with face recognition off, a process does without numpy's 14 MB
    import numpy as np
    import numpy.typing as npt

PIPELINE_VERSION = "1"
"""Grows when the same picture would give other faces, boxes or vectors than before."""

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
"""An image, (height, width, 3), BGR."""
Vector: TypeAlias = "npt.NDArray[np.float32]"
"""One embedding, (dimensions,), unit length."""
Point: TypeAlias = tuple[float, float]
Landmarks: TypeAlias = tuple[Point, Point, Point, Point, Point]
"""The subject's right eye (left in the image), left eye, nose, right and left mouth corner."""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """In square units of the box's own frame; never negative."""
        return max(0.0, self.width) * max(0.0, self.height)

    def iou(self, other: Box) -> float:
        """Intersection over union with `other`, in [0, 1]."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        if width <= 0 or height <= 0:
            return 0.0
        intersection = width * height
        return intersection / (self.area + other.area - intersection)

    def scaled(self, x: float, y: float | None = None) -> Box:
        """The box with both axes multiplied, `y` by `x`'s factor when not given."""
        v = x if y is None else y
        return Box(self.x * x, self.y * v, self.width * x, self.height * v)

    def relative(self, width: float, height: float) -> Box:
        """The box as fractions of a picture of this size."""
        return self.scaled(1 / width, 1 / height)


@dataclass(frozen=True, slots=True)
class Detection:
    """A face as the detector sees it."""

    box: Box
    confidence: float
    landmarks: Landmarks


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of a decoded picture: upright size in pixels, and its bytes' identity."""

    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face with its quality in [0, 1], why it is low, and, when encoded, its vector.

    `brightness` and `sharpness` are shares of the best in [0, 1]; None when nobody has measured.
    """

    detection: Detection
    quality: float
    reasons: tuple[str, ...] = ()
    embedding: Vector | None = None
    brightness: float | None = None
    sharpness: float | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the pipeline makes of a picture. `model` and `build` name what made the embeddings."""

    picture: Picture
    faces: tuple[Face, ...]
    model: str
    build: str
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MediaRef:
    """Which item of which collection, and who owns it.

    `source` is `api` or the name of a configured source; `source_key` is the item's id there.
    """

    collection: str
    media_id: str
    source: str
    source_key: str


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a source says about an item besides its pixels."""

    url: str | None = None
    title: str | None = None
    taken_at: dt.datetime | None = None
    metadata: dict[str, str | float | bool] = field(default_factory=dict)
    etag: str | None = None
    hidden: bool = False
