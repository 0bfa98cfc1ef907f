"""docs/rekognition.md names every operation and member, and shows the numbers that hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from app.rekognition import faults, images
from app.rekognition.details import model_version
from app.rekognition.model import OPERATIONS
from app.rekognition.similarity import scale
from faces.models import cards

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "rekognition.md").read_text()
SECTIONS = dict(re.findall(r"^###? (.+)\n((?:(?!^##).*\n)*)", TEXT, re.MULTILINE))


@pytest.fixture(scope="module")
def model() -> Any:
    return botocore.session.Session().get_service_model("rekognition")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_member_of_an_operation_is_in_its_table(name: str, model: Any) -> None:
    described = model.operation_model(name)
    for members in (described.input_shape.members, described.output_shape.members):
        for member in members:
            assert f"`{member}`" in SECTIONS[name], member


@pytest.mark.parametrize("name", ["Image", "Face", "FaceDetail"])
def test_every_member_of_the_shared_shapes_is_named(name: str, model: Any) -> None:
    for member in model.shape_for(name).members:
        assert f"`{member}`" in SECTIONS[name], member


def test_the_curve_and_the_versions_are_those_of_the_code() -> None:
    for key in cards.CARDS:
        curve = scale(cards.card(key))
        numbers = [f"{curve.cosine(percent):.3f}" for percent in (20, 40, 60, 80, 90, 95)]
        assert f"| `{key}` | {' | '.join(numbers)} |" in SECTIONS["Similarity"]
        assert f"| `{key}` | `{model_version(key)}` |" in SECTIONS["Model versions"]
    assert len({model_version(key) for key in cards.CARDS}) == len(cards.CARDS)


def test_the_bars_of_the_quality_filter_are_those_of_the_code() -> None:
    for name, least in images.BARS.items():
        assert f"| `{name}` | {least:g} |" in SECTIONS["Quality"]


def test_every_error_is_named() -> None:
    ours = {kind.name for kind in faults.Fault.__subclasses__()} | set(faults.NAMES.values())
    unlisted = {name for name in ours if f"`{name}`" not in SECTIONS["Errors"]}
    # What only a broken connection or an oversized list can meet.
    assert unlisted <= {"RequestTimeoutException", "RequestEntityTooLargeException"}
