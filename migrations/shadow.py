"""Comparing two models on faces that have both vectors, before anyone depends on the new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faces import documents
from faces.database import FACES, Db, translate
from faces.models.cards import card
from faces.store_models import RESERVED

SAMPLE = 1000
TOP = 10
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Report:
    """How two models differ on a sample of faces.

    `overlap` is the mean share of the ten nearest that both agree on. A pair flips when one model
    puts it at or above its threshold and the other does not.
    """

    faces: int
    overlap: float
    pairs: int
    only_old: int
    only_new: int
    old: str
    new: str

    def lines(self) -> list[str]:
        """The report, as lines to print."""
        return [
            f"compared {self.old} with {self.new} on {self.faces} faces",
            f"the ten nearest faces agree to {self.overlap:.1%}",
            (
                f"of {self.pairs} pairs, {self.only_old} match only by {self.old} and "
                f"{self.only_new} only by {self.new}, each at its own threshold"
            ),
        ]


def compare(old: str, new: str, vectors: Mapping[str, Matrix]) -> Report:
    """The report for the same faces' vectors by both models, (n, dimensions) and of unit length."""
    first, second = _cosines(vectors[old]), _cosines(vectors[new])
    count = len(first)
    top = min(TOP, max(0, count - 1))
    overlap = 1.0
    if top:
        a, b = (np.argsort(-m, axis=1, kind="stable")[:, :top] for m in (first, second))
        shared = [len(set(x) & set(y)) / top for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        overlap = float(np.mean(shared))
    upper = np.triu_indices(count, 1)
    match_old = first[upper] >= card(old).threshold
    match_new = second[upper] >= card(new).threshold
    return Report(
        faces=count,
        overlap=overlap,
        pairs=len(match_old),
        only_old=int(np.sum(match_old & ~match_new)),
        only_new=int(np.sum(match_new & ~match_old)),
        old=old,
        new=new,
    )


def read(db: Db, old: str, new: str, sample: int = SAMPLE) -> Mapping[str, Matrix]:
    """Vectors of both models of at most `sample` faces that have both, the first by id."""
    query = {
        "collection": {"$ne": RESERVED},
        f"builds.{old}": {"$exists": True},
        f"builds.{new}": {"$exists": True},
    }
    fields = {f"embeddings.{key}": 1 for key in (old, new)}
    with translate():
        rows = list(db[FACES].find(query, fields).sort([("_id", 1)]).limit(sample))
    return {
        key: np.asarray(
            [documents.unpack_vector(row["embeddings"][key]) for row in rows], dtype=np.float32
        ).reshape(len(rows), -1)
        for key in (old, new)
    }


def _cosines(vectors: Matrix) -> Matrix:
    """All pairs; a face is not its own neighbour."""
    cosines: Matrix = (vectors @ vectors.T).astype(np.float32)
    np.fill_diagonal(cosines, -2.0)
    return cosines
