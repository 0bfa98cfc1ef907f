"""The pipeline of a process, put together from its settings.

Importing this module loads neither a model nor a runtime: `load_pipeline` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from faces.choice import choose, deepface_installed
from faces.priority import PATIENT_S, gives_way
from faces.settings import Settings
from faces.types import Face

if TYPE_CHECKING:
    from faces.decoder import Decoder
    from faces.encode import Encoder
    from faces.pipeline import Pipeline
    from faces.remote import RemotePipeline

AnyPipeline: TypeAlias = "Pipeline | RemotePipeline"


def load_pipeline(settings: Settings, key: str) -> AnyPipeline:
    """A pipeline with the encoder of model `key`, its decoder's process started.

    With ENCODER=remote the encoder is another instance's, and only `check` shows whether it is
    there. With ENCODER=deepface the encoder is DeepFace's whatever `key` says: look at the
    pipeline's `model`. Raises ConfigError for an unknown key, ModelFileError when a model file is
    missing or broken.
    """
    if settings.encoder == "remote":
        return _remote(settings, key)
    from faces import sessions
    from faces.detect import Detector
    from faces.models import cards, files
    from faces.pipeline import Pipeline

    folder = settings.models_path
    encoder = _encoder(settings, key)
    detector = Detector(
        sessions.open_session(files.checked(folder, cards.DETECTOR), threads=1),
        min_confidence=settings.detect_min_confidence,
    )
    decoder = _decoder()
    decoder.warm()
    return Pipeline(
        decoder,
        detector,
        encoder,
        alignment=cards.card(encoder.key).alignment,
        detection_side=settings.detect_side,
        closer_side=settings.detect_closer_side,
        max_bytes=settings.max_upload_bytes,
    )


def _decoder() -> Decoder:
    """The decoder, with more time where the process gives way to all others."""
    from faces.decoder import Decoder

    return Decoder(wall_seconds=PATIENT_S) if gives_way() else Decoder()


def _encoder(settings: Settings, key: str) -> Encoder:
    """The encoder in this process that the settings call for."""
    from faces.encode import OnnxEncoder
    from faces.models import cards, files
    from faces.sessions import open_session

    folder = settings.models_path
    if _with_deepface(settings, key):
        from faces import deepface

        return deepface.load(folder)
    card = cards.card(key)
    path = files.checked(folder, card)
    session = open_session(path, threads=1, providers=settings.onnx_providers)
    return OnnxEncoder(session, card, files.build_sha256(folder, key))


def _with_deepface(settings: Settings, key: str) -> bool:
    """Whether DeepFace encodes: it was asked for, or it is at hand and makes the wanted vectors."""
    return choose(settings, installed=deepface_installed(), model=key).kind == "deepface"


def encoder_build(settings: Settings, key: str) -> str:
    """The build that makes the vectors of model `key` under these settings, without loading it.

    Raises ModelFileError when the file is missing; with ENCODER=remote what `check` raises.
    """
    from faces.models import files

    if settings.encoder != "remote":
        if _with_deepface(settings, key):
            from faces import deepface

            return deepface.build()
        return files.build_sha256(settings.models_path, key)
    pipeline = _remote(settings, key)
    try:
        return pipeline.build
    finally:
        pipeline.close()


def _remote(settings: Settings, key: str) -> RemotePipeline:
    from faces.models import cards
    from faces.pictures import Pictures
    from faces.remote import Expected, RemotePipeline

    secret = settings.encoder_api_key
    return RemotePipeline(
        settings.encoder_url or "",
        secret.get_secret_value() if secret else None,
        Expected(key, cards.card(key).dimensions),
        Pictures(_decoder(), max_bytes=settings.max_upload_bytes),
        max_bytes=settings.max_upload_bytes,
    )


def largest(faces: Sequence[Face]) -> list[int]:
    """The index of the largest face, or none: a `choose` for `Pipeline.analyse`."""
    return [0] if faces else []
