"""Where a face's crop lies in its picture: pure geometry on five landmarks.

A placement is the affine map `(a, b, c, d, e, f)`, x' = a x + b y + c, y' = d x + e y + f, from
the crop's corner coordinates (pixel `i` covers `[i, i + 1]`) to the picture's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from faces.types import Landmarks, Point

Affine: TypeAlias = tuple[float, float, float, float, float, float]

ARCFACE: Landmarks = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where the five landmarks of a frontal face lie in a 112 x 112 crop (InsightFace's ArcFace)."""
_ARCFACE_SIDE = 112


@dataclass(frozen=True, slots=True)
class Template:
    """Where the landmarks belong in a square crop of `size` pixels, and how it is stretched.

    `stretch_x`, `stretch_y` act about the crop's middle, after the similarity; `shift_y` is added
    then, in parts of the size.
    """

    size: int
    stretch_x: float = 1.0
    stretch_y: float = 1.0
    shift_y: float = 0.0


TEMPLATES = {
    # FaceNet was trained on MTCNN boxes pulled to squares: the stretch imitates that.
    "facenet5": Template(160, stretch_x=1.2, stretch_y=0.9, shift_y=-0.04),
    "sface": Template(112),
}


def similarity(source: Sequence[Point], target: Sequence[Point]) -> Affine:
    """The rotation, scaling and shift that brings `source` closest to `target`.

    Least squares, without reflection (Umeyama 1991; in the plane it is one complex division).
    Raises ValueError when all points of `source` coincide.
    """
    z = [complex(*point) for point in source]
    w = [complex(*point) for point in target]
    z_mean, w_mean = sum(z) / len(z), sum(w) / len(w)
    spread = sum(abs(p - z_mean) ** 2 for p in z)
    if not spread > 1e-12 * max(1.0, abs(z_mean) ** 2):
        raise ValueError("the landmarks coincide")
    turn = sum((p - z_mean).conjugate() * (q - w_mean) for p, q in zip(z, w, strict=True)) / spread
    shift = w_mean - turn * z_mean
    return turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag


def invert(affine: Affine) -> Affine:
    """The map back. Raises ValueError for one that flattens the plane."""
    a, b, c, d, e, f = affine
    determinant = a * e - b * d
    if not abs(determinant) > 1e-12:
        raise ValueError("the map has no inverse")
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    return a, b, -(a * c + b * f), d, e, -(d * c + e * f)


def compose(outer: Affine, inner: Affine) -> Affine:
    """The map that applies `inner` first and `outer` to its result."""
    a, b, c, d, e, f = outer
    g, h, i, j, k, m = inner
    return (
        a * g + b * j,
        a * h + b * k,
        a * i + b * m + c,
        d * g + e * j,
        d * h + e * k,
        d * i + e * m + f,
    )


def apply(affine: Affine, point: Point) -> Point:
    """The point that the map brings `point` to."""
    a, b, c, d, e, f = affine
    x, y = point
    return a * x + b * y + c, d * x + e * y + f


def matrix(landmarks: Landmarks, alignment: str) -> Affine:
    """The map from the picture to the crop of this alignment, pixel centres at whole numbers.

    These are `cv2.warpAffine`'s coordinates. Raises ValueError when the landmarks coincide.
    """
    template = TEMPLATES[alignment]
    grow = template.size / _ARCFACE_SIDE
    plain = similarity(landmarks, [(x * grow, y * grow) for x, y in ARCFACE])
    middle = template.size / 2
    stretch = (
        template.stretch_x,
        0.0,
        middle * (1 - template.stretch_x),
        0.0,
        template.stretch_y,
        middle * (1 - template.stretch_y) + template.shift_y * template.size,
    )
    return compose(stretch, plain)


def placement(landmarks: Landmarks, alignment: str) -> Affine:
    """Where the crop of this alignment lies in the picture of these landmarks.

    Raises ValueError when the landmarks coincide.
    """
    to_corner = (1.0, 0.0, 0.5, 0.0, 1.0, 0.5)
    to_centre = (1.0, 0.0, -0.5, 0.0, 1.0, -0.5)
    back = invert(matrix(landmarks, alignment))
    return compose(to_corner, compose(back, to_centre))
