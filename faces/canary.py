"""Proof that an index has caught up: a face of nobody, written last and then found.

The index applies the collection's changes in order; when `$vectorSearch` finds the canary, every
write before it is applied too.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable

from faces import documents, search
from faces.database import FACES, LEASES, Db, Document, translate
from faces.errors import IndexNotReady
from faces.models.cards import card
from faces.records import ActiveModel
from faces.search import SearchRequest
from faces.store_models import RESERVED

COLLECTION = RESERVED
"""No collection of a client can have this name."""
LAG = "index-lag"


def prove(
    db: Db,
    active: ActiveModel,
    *,
    deadline_s: float = 60.0,
    tick: Callable[[], None] = lambda: None,
) -> float:
    """Seconds from the canary's write at majority until the index found it.

    `tick` is called while waiting. Raises IndexNotReady after `deadline_s`. The canary is removed
    in every case; one that a crash leaves is removed by the next.
    """
    import numpy as np  # only where there are vectors: a process without faces does without it

    dimensions = card(active.key).dimensions
    random = np.random.default_rng(secrets.randbits(64)).standard_normal(dimensions)
    vector = (random / np.linalg.norm(random)).astype(np.float32)
    name = f"canary/{secrets.token_hex(16)}"
    began = time.monotonic()
    with translate():
        db[FACES].insert_one(_document(name, active, documents.pack_vector(vector)))
    written = time.monotonic()
    request = SearchRequest(collection=COLLECTION, limit=50)
    stage = search.vector_stage(
        active.index,
        search.vector_path(active.key),
        vector,
        50,
        True,
        search.stage_filter(request),
    )
    try:
        while True:
            with translate():
                rows = list(db[FACES].aggregate([stage, {"$project": {"_id": 1}}]))
            if any(row["_id"] == name for row in rows):
                return time.monotonic() - written
            if time.monotonic() - began > deadline_s:
                raise IndexNotReady(
                    f"The vector index {active.index} did not catch up within {deadline_s:.0f} s."
                )
            tick()
            time.sleep(0.05 if time.monotonic() - written < 2 else 0.5)
    finally:
        _sweep(db, name)


def measure(db: Db, active: ActiveModel) -> float:
    """The index lag in seconds, also kept for `last`. Raises IndexNotReady after 30 s."""
    lag = prove(db, active, deadline_s=30.0)
    with translate():
        db[LEASES].update_one(
            {"_id": LAG},
            {"$set": {"kind": "lag", "seconds": lag, "at": dt.datetime.now(dt.UTC)}},
            upsert=True,
        )
    return lag


def last(db: Db) -> tuple[float, dt.datetime] | None:
    """The lag measured last and when, or None."""
    with translate():
        row = db[LEASES].find_one({"_id": LAG})
    return (row["seconds"], row["at"]) if row else None


def _document(name: str, active: ActiveModel, vector: object) -> Document:
    return {
        "_id": name,
        "collection": COLLECTION,
        "media_id": COLLECTION,
        "image_id": COLLECTION,
        "source": COLLECTION,
        "subject_id": None,
        "facets": [],
        "metadata": {},
        "taken_at": None,
        "created_at": documents.utc(dt.datetime.now(dt.UTC)),
        "hidden": False,
        "embeddings": {active.key: vector},
        "builds": {},
    }


def _sweep(db: Db, name: str) -> None:
    """Removes the canary and any that is older than ten minutes."""
    old = documents.utc(dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10))
    with translate():
        db[FACES].delete_one({"_id": name})
        query: Document = {"collection": COLLECTION, "created_at": {"$lt": old}}
        for row in db[FACES].find(query, {"_id": 1}):
            db[FACES].delete_one({"_id": row["_id"]})
