"""Verification and identification figures from vectors and who they are. Pure.

A genuine pair shows one person twice, an impostor pair two people. A threshold accepts pairs whose
similarity is at or above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
MOST_PAIRS = 4_000_000
BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Pairs:
    """Similarities of pairs, whether each is genuine, and the photos of each as indices."""

    similarity: Floats
    genuine: npt.NDArray[np.bool_]
    first: Labels
    second: Labels


def all_pairs(vectors: npt.NDArray[np.float32], people: Labels, most: int = MOST_PAIRS) -> Pairs:
    """Every pair of different photos of unit vectors (n, d) and their people (n,).

    Above `most` pairs: every genuine pair, and as many impostor pairs as that, drawn at random.
    """
    if len(people) ** 2 / 2 <= most:
        first, second = np.triu_indices(len(vectors), 1)
    else:
        first, second = _drawn_pairs(people, most)
    left = vectors[first].astype(np.float64)
    similarity = np.einsum("nd,nd->n", left, vectors[second])
    return Pairs(similarity, people[first] == people[second], first, second)


def _drawn_pairs(people: Labels, impostors: int) -> tuple[Labels, Labels]:
    random = np.random.default_rng(1)
    members = [np.flatnonzero(people == person) for person in np.unique(people)]
    same = [m[np.stack(np.triu_indices(len(m), 1))] for m in members if len(m) > 1]
    drawn = random.integers(0, len(people), (2, 2 * impostors))
    drawn = drawn[:, people[drawn[0]] != people[drawn[1]]][:, :impostors]
    both = np.concatenate([*same, drawn], axis=1)
    return both[0], both[1]


def area_under_curve(similarity: Floats, genuine: npt.NDArray[np.bool_]) -> float:
    """The chance that a genuine pair is more similar than an impostor pair, ties as a half."""
    order = np.sort(similarity[~genuine])
    wins = similarity[genuine]
    below = np.searchsorted(order, wins, "left")
    upto = np.searchsorted(order, wins, "right")
    return float(((below + upto) / 2).mean() / len(order))


def threshold_at(impostors: Floats, rate: float) -> float:
    """The lowest threshold at which at most the share `rate` of the impostor pairs is accepted."""
    ordered = np.sort(impostors)[::-1]
    allowed = int(np.floor(rate * len(ordered) + 1e-9))
    if allowed >= len(ordered):
        return float(ordered[-1])
    return float(np.nextafter(ordered[allowed], np.inf))


def true_accept_rate(similarity: Floats, genuine: npt.NDArray[np.bool_], rate: float) -> float:
    """The share of genuine pairs accepted where the false-accept rate is at most `rate`."""
    threshold = threshold_at(similarity[~genuine], rate)
    return float((similarity[genuine] >= threshold).mean())


def best_threshold(similarity: Floats, genuine: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold with the highest balanced accuracy, and that accuracy."""
    order = np.argsort(-similarity, kind="stable")
    hits = np.cumsum(genuine[order]) / max(1, genuine.sum())
    false = np.cumsum(~genuine[order]) / max(1, (~genuine).sum())
    balanced = (hits + 1 - false) / 2
    # A threshold can only lie where the next pair is less similar.
    ends = np.append(np.diff(similarity[order]) < 0, True)
    best = int(np.argmax(np.where(ends, balanced, -1)))
    return float(similarity[order][best]), float(balanced[best])


def roc(similarity: Floats, genuine: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(false-accept rates, true-accept rates), both rising, one point a pair."""
    order = np.argsort(-similarity, kind="stable")
    false = np.cumsum(~genuine[order]) / max(1, (~genuine).sum())
    hits = np.cumsum(genuine[order]) / max(1, genuine.sum())
    return np.asarray(false, np.float64), np.asarray(hits, np.float64)


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals of the area under the curve and of the true-accept rate at each rate."""

    auc: tuple[float, float]
    tar: dict[float, tuple[float, float]]


def bootstrap(
    pairs: Pairs, photos: int, rates: Sequence[float], replicates: int, seed: int = 1
) -> Intervals:
    """Intervals by drawing photos with replacement: a pair counts as often as both its photos
    were drawn together. Photos, not pairs, because pairs that share a photo are not independent.
    """
    random = np.random.default_rng(seed)
    order = np.argsort(-pairs.similarity, kind="stable")
    genuine = pairs.genuine[order]
    first, second = pairs.first[order], pairs.second[order]
    areas: list[float] = []
    tars: dict[float, list[float]] = {rate: [] for rate in rates}
    for _ in range(replicates):
        drawn = np.bincount(random.integers(0, photos, photos), minlength=photos)
        weights = (drawn[first] * drawn[second]).astype(np.float64)
        hits, false = np.cumsum(weights * genuine), np.cumsum(weights * ~genuine)
        if not hits[-1] or not false[-1]:
            continue
        areas.append(float((hits * weights * ~genuine).sum() / hits[-1] / false[-1]))
        for rate, found in tars.items():
            last = np.searchsorted(false, rate * false[-1] + 1e-9, "right") - 1
            found.append(float(hits[last] / hits[-1]) if last >= 0 else 0.0)
    return Intervals(_interval(areas), {rate: _interval(found) for rate, found in tars.items()})


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return (0.0, 1.0)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


CURVE_RATES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4)
PAIRS_PER_POINT = 5


def false_match_curve(impostors: Floats) -> list[tuple[float, float]]:
    """(similarity, share of impostor pairs at or above it), as fine as their number allows."""
    usable = [rate for rate in CURVE_RATES if rate * len(impostors) >= PAIRS_PER_POINT]
    points = [(round(threshold_at(impostors, rate), 4), rate) for rate in usable]
    return [(-1.0, 1.0), *points]


def nearest_right(vectors: npt.NDArray[np.float32], people: Labels) -> float | None:
    """The share of photos whose nearest other photo shows the same person, among those who have
    another photo; None where nobody has."""
    nearest = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), BLOCK):
        similarity = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        nearest[start : start + BLOCK] = similarity.argmax(axis=1)
    counts = np.bincount(people)
    asked = counts[people] > 1
    if not asked.any():
        return None
    return float((people[nearest] == people)[asked].mean())
