"""Does a made model give what the file it was made from gives, computed in another way?

For a Keras file the other way is numpy, layer by layer, nothing folded; for SFace the published
graph as it is. For weights that are matched by order, the names in the file are compared too: names
alone cannot be trusted, but an order that contradicts them is wrong.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faces.errors import ModelFileError
from faces.models import files
from faces.models.cards import ModelCard, card
from faces.sessions import open_session

LEAST_COSINE = 0.9999
LEAST_COSINE_INT8 = 0.9
INPUTS = 3

Crops = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parity:
    """The worst cosine and the largest difference of any number, and what they rest on."""

    cosine: float
    difference: float
    least: float
    method: str

    @property
    def holds(self) -> bool:
        """Whether the two agree."""
        return self.cosine >= self.least


def inputs(size: int) -> Crops:
    """Pictures with structure at every scale, the same each time: (n, size, size, 3) uint8."""
    random = np.random.default_rng(20)
    rows, columns = np.mgrid[0:size, 0:size] / size
    pictures = []
    for _ in range(INPUTS):
        waves = np.zeros((size, size, 3))
        for frequency in (1, 2, 4, 8, 16):
            angle, phase = random.uniform(0, 2 * np.pi, (2, 3))
            along = rows[..., None] * np.sin(angle) + columns[..., None] * np.cos(angle)
            waves += np.sin(2 * np.pi * frequency * along + phase)
        pictures.append(np.clip(127 + 40 * waves + random.normal(0, 10, waves.shape), 0, 255))
    return np.stack(pictures).astype(np.uint8)


def check(models_dir: Path, model: ModelCard) -> Parity:
    """Compares a model with what it was made from.

    Raises ModelFileError when a file that this needs is not here, or when the layer names in a
    file of weights contradict their order.
    """
    crops = inputs(model.input_size)
    session = open_session(files.encoder_path(models_dir, model.key))
    found = session.run({session.inputs[0]: crops})[0].astype(np.float64)
    least = LEAST_COSINE
    if model.recipe == "keras":
        expected, method = _from_keras(_source(models_dir, model), crops)
    elif model.recipe == "sface":
        expected, method = _from_published(_source(models_dir, model), crops)
    else:
        base = card(str(model.base))
        expected, method = _from_base(models_dir, base, crops)
        least = LEAST_COSINE_INT8
    cosine = float((found * expected).sum(axis=1).min())
    return Parity(cosine, float(np.abs(found - expected).max()), least, method)


def _source(models_dir: Path, model: ModelCard) -> Path:
    if model.download is None:
        raise ModelFileError(f"{model.key} was not made from a published file.")
    path = files.source_path(models_dir, model.download.name)
    if not path.is_file() or files.sha256_of(path) != model.download.sha256:
        raise ModelFileError(
            f"{model.download.name} is needed for this and is not here or damaged: remove"
            f" {model.file} and run `python -m faces.models fetch {model.key}`."
        )
    return path


def _from_keras(path: Path, crops: Crops) -> tuple[Vectors, str]:
    from faces.models import reference, weights

    network, values = weights.read(path)
    names = weights.order_by_names(path)
    if names is not None:
        stored = [_plain(name) for name in names]
        ours = [_plain(name) for name in values]
        if stored != ours:
            differing = sum(a != b for a, b in zip(stored, ours, strict=True))
            raise ModelFileError(
                f"{path.name}: the names of {differing} layers contradict the order of its weights."
            )
    method = "numpy, layer by layer, nothing folded"
    if names is not None:
        method += f"; the names of all {len(names)} layers agree with their order"
    return reference.embed(network, values, crops), method


def _plain(name: str) -> str:
    """A layer's name without the branch number, which the published code miscounts."""
    return re.sub(r"(Block(?:17|8)_\d+_Branch)_(?!0)\d+", r"\1_1", name)


def _from_published(path: Path, crops: Crops) -> tuple[Vectors, str]:
    import onnx

    model = onnx.load(str(path))
    images = [value for value in model.graph.input if value.name == "data"]
    del model.graph.input[:]  # its constants are listed there too, which the runtime refuses
    model.graph.input.extend(images)
    planes = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "published.onnx"
        onnx.save(model, str(plain))
        session = open_session(plain)
        vectors = np.concatenate([session.run({"data": plane[None]})[0] for plane in planes])
    vectors = vectors.astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit, "the published graph as it is"


def _from_base(models_dir: Path, base: ModelCard, crops: Crops) -> tuple[Vectors, str]:
    session = open_session(files.encoder_path(models_dir, base.key))
    vectors = session.run({session.inputs[0]: crops})[0].astype(np.float64)
    return vectors, f"{base.key} in float32"
