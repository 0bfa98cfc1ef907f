"""What a separate encoder service answers, read: faces, vectors, or the error that it stands for.

Nothing of an answer is believed unchecked: what is not of the agreed form is EncoderUnavailable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import httpx2
import numpy as np

from faces.errors import (
    Busy,
    EncoderUnavailable,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    LikenessError,
    Loading,
    ModelMismatch,
    UnsupportedImage,
)
from faces.types import Box, Detection, Face, Vector

AWAY = "The encoder service of ENCODER_URL does not answer. Start it with `python -m app encoder`."
REFUSED = "The encoder service refuses ENCODER_API_KEY: it must be one of its keys."
STRANGE = "The encoder service of ENCODER_URL answers with something else than embeddings."

Answer = Mapping[str, Any]


def decoded(response: httpx2.Response) -> Answer:
    """The body of a success; raises the error that the problem document stands for."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise EncoderUnavailable(STRANGE)
    if response.is_success:
        return body
    raise error_of(body)


def error_of(body: Answer) -> LikenessError:
    """The error of ours that a problem stands for."""
    code, detail = body.get("code"), str(body.get("detail", ""))
    match code:
        case "loading":
            return Loading("The encoder service is still loading its model.")
        case "busy" | "rate_limited":
            return Busy("The encoder service has no place free.")
        case "unsupported_image":
            return UnsupportedImage(detail)
        case "image_too_large" | "request_too_large":
            return ImageTooLarge("The picture has more bytes than the encoder service accepts.")
        case "invalid_image":
            return InvalidImage(str(body.get("reason", "decoder_failed")), detail)
        case "invalid_request":
            return InvalidRequest("The encoder service cannot use the faces that it was given.")
        case "model_mismatch" | "not_found":
            return ModelMismatch("The encoder service has another model: set its FACE_MODEL.")
        case "unauthorized" | "forbidden":
            return EncoderUnavailable(REFUSED, retry_after=30.0)
        case _:
            return EncoderUnavailable(AWAY, retry_after=5.0)


def entries(answer: Answer, name: str) -> list[Answer]:
    """The list of objects that the answer holds under `name`."""
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise EncoderUnavailable(STRANGE)
    return found


def face_of(entry: Answer) -> Face:
    """A face without its vector."""
    try:
        box = entry["box"]
        a, b, c, d, e = ((_number(x), _number(y)) for x, y in entry["landmarks"])
        x, y, width, height = (_number(box[name]) for name in ("x", "y", "width", "height"))
        if width <= 0 or height <= 0:
            raise ValueError
        return Face(
            Detection(Box(x, y, width, height), _number(entry["confidence"]), (a, b, c, d, e)),
            _number(entry["quality"]),
            tuple(str(reason) for reason in entry.get("reasons", ())),
            brightness=_share(entry.get("brightness")),
            sharpness=_share(entry.get("sharpness")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderUnavailable(STRANGE) from error


def with_vector(face: Face, entry: Answer, dimensions: int) -> Face:
    """The face with the vector of this entry, which must be a unit vector of that length."""
    try:
        vector = np.asarray(entry.get("embedding", ()), dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise EncoderUnavailable(STRANGE) from error
    if vector.shape != (dimensions,) or not np.isfinite(vector).all():
        raise EncoderUnavailable(STRANGE)
    norm = float(np.linalg.norm(vector))
    if abs(norm - 1.0) > 1e-3:
        raise EncoderUnavailable(STRANGE)
    unit: Vector = vector / np.float32(norm)
    return dataclasses.replace(face, embedding=unit)


def timings(answer: Answer) -> dict[str, float]:
    """Milliseconds by stage; 0 where nothing is said."""
    given = answer.get("timings_ms") or {}
    if not isinstance(given, dict):
        raise EncoderUnavailable(STRANGE)
    try:
        return {name: _number(given.get(name, 0.0)) for name in ("decode", "detect", "encode")}
    except ValueError as error:
        raise EncoderUnavailable(STRANGE) from error


def _number(value: object) -> float:
    """A finite number. Raises ValueError for anything else: JSON's parser lets NaN pass."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _share(value: object) -> float | None:
    """A measured share of the best; None from a service that does not say it."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ValueError
    return float(value)
