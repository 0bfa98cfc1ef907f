"""Measured curves of similarity against false-match rate, one for each model.

Made by `python -m bench accuracy --data var/samples --model KEY` (`false_match_curve` in its JSON).
A rate that fewer than five impostor pairs would show is not given.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType

Curve = tuple[tuple[float, float], ...]

MEASURED_ON = "the 118 sample photos of five people, 5,549 impostor pairs"
_RATES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_SIMILARITIES = {
    "facenet128": (
        -1.0,
        -0.0306,
        0.0258,
        0.0634,
        0.1145,
        0.1573,
        0.2103,
        0.2422,
        0.2718,
        0.2871,
        0.3197,
    ),
    "facenet128-int8": (
        -1.0,
        -0.0316,
        0.0250,
        0.0625,
        0.1136,
        0.1576,
        0.2084,
        0.2436,
        0.2738,
        0.2941,
        0.3163,
    ),
    "sface": (
        -1.0,
        0.0760,
        0.1160,
        0.1430,
        0.1794,
        0.2063,
        0.2428,
        0.2683,
        0.2871,
        0.3062,
        0.3385,
    ),
    "sface-int8": (
        -1.0,
        0.0743,
        0.1155,
        0.1419,
        0.1760,
        0.2059,
        0.2368,
        0.2601,
        0.2848,
        0.2988,
        0.3275,
    ),
}
CURVES: Mapping[str, Curve] = MappingProxyType(
    {key: tuple(zip(values, _RATES, strict=True)) for key, values in _SIMILARITIES.items()}
)


def interpolate(curve: Curve, similarity: float) -> float | None:
    """The rate at `similarity` on a curve whose similarities rise and rates fall; None without one.

    On a logarithmic scale between the points; beyond the last point its rate, since fewer false
    matches could not be told from none.
    """
    if not curve:
        return None
    if similarity <= curve[0][0]:
        return curve[0][1]
    for (low, upper), (high, lower) in itertools.pairwise(curve):
        if similarity <= high:
            share = (similarity - low) / (high - low)
            return float(upper ** (1 - share) * lower**share)
    return curve[-1][1]
