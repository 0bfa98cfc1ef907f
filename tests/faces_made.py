"""Made-up analyses: faces at given places with vectors of given seeds."""

from __future__ import annotations

import numpy as np

from faces.models.cards import card
from faces.types import Analysis, Box, Detection, Face, Landmarks, Picture, Vector

MODEL = "facenet128"
_LANDMARKS: Landmarks = ((10, 20), (30, 20), (20, 30), (12, 40), (28, 40))


def vector(seed: int, model: str = MODEL) -> Vector:
    """A unit vector that is always the same for a seed; two seeds are far apart."""
    made = np.random.default_rng(seed).standard_normal(card(model).dimensions)
    return (made / np.linalg.norm(made)).astype(np.float32)


def near(seed: int, noise: float, of: int = 0, model: str = MODEL) -> Vector:
    """A unit vector close to `vector(seed)`."""
    made = vector(seed, model) + noise * vector(10_000 + of, model)
    return (made / np.linalg.norm(made)).astype(np.float32)


def face(
    x: float = 0,
    y: float = 10,
    side: float = 50,
    *,
    seed: int | None = 0,
    quality: float = 0.8,
    model: str = MODEL,
) -> Face:
    """A face of `side` pixels at (x, y); without a seed it has no embedding."""
    found = Detection(Box(x, y, side, side), 0.9, _LANDMARKS)
    return Face(found, quality, (), None if seed is None else vector(seed, model))


def analysis(
    *faces: Face, model: str = MODEL, build: str = "b1", size: tuple[int, int] = (1000, 500)
) -> Analysis:
    """What a pipeline would make of a picture with these faces."""
    return Analysis(Picture(*size, "unused"), faces, model, build)


def row_of_faces(*seeds: int, model: str = MODEL) -> Analysis:
    """A picture with a face of each seed, side by side."""
    return analysis(
        *(face(100 * i, seed=seed, model=model) for i, seed in enumerate(seeds)), model=model
    )
