"""Faces as the protocol shows them: ratios of the upright picture, percents, UTC seconds. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from faces.models import cards
from faces.records import StoredFace
from faces.types import Box, Face, Landmarks, Picture

_LANDMARKS = ("eyeLeft", "eyeRight", "nose", "mouthLeft", "mouthRight")
_FRONTAL_NOSE = 0.55
"""Where a frontal face's nose lies between eyes (0) and mouth (1); see faces/quality.py."""
Frame = tuple[int, int]


def model_version(model: str) -> str:
    """The protocol's number of a model: its dimensions and a number made of its key.

    The protocol's pattern is digits and points. Two models never share one.
    """
    number = int(hashlib.sha256(model.encode()).hexdigest()[:4], 16)
    return f"{cards.card(model).dimensions}.{number}"


def bounding_box(box: Box, frame: Frame) -> dict[str, float]:
    """The box as ratios of the picture."""
    part = box.relative(*frame)
    return {
        "Width": round(part.width, 6),
        "Height": round(part.height, 6),
        "Left": round(part.x, 6),
        "Top": round(part.y, 6),
    }


def percent(share: float) -> float:
    """A share in [0, 1] as a percentage."""
    return round(100 * min(1.0, max(0.0, share)), 4)


def stored_face(face: StoredFace, external: str | None, model: str) -> dict[str, Any]:
    """The protocol's Face: a face of a collection, searched with vectors of `model`."""
    shown = {
        "FaceId": face.face_id,
        "BoundingBox": bounding_box(face.box, face.frame),
        "ImageId": face.image_id,
        "Confidence": percent(face.confidence),
    }
    if external is not None:
        shown["ExternalImageId"] = external
    if model in face.models:
        shown["IndexFacesModelVersion"] = model_version(model)
    if face.subject_id is not None:
        shown["UserId"] = face.subject_id
    return shown


def found_face(face: Face, picture: Picture) -> dict[str, Any]:
    """The protocol's FaceDetail (and ComparedFace): a face found in a picture just now."""
    frame = (picture.width, picture.height)
    shown: dict[str, Any] = {
        "BoundingBox": bounding_box(face.detection.box, frame),
        "Confidence": percent(face.detection.confidence),
        "Landmarks": landmarks(face.detection.landmarks, frame),
        "Pose": pose(face.detection.landmarks),
    }
    if face.brightness is not None and face.sharpness is not None:
        shown["Quality"] = {
            "Brightness": percent(face.brightness),
            "Sharpness": percent(face.sharpness),
        }
    return shown


def landmarks(points: Landmarks, frame: Frame) -> list[dict[str, Any]]:
    """The five landmarks; `left` is the left in the picture, as the protocol has it."""
    return [
        {"Type": name, "X": round(x / frame[0], 6), "Y": round(y / frame[1], 6)}
        for name, (x, y) in zip(_LANDMARKS, points, strict=True)
    ]


def pose(points: Landmarks) -> dict[str, float]:
    """Roll from the line of the eyes; yaw and pitch estimated from where the nose lies. Degrees.

    The nose stands about as far out of the plane of eyes and mouth as half the eyes' distance.
    """
    right_eye, left_eye, nose, right_mouth, left_mouth = (complex(*point) for point in points)
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    across, down = (left_eye - right_eye + left_mouth - right_mouth) / 2, mouth - eyes
    area = _cross(across, down)
    if abs(area) <= 1e-6 * max(1e-6, abs(across) * abs(down)):
        return {"Roll": 0.0, "Yaw": 0.0, "Pitch": 0.0}
    sideways, lower = _cross(nose - eyes, down) / area, _cross(across, nose - eyes) / area
    return {
        "Roll": _degrees(math.atan2(across.imag, across.real)),
        "Yaw": _degrees(math.asin(_clipped(2 * sideways))),
        "Pitch": _degrees(math.asin(_clipped(2 * (_FRONTAL_NOSE - lower)))),
    }


def reasons(names: Sequence[str]) -> list[str]:
    """Our reasons by the protocol's names; anything else is a low quality."""
    known = {
        *("exceeds_max_faces", "extreme_pose", "low_brightness", "low_sharpness"),
        *("low_confidence", "small_bounding_box", "low_face_quality", "face_not_largest"),
    }
    return [name.upper() for name in names if name in known] or ["LOW_FACE_QUALITY"]


def _cross(one: complex, other: complex) -> float:
    return one.real * other.imag - one.imag * other.real


def _clipped(value: float) -> float:
    return max(-1.0, min(1.0, value))


def _degrees(angle: float) -> float:
    return round(math.degrees(angle), 4)
