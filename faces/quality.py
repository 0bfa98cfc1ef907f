"""How well a face can be recognised, in [0, 1], and why not better.

    quality = confidence x size x sharpness x pose x brightness x glare x contrast

Each term is 1 where it does no harm, falls linearly to 0 where recognition fails, and gives its
reason below a half. Reasons bear the names of Rekognition's `QualityFilter`.

| term | measured as | 0 at | 1 at | reason |
|---|---|---|---|---|
| confidence | the detector's | 0.5 | 0.85 | `low_confidence` |
| size | the box's shorter side, in pixels of the full picture | 8 | 48 | `small_bounding_box` |
| sharpness | log10 of fine detail's energy over the variance | -3.65 | -2.0 | `low_sharpness` |
| pose | how far the nose stands off the middle of eyes and mouth | 2.0 | 0.3 | `extreme_pose` |
| brightness | mean luma of the crop's middle | 12 | 60 | `low_brightness` |
| glare | the same | 250 | 205 | `low_face_quality` |
| contrast | standard deviation of that luma | 3 | 16 | `low_face_quality` |

The ends were set where a worsened copy (shrunk, blurred, darkened, bleached) of a sample photo
falls to a cosine of about 0.1 and stays above about 0.95 to the good one. `low_face_quality` is
also given when the product is below a quarter though no term is below a half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from faces.types import Detection, Landmarks, Pixels

Luma: TypeAlias = npt.NDArray[np.float32]
_BT601 = np.array([0.114, 0.587, 0.299], np.float32)  # of B, G, R
_LOW, _VERY_LOW = 0.5, 0.25
_NOSE_HEIGHT = 0.55  # where a frontal face's nose lies between eyes (0) and mouth (1)


@dataclass(frozen=True, slots=True)
class Quality:
    """The product of the terms, and the reasons of those below a half, worst first.

    `brightness` is the mean luma and `sharpness` its term, both in [0, 1].
    """

    value: float
    reasons: tuple[str, ...]
    brightness: float
    sharpness: float


def judge(detection: Detection, crop: Pixels) -> Quality:
    """The quality of a face, from its detection in full-size pixels and its aligned crop."""
    middle = _middle(crop.astype(np.float32) @ _BT601)
    side = min(detection.box.width, detection.box.height)
    mean, deviation = float(middle.mean()), float(middle.std())
    sharp = _ramp(sharpness(middle), -3.65, -2.0)
    terms = [
        (_ramp(detection.confidence, 0.5, 0.85), "low_confidence"),
        (_ramp(side, 8.0, 48.0), "small_bounding_box"),
        (sharp, "low_sharpness"),
        (_ramp(pose(detection.landmarks), 2.0, 0.3), "extreme_pose"),
        (_ramp(mean, 12.0, 60.0), "low_brightness"),
        (_ramp(mean, 250.0, 205.0), "low_face_quality"),
        (_ramp(deviation, 3.0, 16.0), "low_face_quality"),
    ]
    value = math.prod(term for term, _ in terms)
    low = [reason for term, reason in sorted(terms) if term < _LOW]
    if not low and value < _VERY_LOW:
        low.append("low_face_quality")
    return Quality(round(value, 4), tuple(dict.fromkeys(low)), mean / 255, sharp)


def sharpness(luma: Luma) -> float:
    """Log10 of the energy of fine detail over the variance; contrast does not change it.

    Detail is what the neighbours do not foretell, at half the crop's resolution: at the full one
    rounding to 8 bits hides how blurred a face is.
    """
    half = (luma[::2, ::2] + luma[1::2, ::2] + luma[::2, 1::2] + luma[1::2, 1::2]) / 4
    around = half[:-2, 1:-1] + half[2:, 1:-1] + half[1:-1, :-2] + half[1:-1, 2:]
    detail = half[1:-1, 1:-1] - around / 4
    return math.log10(max(1e-9, float((detail**2).mean()) / max(4.0, float(half.var()))))


def pose(landmarks: Landmarks) -> float:
    """How far the head is turned or tilted: about 0 from the front, 1 and more in profile.

    In the face's own frame, whose axes run from eye to eye and from eyes to mouth: twice the
    nose's distance from the middle line, in half distances of the eyes, or from its usual height,
    in distances of eyes and mouth, whichever is more.
    """
    right_eye, left_eye, nose, right_mouth, left_mouth = (complex(*point) for point in landmarks)
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    across, down = (left_eye - right_eye + left_mouth - right_mouth) / 2, mouth - eyes
    area = _cross(across, down)
    if abs(area) <= 1e-6 * max(1e-6, abs(across) * abs(down)):
        return math.inf
    sideways, lower = _cross(nose - eyes, down) / area, _cross(across, nose - eyes) / area
    return max(2 * abs(sideways), 2 * abs(lower - _NOSE_HEIGHT))


def _cross(one: complex, other: complex) -> float:
    return one.real * other.imag - one.imag * other.real


def _middle(luma: Luma) -> Luma:
    rim = len(luma) // 10 * 2
    return luma[rim:-rim, rim:-rim]


def _ramp(value: float, nothing: float, full: float) -> float:
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))
