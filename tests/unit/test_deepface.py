"""DeepFace's model encodes our crops as FaceNet wants them, from the published weights only."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from faces import deepface, loading
from faces.errors import ConfigError, ModelFileError
from faces.models import files
from faces.models.cards import card
from faces.settings import Settings

NAME = "facenet512_weights.h5"


class Model:
    """Stands at the seam to Keras: keeps what it is given, answers with sums of the colours."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray, *, training: bool) -> np.ndarray:
        assert not training
        self.given.append(pixels)
        means = pixels.mean(axis=(1, 2))
        return np.concatenate([means * 3, np.ones((len(pixels), 509))], axis=1)


def test_crops_are_given_as_rgb_around_zero_in_small_batches_and_lengths_divided_out() -> None:
    model = Model()
    crops = np.zeros((6, 160, 160, 3), np.uint8)
    crops[..., 0], crops[..., 2] = 255, 64  # blue and red of BGR
    vectors = deepface.DeepFaceEncoder(model, "build").encode(crops)
    assert [len(given) for given in model.given] == [4, 2]
    red, green, blue = model.given[0][0, 0, 0]
    assert (red, green, blue) == pytest.approx((-0.49609375, -0.99609375, 0.99609375))
    assert vectors.shape == (6, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_crops_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        deepface.DeepFaceEncoder(Model(), "build").encode(np.zeros((1, 112, 112, 3), np.uint8))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """The content that the card names here, and an empty home."""
    content = b"weights"
    real = card("facenet512").download
    assert real is not None
    pinned = dataclasses.replace(real, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(deepface, "_download", lambda: pinned)
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "home"))
    return content


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_weights_are_taken_from_deepfaces_home_or_from_ours(
    published: bytes, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match="models fetch facenet512"):
        deepface.weights_path(tmp_path)
    ours = put(files.source_path(tmp_path, NAME), published)
    assert deepface.weights_path(tmp_path) == ours
    theirs = put(tmp_path / "home" / ".deepface" / "weights" / NAME, published)
    assert deepface.weights_path(tmp_path) == theirs


def test_other_weights_are_refused(published: bytes, tmp_path: Path) -> None:
    put(tmp_path / "home" / ".deepface" / "weights" / NAME, published + b"!")
    with pytest.raises(ModelFileError, match="not the published file"):
        deepface.weights_path(tmp_path)


def test_without_the_package_the_error_says_what_to_do(
    published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepface", None)  # as if it were not installed
    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "")
    put(tmp_path / "home" / ".deepface" / "weights" / NAME, published)
    with pytest.raises(ConfigError, match="extra `deepface`"):
        deepface.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "installed", "key", "expected"),
    [
        ({"encoder": "deepface"}, True, "facenet512", True),
        ({"encoder": "deepface"}, True, "sface", True),  # the pipeline's model then tells
        ({"use_lite_embeddings": False}, True, "facenet512", True),
        ({"use_lite_embeddings": False}, True, "sface", False),
        ({"use_lite_embeddings": False}, False, "facenet512", False),
        ({"use_lite_embeddings": True}, True, "facenet512", False),
        ({}, True, "facenet512", True),
        ({}, True, "facenet128", False),
    ],
)
def test_deepface_encodes_where_it_is_asked_for_or_makes_the_wanted_vectors(
    settings: dict[str, object],
    installed: bool,
    key: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "deepface_installed", lambda: installed)
    assert loading._with_deepface(Settings(**settings), key) is expected


def test_the_build_is_the_hash_of_the_published_weights() -> None:
    settings = Settings(encoder="deepface")
    assert loading.encoder_build(settings, "facenet512") == card("facenet512").download.sha256
