"""On real photos the pipeline gives what an independent implementation gave.

It would not if colours, sides, crop or pixel scale were wrong. Accuracy on an easy set does not
show such mistakes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bench.crops import crops_of, photos_in
from faces.encode import OnnxEncoder
from faces.models import files
from faces.models.cards import card
from faces.sessions import open_session

DATA = Path(__file__).resolve().parent.parent / "data" / "facenet128_photos.json"
AGREES = 0.999
Crop = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A sample photo: our crop of it, and the independent matrix and vector."""

    path: Path
    crop: Crop
    matrix: npt.NDArray[np.float64]
    vector: npt.NDArray[np.float64]

    def cut(self, matrix: npt.NDArray[np.float64]) -> Crop:
        """The crop of the whole picture by OpenCV."""
        picture = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        return np.asarray(cv2.warpAffine(picture, matrix, (160, 160), flags=cv2.INTER_LINEAR))


@pytest.fixture(scope="module")
def cases(samples_dir: Path, models_dir: Path) -> list[Case]:
    expected = json.loads(DATA.read_text("utf-8"))["photos"]
    photos = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in photos_in(samples_dir)}
    assert len(expected) >= 12
    paths = [photos[sha] for sha in expected]
    found = list(crops_of(models_dir, card("facenet128"), paths))
    return [
        Case(
            face.path,
            face.crop,  # type: ignore[arg-type]
            np.array(entry["matrix"]).reshape(2, 3),
            np.array(entry["embedding"]),
        )
        for face, entry in zip(found, expected.values(), strict=True)
    ]


@pytest.fixture(scope="module")
def encode(models_dir: Path) -> Callable[[list[Crop]], npt.NDArray[np.float32]]:
    path = files.encoder_path(models_dir, "facenet128")
    encoder = OnnxEncoder(open_session(path), card("facenet128"), "")
    return lambda crops: encoder.encode(np.stack(crops))


def cosines(vectors: npt.NDArray[np.float32], cases: list[Case]) -> npt.NDArray[np.float64]:
    return (vectors * np.stack([case.vector for case in cases])).sum(axis=1)


def test_detection_alignment_and_network_together_give_the_reference_vectors(
    cases: list[Case], encode: Callable[[list[Crop]], npt.NDArray[np.float32]]
) -> None:
    assert cosines(encode([case.crop for case in cases]), cases).min() >= AGREES


def test_the_crops_are_those_of_the_reference(cases: list[Case]) -> None:
    for case in cases:
        difference = np.abs(case.crop.astype(int) - case.cut(case.matrix))
        assert difference.mean() < 2.0, "grey levels"


def plain_crop(case: Case) -> Crop:
    """The same five points without the stretch that FaceNet's training crops had."""
    stretch = np.array([[1.2, 0, 80 - 96], [0, 0.9, 80 - 72 - 6.4], [0, 0, 1]])
    whole = np.vstack([case.matrix, [0, 0, 1]])
    return case.cut((np.linalg.inv(stretch) @ whole)[:2])


def tighter_crop(case: Case) -> Crop:
    """The crop of a box five per cent smaller."""
    grow = np.array([[1.05, 0, -4], [0, 1.05, -4], [0, 0, 1]])
    return case.cut((grow @ np.vstack([case.matrix, [0, 0, 1]]))[:2])


MUTATIONS: dict[str, Callable[[Case], Crop]] = {
    "BGR instead of RGB": lambda case: case.crop[..., ::-1],
    "mirrored": lambda case: case.crop[:, ::-1],
    "another crop": plain_crop,
    "a tighter crop": tighter_crop,
    "pixels divided by 255": lambda case: (case.crop * (128 / 255) + 127.5).astype(np.uint8),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_each_mistake_is_caught(
    mutation: str,
    cases: list[Case],
    encode: Callable[[list[Crop]], npt.NDArray[np.float32]],
) -> None:
    changed = encode([MUTATIONS[mutation](case) for case in cases])
    assert cosines(changed, cases).max() < AGREES
