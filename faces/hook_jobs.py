"""Events of a CMS gathered in few jobs: a mass edit is no mass of jobs."""

from __future__ import annotations

from typing import Literal

from faces.database import JOBS, Document, translate
from faces.jobs import Jobs

MOST = 500
"""So many keys of each kind are gathered in one job."""


def note(jobs: Jobs, collection: str, event: Literal["changed", "deleted"], key: str) -> str:
    """The id of the job that will look at `key`: one that waits already, else a new one.

    A job that a worker has ever begun takes no more: what is added is certain to be looked at, and
    with as many attempts as any.
    """
    waiting: Document = {
        "kind": "sync",
        "state": "queued",
        "epoch": 0,
        "collection": collection,
        "params.source": None,
        "params.due": None,
        f"params.changed.{MOST - 1}": None,
        f"params.deleted.{MOST - 1}": None,
    }
    with translate():
        found = jobs.db[JOBS].find_one_and_update(
            waiting, {"$addToSet": {f"params.{event}": key}}, projection={"_id": 1}
        )
    return str(found["_id"]) if found else jobs.enqueue("sync", collection, {event: [key]})
