"""What became of a source's earlier jobs, and which are still to be done."""

from __future__ import annotations

import datetime as dt

from faces.database import (
    JOBS,
    Db,
    Document,
    Session,
    in_transaction,
    translate,
)
from faces.jobs import Jobs
from faces.leases import one_after_another

UNFINISHED = ["queued", "running"]


def unfinished(db: Db, kind: str, source: str | None, collection: str) -> bool:
    """Whether a job that will do this work for a source waits or is under way."""
    with translate():
        found = db[JOBS].find_one(_for_source(kind, source, collection, UNFINISHED), {"_id": 1})
    return found is not None


def ask(
    jobs: Jobs,
    source: str | None,
    collection: str,
    *,
    under_way: bool = True,
    since: dt.datetime | None = None,
) -> None:
    """Asks for a reconcile of a source, unless one waits already, or `under_way` is being done.

    Of several workers at once one makes the job. With `since` none is made either when there was
    one after that moment, in whatever way it ended.
    """
    done: list[Document] = [{"created_at": {"$gte": since}}] if since is not None else []
    states = UNFINISHED if under_way else ["queued"]
    there = _for_source("backfill", source, collection, states)
    state = there.pop("state")
    query: Document = {**there, "$or": [{"state": state}, *done]}

    def work(session: Session) -> None:
        one_after_another(jobs.db, f"ask/{source}/{collection}", session)
        if jobs.db[JOBS].find_one(query, {"_id": 1}, session=session) is None:
            params = {"source": source, "trigger": "schedule"}
            jobs.enqueue("backfill", collection, params, session=session)

    in_transaction(jobs.db, work)


def _for_source(kind: str, source: str | None, collection: str, states: list[str]) -> Document:
    """Jobs that do a source's work: no dry run, no other source that fills the collection."""
    return {
        "kind": kind,
        "state": {"$in": states},
        "collection": {"$in": [None, collection]},
        "params.source": {"$in": [None, source]},
        "params.dry_run": {"$ne": True},
    }


def last_success(db: Db, kind: str, source: str | None) -> dt.datetime | None:
    """When the latest of a source's jobs of this kind began that came to a good end."""
    query: Document = {
        "kind": kind,
        "state": "succeeded",
        "result.source": source,
        "result.dry_run": {"$ne": True},
        "result.complete": True,
    }
    with translate():
        found = db[JOBS].find_one(query, {"started_at": 1}, sort=[("_id", -1)])
    return found["started_at"] if found else None
