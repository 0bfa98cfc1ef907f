"""Verification and identification figures from vectors and who they are. Pure.

A genuine pair shows one person twice, an impostor pair two people. A threshold accepts pairs whose
similarity is at or above it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Similarities of pairs, whether each is genuine, and the photos of each as indices."""

    similarity: Floats
    genuine: npt.NDArray[np.bool_]
    first: Labels
    second: Labels


def all_pairs(vectors: npt.NDArray[np.float32], people: Labels) -> Pairs:
    """Every pair of different photos of unit vectors (n, d) and their people (n,)."""
    first, second = np.triu_indices(len(vectors), 1)
    similarity = (vectors.astype(np.float64) @ vectors.astype(np.float64).T)[first, second]
    return Pairs(similarity, people[first] == people[second], first, second)


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


def nearest_right(vectors: npt.NDArray[np.float32], people: Labels) -> float | None:
    """The share of photos whose nearest other photo shows the same person, among those who have
    another photo; None where nobody has."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    counts = np.bincount(people)
    asked = counts[people] > 1
    if not asked.any():
        return None
    return float((people[similarity.argmax(axis=1)] == people)[asked].mean())
