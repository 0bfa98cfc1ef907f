"""DeepFace's own Keras FaceNet as the encoder, for those who install the extra `deepface`.

It runs the very weights that `facenet512` is converted from, which their SHA-256 shows, on the same
crops, and a test holds the conversion to what DeepFace's code computes. So its vectors may stand
beside the ONNX ones under one key. It takes hundreds of megabytes more and is several times slower.

Of the package only the model is used: its own preparation (no alignment to our template, pixels
divided by 255) would give other vectors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from faces.choice import DEEPFACE_MODEL
from faces.encode import BATCH, Crops, Vectors
from faces.errors import ConfigError, ModelFileError
from faces.models import files
from faces.models.cards import PIXEL_MEAN, PIXEL_SCALE, Download, card

KEY = DEEPFACE_MODEL
_NAME = "Facenet512"
_HOME = "DEEPFACE_HOME"
_TENSORFLOW = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


def weights_path(models_dir: Path) -> Path:
    """Where DeepFace finds its weights: its home if it has one with them, else ours as published.

    Raises ModelFileError when they are in neither place or are others than the card names, so that
    DeepFace never downloads anything itself.
    """
    wanted = _download()
    home = Path(os.environ.get(_HOME) or Path.home())
    places = [
        home / ".deepface" / "weights" / wanted.name,
        files.source_path(models_dir, wanted.name),
    ]
    for place in places:
        if place.is_file():
            if files.sha256_of(place) != wanted.sha256:
                raise ModelFileError(
                    f"{wanted.name} in DeepFace's folder is not the published file: remove it and"
                    f" run `python -m faces.models fetch {KEY}`."
                )
            return place
    raise ModelFileError(
        f"DeepFace's weights are not here: run `python -m faces.models fetch {KEY}`, or put"
        f" {wanted.name} into DeepFace's folder."
    )


def build() -> str:
    """What names the build of this encoder: the SHA-256 of the weights that it runs."""
    return _download().sha256


def _download() -> Download:
    download = card(KEY).download
    if download is None:
        raise ModelFileError(f"{KEY} has no published file.")
    return download


class DeepFaceEncoder:
    """Encodes with a Keras model from RGB (n, 160, 160, 3) in [-1, 1] to (n, 512)."""

    key = KEY

    def __init__(self, model: Any, build: str) -> None:
        self._model, self.build = model, build
        self.dimensions = card(KEY).dimensions

    def encode(self, crops: Crops) -> Vectors:
        """Unit vectors, (n, 512) float32, of crops (n, 160, 160, 3) BGR uint8.

        Raises ValueError for another shape or type.
        """
        size = card(KEY).input_size
        if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (n, {size}, {size}, 3) uint8")
        vectors = np.empty((len(crops), self.dimensions), np.float32)
        for start in range(0, len(crops), BATCH):
            rgb = crops[start : start + BATCH, :, :, ::-1].astype(np.float32)
            found = np.asarray(self._model((rgb - PIXEL_MEAN) / PIXEL_SCALE, training=False))
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            vectors[start : start + BATCH] = found / np.maximum(lengths, 1e-12)
        return vectors


def load(models_dir: Path) -> DeepFaceEncoder:
    """DeepFace's FaceNet, ready to encode.

    Raises ConfigError when the package is not there, ModelFileError when its weights are not.
    """
    path = weights_path(models_dir)
    _lend(path)
    # Read while the packages are imported: the Keras model, one thread, no progress lines.
    os.environ["DEEPFACE_BACKEND_ENGINE"] = "tensorflow"
    for name, value in _TENSORFLOW.items():
        os.environ.setdefault(name, value)
    try:
        from deepface.modules import modeling

        model = modeling.build_model("facial_recognition", _NAME).model
    except ImportError as error:
        raise ConfigError(
            f"The encoder is DeepFace, but the package {error.name} is not installed: install the"
            " extra `deepface`, or set USE_LITE_EMBEDDINGS=true."
        ) from error
    return DeepFaceEncoder(model, build())


def _lend(path: Path) -> None:
    """Makes DeepFace find weights that lie elsewhere, in a home of its own beside them."""
    if path.parent.name == "weights" and path.parent.parent.name == ".deepface":
        return
    home = path.parent / "deepface-home"
    place = home / ".deepface" / "weights" / path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(path.resolve())
    os.environ[_HOME] = str(home.resolve())
