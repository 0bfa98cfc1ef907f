"""The gate before a quantised index: what it finds against what is really nearest."""

from __future__ import annotations

from collections.abc import Sequence

from faces import documents, search
from faces.database import FACES, Db, Document, translate
from faces.errors import Conflict
from faces.records import ActiveModel
from faces.store_models import RESERVED
from faces.types import Vector

LEAST = 0.98
QUERIES = 100
TOP = 10


def recall(found: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """The mean share of the true nearest that were found; 1.0 without queries."""
    shares = [
        len(set(got) & set(true)) / len(true)
        for got, true in zip(found, truth, strict=True)
        if true
    ]
    return sum(shares) / len(shares) if shares else 1.0


def measure(db: Db, model: ActiveModel, exact: ActiveModel, queries: int = QUERIES) -> float:
    """recall@10 of `model`'s index, approximate, against `exact`'s, for stored faces."""
    path = search.vector_path(model.key)
    query = {"collection": {"$ne": RESERVED}, path: {"$exists": True}}
    with translate():
        rows = list(
            db[FACES].aggregate(
                [{"$match": query}, {"$sample": {"size": queries}}, {"$project": {path: 1}}]
            )
        )
    vectors = [documents.unpack_vector(row["embeddings"][model.key]) for row in rows]
    found = [_nearest(db, model, vector, exact=False) for vector in vectors]
    truth = [_nearest(db, exact, vector, exact=True) for vector in vectors]
    return recall(found, truth)


def check(db: Db, model: ActiveModel, exact: ActiveModel) -> float:
    """The recall. Raises Conflict when it is below 0.98: the index is not switched to."""
    value = measure(db, model, exact)
    if value < LEAST:
        raise Conflict(
            f"recall@10 of {model.index} is {value:.3f}, below {LEAST}: it is not switched to. "
            "`python -m migrations model prune` drops it."
        )
    return value


def _nearest(db: Db, model: ActiveModel, vector: Vector, *, exact: bool) -> list[str]:
    stage: Document = search.vector_stage(
        model.index, search.vector_path(model.key), vector, TOP, exact, {"hidden": {"$eq": False}}
    )
    with translate():
        return [row["_id"] for row in db[FACES].aggregate([stage, {"$project": {"_id": 1}}])]
