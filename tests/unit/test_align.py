"""The geometry of alignment, as laws that hold for every face."""

from __future__ import annotations

import cmath
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from faces import align
from faces.types import Landmarks, Point

coordinates = st.floats(-5000, 5000)
points = st.tuples(coordinates, coordinates)
landmarks = st.tuples(points, points, points, points, points)
scales = st.floats(0.05, 50)
angles = st.floats(-math.pi, math.pi)
alignments = st.sampled_from(sorted(align.TEMPLATES))


def moved(face: Landmarks, scale: float, angle: float, shift: Point) -> Landmarks:
    turn = cmath.rect(scale, angle)
    a, b, c, d, e = (turn * complex(*p) + complex(*shift) for p in face)
    return (
        (a.real, a.imag),
        (b.real, b.imag),
        (c.real, c.imag),
        (d.real, d.imag),
        (e.real, e.imag),
    )


def close(one: Point, other: Point, tolerance: float) -> bool:
    return math.dist(one, other) <= tolerance


def spread(face: Landmarks) -> float:
    x, y = sum(p[0] for p in face) / 5, sum(p[1] for p in face) / 5
    return max(math.dist(p, (x, y)) for p in face)


@given(scales, angles, points, alignments)
def test_a_moved_template_is_brought_home(
    scale: float, angle: float, shift: Point, alignment: str
) -> None:
    home = align.matrix(align.ARCFACE, alignment)
    there = align.matrix(moved(align.ARCFACE, scale, angle, shift), alignment)
    for before, after in zip(align.ARCFACE, moved(align.ARCFACE, scale, angle, shift), strict=True):
        assert close(align.apply(home, before), align.apply(there, after), 1e-3)


@given(landmarks, scales, angles, points, alignments)
def test_the_crop_moves_with_the_face(
    face: Landmarks, scale: float, angle: float, shift: Point, alignment: str
) -> None:
    assume(spread(face) > 1)
    after = moved(face, scale, angle, shift)
    assume(spread(after) > 1)
    try:
        one, other = align.matrix(face, alignment), align.matrix(after, alignment)
    except ValueError:
        assume(False)
    for before, then in zip(face, after, strict=True):
        assert close(align.apply(one, before), align.apply(other, then), 0.1)


@given(landmarks, points)
def test_a_similarity_keeps_angles_and_never_mirrors(face: Landmarks, point: Point) -> None:
    assume(spread(face) > 1)
    a, b, _, d, e, _ = align.similarity(face, align.ARCFACE)
    assert a == e
    assert b == -d
    assert a * e - b * d >= 0


@given(landmarks)
def test_no_similarity_fits_better(face: Landmarks) -> None:
    assume(spread(face) > 1)

    def error(affine: align.Affine) -> float:
        pairs = zip(face, align.ARCFACE, strict=True)
        return sum(math.dist(align.apply(affine, p), q) ** 2 for p, q in pairs)

    best = align.similarity(face, align.ARCFACE)
    for scale, angle, x, y in ((1.01, 0, 0, 0), (1, 0.01, 0, 0), (1, 0, 0.1, 0), (1, 0, 0, 0.1)):
        turn = cmath.rect(scale, angle)
        nudge = (turn.real, -turn.imag, float(x), turn.imag, turn.real, float(y))
        assert error(align.compose(nudge, best)) >= error(best) - 1e-6


@given(st.tuples(*[st.floats(-100, 100)] * 6), points)
def test_an_inverse_leads_back(affine: align.Affine, point: Point) -> None:
    a, b, _, d, e, _ = affine
    assume(abs(a * e - b * d) > 0.1)
    there_and_back = align.compose(align.invert(affine), affine)
    assert close(align.apply(there_and_back, point), point, 1e-3)


@given(st.tuples(*[st.floats(-9, 9)] * 6), st.tuples(*[st.floats(-9, 9)] * 6), points)
def test_composition_applies_the_inner_map_first(
    outer: align.Affine, inner: align.Affine, point: Point
) -> None:
    composed = align.apply(align.compose(outer, inner), point)
    assert close(composed, align.apply(outer, align.apply(inner, point)), 1e-5)


@given(landmarks, alignments, points)
def test_a_placement_is_the_matrix_seen_from_the_crop(
    face: Landmarks, alignment: str, pixel: Point
) -> None:
    assume(spread(face) > 1)
    forward = align.matrix(face, alignment)
    a, b, _, d, e, _ = forward
    assume(abs(a * e - b * d) > 1e-6)
    back = align.placement(face, alignment)
    x, y = align.apply(forward, pixel)
    # Pixel centres are half a pixel from the corner on both sides.
    assert close(align.apply(back, (x + 0.5, y + 0.5)), (pixel[0] + 0.5, pixel[1] + 0.5), 0.5)


@pytest.mark.parametrize("alignment", sorted(align.TEMPLATES))
def test_landmarks_in_one_point_have_no_crop(alignment: str) -> None:
    p = (3.0, 4.0)
    with pytest.raises(ValueError, match="coincide"):
        align.matrix((p, p, p, p, p), alignment)


def test_facenet5_stretches_about_the_middle_and_moves_up() -> None:
    at_home = moved(align.ARCFACE, 160 / 112, 0, (0, 0))
    forward = align.matrix(at_home, "facenet5")
    assert align.apply(forward, (80, 80)) == pytest.approx((80, 80 - 6.4))
    assert align.apply(forward, (90, 90)) == pytest.approx((92, 89 - 6.4))


def test_sface_is_the_plain_template() -> None:
    forward = align.matrix(align.ARCFACE, "sface")
    assert forward == pytest.approx((1, 0, 0, 0, 1, 0), abs=1e-9)
