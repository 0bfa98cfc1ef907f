"""The curve of Similarity: rising, invertible, and 80 where the card says."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rekognition.similarity import scale
from faces.models import cards

KEYS = sorted(cards.CARDS)
COSINES = st.floats(-1, 1)
PERCENTS = st.floats(0, 100)


@pytest.mark.parametrize("key", KEYS)
def test_the_default_is_the_cards_threshold(key: str) -> None:
    card = cards.card(key)
    curve = scale(card)
    assert curve.percent(card.threshold) == pytest.approx(80)
    assert curve.cosine(80.0) == pytest.approx(card.threshold)
    assert (curve.percent(-1.0), curve.percent(1.0)) == (0, 100)
    assert (curve.cosine(0.0), curve.cosine(100.0)) == (-1, 1)


@given(st.sampled_from(KEYS), COSINES, COSINES)
def test_more_alike_is_more_similar(key: str, one: float, other: float) -> None:
    curve = scale(cards.card(key))
    low, high = sorted((one, other))
    assert curve.percent(low) <= curve.percent(high)
    if high - low > 1e-9:
        assert curve.percent(low) < curve.percent(high)


@given(st.sampled_from(KEYS), COSINES, PERCENTS)
def test_both_directions_undo_each_other(key: str, cosine: float, percent: float) -> None:
    curve = scale(cards.card(key))
    assert curve.cosine(curve.percent(cosine)) == pytest.approx(cosine, abs=1e-9)
    assert curve.percent(curve.cosine(percent)) == pytest.approx(percent, abs=1e-9)


def test_equal_steps_below_the_threshold_are_equal_factors_of_the_false_match_rate() -> None:
    curve = ((-1.0, 1.0), (0.0, 0.1), (0.5, 0.01), (0.6, 0.001), (0.7, 0.0001))
    made = scale(dataclasses.replace(cards.card("sface"), threshold=0.7, calibration=curve))
    assert [made.percent(c) for c in (-1, 0.0, 0.5, 0.6, 0.7)] == pytest.approx([0, 20, 40, 60, 80])


def test_beyond_the_last_measured_point_its_slope_goes_on() -> None:
    curve = ((-1.0, 1.0), (0.0, 0.1), (0.2, 0.01))
    made = scale(dataclasses.replace(cards.card("sface"), threshold=0.4, calibration=curve))
    # L is 1 at 0, 2 at 0.2 and so 3 at 0.4.
    assert made.percent(0.2) == pytest.approx(80 * 2 / 3)
    assert made.percent(0.7) == pytest.approx(90)


def test_points_beyond_the_threshold_bend_the_upper_part() -> None:
    curve = ((-1.0, 1.0), (0.0, 0.1), (0.5, 0.01), (0.75, 0.001))
    made = scale(dataclasses.replace(cards.card("sface"), threshold=0.0, calibration=curve))
    # L(1) is 4: of the upper 20 a third each for a factor of ten.
    assert made.percent(0.5) == pytest.approx(80 + 20 / 3)
    assert made.percent(0.75) == pytest.approx(80 + 40 / 3)
