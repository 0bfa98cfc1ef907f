"""Calibration gives the steps where the values are, and clips the few that lie far out."""

from __future__ import annotations

import numpy as np

from bench.calibrate import BINS, Histogram, best_range
from faces.models.quantise import scale_and_zero


def histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0])


def error(values: np.ndarray, low: float, high: float) -> float:
    scale, zero = scale_and_zero(low, high)
    stored = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(((stored - zero) * scale - values).__pow__(2).mean())


def test_evenly_spread_values_keep_their_whole_range() -> None:
    values = np.linspace(0, 5, 50_000)
    low, high = best_range(histogram(values))
    assert low == 0
    assert high > 4.9


def test_a_few_values_far_out_are_clipped_for_finer_steps() -> None:
    values = np.append(np.random.default_rng(1).normal(0, 1, 200_000), [40.0, -35.0])
    low, high = best_range(histogram(values))
    assert high < 40
    assert low > -35
    assert error(values, low, high) < error(values, -35.0, 40.0) * 0.8


def test_values_that_never_fall_below_zero_start_at_zero() -> None:
    values = np.random.default_rng(2).exponential(1, 100_000) + 0.5
    assert best_range(histogram(values))[0] == 0.0
