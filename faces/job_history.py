"""What became of a source's earlier jobs, and which are still to be done."""

from __future__ import annotations

import datetime as dt

from faces.database import JOBS, Db, Document, translate


def unfinished(db: Db, kind: str, source: str | None, collection: str, *, under_way: bool) -> bool:
    """Whether a job that will do this work for a source waits, or `under_way` is being done.

    A dry run does not do it, nor does the job of another source that fills the same collection.
    """
    query: Document = {
        "kind": kind,
        "state": {"$in": ["queued", "running"] if under_way else ["queued"]},
        "collection": {"$in": [None, collection]},
        "params.source": {"$in": [None, source]},
        "params.dry_run": {"$ne": True},
    }
    with translate():
        return db[JOBS].find_one(query, {"_id": 1}) is not None


def last_success(db: Db, kind: str, source: str | None) -> dt.datetime | None:
    """When the latest of a source's jobs of this kind began that came to a good end."""
    query: Document = {
        "kind": kind,
        "state": "succeeded",
        "result.source": source,
        "result.dry_run": {"$ne": True},
    }
    with translate():
        found = db[JOBS].find_one(query, {"started_at": 1}, sort=[("_id", -1)])
    return found["started_at"] if found else None
