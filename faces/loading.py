"""The pipeline of a process, put together from its settings.

Importing this module loads neither a model nor a runtime: `load_pipeline` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from faces.pipeline import Pipeline
from faces.settings import Settings
from faces.types import Face


def load_pipeline(settings: Settings, key: str) -> Pipeline:
    """A pipeline with the encoder of model `key`, its decoder's process started.

    Raises ConfigError for an unknown key, ModelFileError when a model file is missing or broken.
    """
    from faces import sessions
    from faces.decoder import Decoder
    from faces.detect import Detector
    from faces.encode import OnnxEncoder
    from faces.models import cards, files

    card = cards.card(key)
    folder = settings.models_path
    detector = Detector(sessions.open_session(files.detector_path(folder), threads=1))
    encoder = OnnxEncoder(
        sessions.open_session(
            files.encoder_path(folder, key), threads=1, providers=settings.onnx_providers
        ),
        card,
        files.build_sha256(folder, key),
    )
    decoder = Decoder()
    decoder.warm()
    return Pipeline(
        decoder,
        detector,
        encoder,
        alignment=card.alignment,
        max_bytes=settings.max_upload_bytes,
    )


def largest(faces: Sequence[Face]) -> list[int]:
    """The index of the largest face, or none: a `choose` for `Pipeline.analyse`."""
    return [0] if faces else []
