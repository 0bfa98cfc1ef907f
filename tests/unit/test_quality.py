"""What lowers the quality of a face, and by which name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from faces.quality import judge, pose
from faces.types import Box, Detection, Landmarks, Pixels

FRONTAL: Landmarks = ((60.0, 70.0), (100.0, 70.0), (80.0, 92.0), (64.0, 110.0), (96.0, 110.0))
GOOD = Detection(Box(30, 30, 100, 120), 0.93, FRONTAL)
NAMES = {
    "low_confidence",
    "small_bounding_box",
    "low_sharpness",
    "extreme_pose",
    "low_brightness",
    "low_face_quality",
}


def crop(seed: int = 0) -> Image.Image:
    """A crop with detail at every scale, as a face has."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((160, 160, 3))
    for cells, strength in ((4, 40), (10, 25), (40, 12), (80, 6)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        large = np.asarray(noise.resize((160, 160), Image.Resampling.BICUBIC)).astype(float)
        layers += (large - 128) * strength / 64
    return Image.fromarray(np.clip(layers + 140, 0, 255).astype(np.uint8))


def bgr(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def test_a_good_face_is_near_one_without_reasons() -> None:
    quality = judge(GOOD, bgr(crop()))
    assert quality.value > 0.9
    assert quality.reasons == ()


@pytest.mark.parametrize(
    ("detection", "image", "reason"),
    [
        (replace(GOOD, confidence=0.6), crop(), "low_confidence"),
        (replace(GOOD, box=Box(30, 30, 14, 18)), crop(), "small_bounding_box"),
        (GOOD, crop().filter(ImageFilter.GaussianBlur(6)), "low_sharpness"),
        (GOOD, ImageEnhance.Brightness(crop()).enhance(0.12), "low_brightness"),
        (GOOD, Image.new("RGB", (160, 160), (252, 252, 252)), "low_face_quality"),
        (replace(GOOD, landmarks=(*FRONTAL[:2], (120.0, 92.0), *FRONTAL[3:])), crop(),
         "extreme_pose"),
    ],
)  # fmt: skip
def test_each_fault_has_its_reason(detection: Detection, image: Image.Image, reason: str) -> None:
    quality = judge(detection, bgr(image))
    assert quality.value < 0.5
    assert reason in quality.reasons


@pytest.mark.parametrize(
    "worse",
    [
        lambda amount: (GOOD, crop().filter(ImageFilter.GaussianBlur(amount * 5))),
        lambda amount: (GOOD, ImageEnhance.Brightness(crop()).enhance(1 - amount)),
        lambda amount: (GOOD, ImageEnhance.Contrast(crop()).enhance(1 - amount)),
        lambda amount: (replace(GOOD, box=Box(0, 0, 60 - 50 * amount, 80)), crop()),
        lambda amount: (replace(GOOD, confidence=0.93 - 0.4 * amount), crop()),
    ],
    ids=["blur", "darkness", "fog", "size", "confidence"],
)
def test_the_worse_the_lower(worse: object) -> None:
    assert callable(worse)
    values = []
    for amount in (0.05, 0.3, 0.55, 0.8, 0.97):
        detection, image = worse(amount)
        values.append(judge(detection, bgr(image)).value)
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.25


def test_many_small_faults_are_one_low_quality() -> None:
    detection = Detection(Box(0, 0, 32, 40), 0.71, FRONTAL)
    dim = ImageEnhance.Brightness(crop()).enhance(45 / float(np.asarray(crop()).mean()))
    quality = judge(detection, bgr(dim))
    assert 0 < quality.value < 0.25
    assert quality.reasons == ("low_face_quality",)


def test_the_worst_reason_comes_first() -> None:
    detection = replace(GOOD, box=Box(0, 0, 24, 30), confidence=0.55)
    assert judge(detection, bgr(crop())).reasons[:2] == ("low_confidence", "small_bounding_box")


marks = st.tuples(st.floats(-500, 500), st.floats(-500, 500))


@given(
    st.tuples(marks, marks, marks, marks, marks),
    st.floats(0, 1),
    st.floats(0, 1000),
    st.integers(0, 255),
)
def test_it_is_always_a_share_with_known_reasons(
    landmarks: Landmarks, confidence: float, side: float, level: int
) -> None:
    detection = Detection(Box(0, 0, side, side), confidence, landmarks)
    quality = judge(detection, np.full((112, 112, 3), level, np.uint8))
    assert 0 <= quality.value <= 1
    assert set(quality.reasons) <= NAMES
    assert len(set(quality.reasons)) == len(quality.reasons)


@given(st.floats(-math.pi, math.pi), st.floats(0.1, 20), marks)
def test_pose_does_not_depend_on_place_size_or_roll(
    angle: float, scale: float, shift: tuple[float, float]
) -> None:
    turn = complex(scale * math.cos(angle), scale * math.sin(angle))
    there = [turn * complex(*p) + complex(*shift) for p in FRONTAL]
    a, b, c, d, e = ((p.real, p.imag) for p in there)
    assert pose((a, b, c, d, e)) == pytest.approx(pose(FRONTAL), abs=1e-6)


def test_pose_grows_as_the_nose_leaves_the_middle() -> None:
    noses = (80.0, 86.0, 92.0, 98.0, 110.0)
    values = [pose((*FRONTAL[:2], (nose, 92.0), *FRONTAL[3:])) for nose in noses]
    assert values == sorted(values)
    assert values[0] < 0.1
    assert values[-1] > 1.5
