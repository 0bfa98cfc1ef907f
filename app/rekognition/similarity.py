"""The curve between a cosine and the dialect's Similarity of 0 to 100, and back.

With F(c) the model card's measured false-match rate and L(c) = -log10 F(c), the evidence in powers
of ten, T the card's threshold and L going on beyond the last measured point with its last slope:

    Similarity(c) = 80 L(c) / L(T)                         for c <= T
    Similarity(c) = 80 + 20 (L(c) - L(T)) / (L(1) - L(T))  for c >= T

So 80 is the card's threshold with its false-match rate, equal steps below it are equal factors of
that rate, -1 is 0 and 1 is 100. Both directions are straight lines between the same points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from faces.models.cards import ModelCard
from faces.models.curves import Curve

AT_THRESHOLD = 80.0
Knots = tuple[tuple[float, float], ...]
_UNMEASURED = ((-1.0, 0.0), (0.0, 0.125))
"""Of a model without a curve: L in parts of L(T); a cosine of 0 is Similarity 10."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The curve of one model: points (cosine, percent) that rise in both."""

    knots: Knots

    def percent(self, cosine: float) -> float:
        """The Similarity of a cosine, 0 to 100."""
        return _along(cosine, self.knots)

    def cosine(self, percent: float) -> float:
        """The cosine of a Similarity, -1 to 1."""
        return _along(percent, [(p, c) for c, p in self.knots])


def scale(card: ModelCard) -> Scale:
    """The curve of a model, from its card."""
    evidence = _evidence(card.calibration, card.threshold)
    at = _beyond(card.threshold, evidence)
    most = _beyond(1.0, evidence)
    knots = [(c, AT_THRESHOLD * level / at) for c, level in evidence if c < card.threshold]
    knots.append((card.threshold, AT_THRESHOLD))
    knots += [
        (c, AT_THRESHOLD + (100 - AT_THRESHOLD) * (level - at) / (most - at))
        for c, level in evidence
        if card.threshold < c < 1.0
    ]
    return Scale((*knots, (1.0, 100.0)))


def _evidence(curve: Curve, threshold: float) -> list[tuple[float, float]]:
    """Points (cosine, -log10 of the false-match rate), from (-1, 0)."""
    if len(curve) < 2:
        return [*_UNMEASURED, (threshold, 1.0)]
    points = [(-1.0, 0.0)]
    for cosine, rate in curve:
        level = -math.log10(rate)
        if cosine > points[-1][0] and level > points[-1][1]:
            points.append((cosine, level))
    return points


def _beyond(cosine: float, points: Sequence[tuple[float, float]]) -> float:
    """The level at a cosine; past the last point the last two go on."""
    if cosine <= points[-1][0]:
        return _along(cosine, points)
    (c0, l0), (c1, l1) = points[-2:]
    return l1 + (cosine - c1) * (l1 - l0) / (c1 - c0)


def _along(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Linear interpolation; outside the points their nearest end."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (x - x0) * (y1 - y0) / (x1 - x0)
    return points[-1][1]
