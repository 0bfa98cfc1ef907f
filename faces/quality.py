"""How well a face can be recognised, in [0, 1], and why not better.

    quality = confidence x size x sharpness x brightness x pose

Each term is 1 where it does no harm, falls linearly to 0 where recognition fails, and gives a
reason below a half:

| term | measured as | 0 at | 1 at | reason |
|---|---|---|---|---|
| confidence | the detector's | 0.5 | 0.85 | `low_confidence` |
| size | the box's shorter side, pixels of the full picture | 12 | 64 | `small_bounding_box` |
| sharpness | gradient energy of the crop over its variance | 0.0002 | 0.004 | `low_sharpness` |
| brightness | mean luma, dark side; bright side | 20; 250 | 70; 215 | `low_brightness` |
| pose | how far the nose stands off the middle of eyes and mouth | 1.5 | 0.4 | `extreme_pose` |

`low_face_quality` is added when the product is below a half of a half though no term is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from faces.types import Detection, Landmarks, Pixels

_LUMA = np.array([0.114, 0.587, 0.299], np.float32)  # BGR, ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Quality:
    """The product of the terms, and the reasons of those below a half, worst first."""

    value: float
    reasons: tuple[str, ...]


def judge(detection: Detection, crop: Pixels) -> Quality:
    """The quality of a face from its detection, full-size coordinates, and its aligned crop."""
    luma = crop.astype(np.float32) @ _LUMA
    side = min(detection.box.width, detection.box.height)
    bright = brightness(luma)
    terms = {
        "low_confidence": _ramp(detection.confidence, 0.5, 0.85),
        "small_bounding_box": _ramp(side, 12.0, 64.0),
        "low_sharpness": _ramp(sharpness(luma), 0.0002, 0.004),
        "low_brightness": _ramp(bright, 20.0, 70.0) * _ramp(bright, 250.0, 215.0),
        "extreme_pose": _ramp(pose(detection.landmarks), 1.5, 0.4),
    }
    value = math.prod(terms.values())
    reasons = [name for name, term in sorted(terms.items(), key=lambda t: t[1]) if term < 0.5]
    if value < 0.25 and not reasons:
        reasons.append("low_face_quality")
    return Quality(round(value, 4), tuple(reasons))


def sharpness(luma: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    """Energy of the finest detail over the crop's variance; independent of its contrast."""
    middle = _middle(luma)
    detail = (
        middle[1:-1, 1:-1]
        - (middle[:-2, 1:-1] + middle[2:, 1:-1] + middle[1:-1, :-2] + middle[1:-1, 2:]) / 4
    )
    return float((detail**2).mean() / max(25.0, float(middle.var())))


def brightness(luma: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> float:
    """Mean luma of the crop's middle, 0 to 255."""
    return float(_middle(luma).mean())


def pose(landmarks: Landmarks) -> float:
    """How far the head is turned: 0 from the front, about 1 in profile.

    The nose's distance from the middle of eyes and mouth along the eyes, over half the distance of
    the eyes; or the same for a nod, along the face; whichever is more.
    """
    right_eye, left_eye, nose, right_mouth, left_mouth = (complex(*point) for point in landmarks)
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    across, down = left_eye - right_eye + left_mouth - right_mouth, mouth - eyes
    if abs(across) < 1e-6 or abs(down) < 1e-6:
        return 1.0
    # The nose as eyes + u * across / 2 + v * down, in the face's own skewed frame.
    offset = nose - eyes
    area = (across / 2).real * down.imag - (across / 2).imag * down.real
    if abs(area) < 1e-6 * abs(across) * abs(down):
        return 1.0
    u = (offset.real * down.imag - offset.imag * down.real) / area
    v = ((across / 2).real * offset.imag - (across / 2).imag * offset.real) / area
    return max(2 * abs(u), 2 * abs(v - 0.55))


def _middle(
    luma: np.ndarray[tuple[int, int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rim = len(luma) // 5
    return luma[rim:-rim, rim:-rim]


def _ramp(value: float, nothing: float, full: float) -> float:
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))
