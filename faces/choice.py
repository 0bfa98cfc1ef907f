"""Which encoder a process uses, and why: one rule for web, worker and doctor."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, TypeAlias

from faces.settings import Settings

DEEPFACE_MODEL = "facenet512"
"""The model whose vectors DeepFace makes."""

EncoderKind: TypeAlias = Literal["onnx", "remote", "deepface", "disabled"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The encoder's kind, the reason for it, and what the operator should be told, if anything."""

    kind: EncoderKind
    reason: str
    warning: str = ""


def deepface_installed() -> bool:
    """Whether the optional package `deepface` can be imported; it is not."""
    return importlib.util.find_spec("deepface") is not None


def choose(settings: Settings, *, installed: bool, model: str | None = None) -> Choice:
    """The encoder that these settings call for.

    `model` is the database's active model, None while it has none or it is unknown. In this order:
    FACE_RECOGNITION_ENABLED=false, ENCODER, USE_LITE_EMBEDDINGS=true, DeepFace when it is
    `installed` and makes the database's vectors, ONNX.
    """
    if not settings.face_recognition_enabled:
        return Choice("disabled", "FACE_RECOGNITION_ENABLED is false")
    if settings.encoder is not None:
        return Choice(settings.encoder, f"ENCODER is {settings.encoder}")
    if settings.use_lite_embeddings:
        return Choice("onnx", "USE_LITE_EMBEDDINGS is true")
    if installed and model in (None, DEEPFACE_MODEL):
        return Choice(
            "deepface", f"DeepFace is installed; it encodes where {DEEPFACE_MODEL} is active"
        )
    if installed:
        return Choice("onnx", f"DeepFace does not make the vectors of the active model, {model}")
    if settings.use_lite_embeddings is None:
        return Choice("onnx", "the default")
    return Choice(
        "onnx",
        "USE_LITE_EMBEDDINGS is false, but DeepFace is not installed",
        "USE_LITE_EMBEDDINGS is false, but DeepFace is not installed: the ONNX encoder is used. "
        "Install the extra `deepface`, or set USE_LITE_EMBEDDINGS=true.",
    )
