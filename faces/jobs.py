"""Job documents: work with progress, a heartbeat and one holder at a time, on server time.

A job's claim has an epoch that grows with each claim; a holder that was thought dead and comes back
is told so by its next progress call. Crashes count as attempts.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Collection, Mapping
from typing import Any

from pymongo import ReturnDocument

from faces import cursors, documents
from faces.database import (
    JOB_FAILURES,
    JOBS,
    Db,
    Document,
    Session,
    in_transaction,
    insert_new,
    translate,
)
from faces.errors import Conflict, NotFound
from faces.leases import Holder, one_after_another
from faces.presence import WORKER, Presence
from faces.records import Job, JobFailure, JobState, Page

LEASE_S = 30.0
MAX_ATTEMPTS = 5
MAX_ERROR = 500
UNSTOPPABLE = ("erase", "delete_collection", "delete_subject")
"""What hides objects at once has to finish; it cannot be cancelled."""

_OWN = ("params.changed", "params.deleted", "params.face_ids", "checkpoint", "cursor")
"""What only the job's worker needs; it may be half a megabyte."""
_NOW_MS: Document = {"$toLong": "$$NOW"}
_LIVE: Document = {"$gt": [{"$ifNull": ["$expires_ms", 0]}, _NOW_MS]}


class Jobs:
    """Creates, reads, claims and ends jobs."""

    def __init__(self, db: Db) -> None:
        self._db = self.db = db
        self._presence = Presence(db)

    def enqueue(
        self,
        kind: str,
        collection: str | None,
        params: Mapping[str, Any],
        *,
        session: Session | None = None,
    ) -> str:
        """The id of a new queued job; with a session, part of its transaction."""
        document = _new(kind, collection, params)
        if session is not None:
            self._db[JOBS].insert_one(document, session=session)
        else:
            insert_new(self._db, JOBS, document)
        job_id: str = document["_id"]
        return job_id

    def begin(
        self, kind: str, collection: str | None, params: Mapping[str, Any], holder: Holder
    ) -> Document:
        """A new job that `holder` works on already: for a command that is its own worker."""
        document = _new(kind, collection, params)
        job_id = document.pop("_id")
        born = {"$set": {name: {"$literal": value} for name, value in document.items()}}
        with translate():
            claimed = self._db[JOBS].find_one_and_update(
                {"_id": job_id},
                [born, *_claimed_by(holder)],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        if claimed is None:
            raise Conflict("The job could not be made: try again.")
        return claimed

    def start(self, kind: str, collection: str | None, *, dry_run: bool = False) -> str:
        """The id of the unfinished job of this kind, else of a new one.

        Of any number of callers at once, in any processes, one makes the job and all get its id.
        """
        door = f"start/{kind}/{collection or ''}/{dry_run}"
        query: Document = {
            "kind": kind,
            "state": {"$in": ["queued", "running"]},
            "cancelling": False,
            "params.dry_run": True if dry_run else {"$ne": True},
        }
        if collection is not None:
            query["collection"] = collection

        def work(session: Session) -> str:
            one_after_another(self._db, door, session)
            found = self._db[JOBS].find_one(query, {"_id": 1}, sort=[("_id", 1)], session=session)
            if found is not None:
                return str(found["_id"])
            return self.enqueue(kind, collection, {"dry_run": dry_run}, session=session)

        return in_transaction(self._db, work)

    def get(self, job_id: str, collections: Collection[str] | None = None) -> Job:
        """One job. Raises NotFound, also when it is of none of `collections`."""
        rows = self._rows([{"$match": {"_id": job_id}}])
        if not rows or not _allowed(rows[0], collections):
            raise NotFound("There is no such job.")
        return self._record(rows[0], self._presence.alive(WORKER))

    def page(
        self, limit: int, cursor: str | None, collections: Collection[str] | None = None
    ) -> Page[Job]:
        """Jobs, newest first."""
        scope = ("jobs",)
        after = cursors.decode(cursor, scope, (str,))
        query: Document = {}
        if after:
            query["_id"] = {"$lt": after[0]}
        if collections is not None:
            query["collection"] = {"$in": sorted(collections)}
        rows = self._rows([{"$match": query}, {"$sort": {"_id": -1}}, {"$limit": limit + 1}])
        more = len(rows) > limit
        rows = rows[:limit]
        alive = self._presence.alive(WORKER) if rows else False
        return Page(
            tuple(self._record(row, alive) for row in rows),
            cursors.encode(scope, (rows[-1]["_id"],)) if more else None,
        )

    def failures(self, job_id: str, limit: int, cursor: str | None) -> Page[JobFailure]:
        """What a job could not do, by key."""
        scope = ("failures", job_id)
        after = cursors.decode(cursor, scope, (str,))
        query: Document = {"job_id": job_id}
        if after:
            query["_id"] = {"$gt": after[0]}
        with translate():
            found = self._db[JOB_FAILURES].find(query)
            rows = list(found.sort([("job_id", 1), ("_id", 1)]).limit(limit + 1))
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(
            tuple(
                JobFailure(row["key"], row["error"], row["detail"], row["finished_at"])
                for row in rows
            ),
            cursors.encode(scope, (rows[-1]["_id"],)) if more else None,
        )

    def cancel(self, job_id: str) -> Job:
        """The job, asked to stop; one that no worker has begun is cancelled at once.

        Raises Conflict for a kind that has to finish.
        """
        job = self.get(job_id)
        if job.kind in UNSTOPPABLE:
            raise Conflict("This job cannot be cancelled: what it removes is hidden already.")
        now = documents.utc(dt.datetime.now(dt.UTC))
        waits = {"$eq": ["$state", "queued"]}
        # At once: one that waits for another's lease is taken up and put back every few seconds.
        told = {
            "cancelling": True,
            "state": {"$cond": [waits, "cancelled", "$state"]},
            "finished_at": {"$cond": [waits, now, "$$REMOVE"]},
        }
        with translate():
            self._db[JOBS].update_one(
                {"_id": job_id, "state": {"$in": ["queued", "running"]}}, [{"$set": told}]
            )
        return self.get(job_id)

    def came_to_nothing(self, job_id: str, session: Session) -> bool:
        """Whether a job failed, or is not there any more: what it was to do needs another."""
        job = self._db[JOBS].find_one({"_id": job_id}, {"state": 1}, session=session)
        return job is None or job["state"] == "failed"

    def active(self, kind: str, collection: str | None = None) -> Job | None:
        """The oldest unfinished job of a kind, or None."""
        query: Document = {"kind": kind, "state": {"$in": ["queued", "running"]}}
        if collection is not None:
            query["collection"] = collection
        rows = self._rows([{"$match": query}, {"$sort": {"_id": 1}}, {"$limit": 1}])
        return self._record(rows[0], self._presence.alive(WORKER)) if rows else None

    def last(self, kind: str, collection: str | None = None) -> Job | None:
        """The newest job of a kind in any state, or None."""
        query: Document = {"kind": kind}
        if collection is not None:
            query["collection"] = collection
        rows = self._rows([{"$match": query}, {"$sort": {"_id": -1}}, {"$limit": 1}])
        return self._record(rows[0], self._presence.alive(WORKER)) if rows else None

    def claimable(self, kinds: Collection[str], only: Document | None = None) -> bool:
        """Whether `claim` would find something for these kinds now."""
        return any(_free(row) for row in self._open(kinds, only))

    def claim(
        self, kinds: Collection[str], holder: Holder, only: Document | None = None
    ) -> Document | None:
        """The oldest job of these kinds that nobody works on, now held by `holder`; or None.

        `only` is a filter that it has to pass.

        A running job is taken over when its lease ran out, or at once when its holder was a
        process of this machine that died.
        """
        for row in self._open(kinds, only):
            if not _free(row):
                continue
            if row["attempts"] >= MAX_ATTEMPTS and row["kind"] not in UNSTOPPABLE:
                gave_up = f"Gave up after {MAX_ATTEMPTS} attempts that never finished."
                self.end(row["_id"], row["epoch"], "failed", error=gave_up, state_was=row["state"])
                continue
            with translate():
                claimed = self._db[JOBS].find_one_and_update(
                    {
                        "_id": row["_id"],
                        "epoch": row["epoch"],
                        "state": row["state"],
                        # As it was seen: a heartbeat in between keeps it with its holder.
                        "expires_ms": row["expires_ms"],
                    },
                    _claimed_by(holder),
                    return_document=ReturnDocument.AFTER,
                )
            if claimed is not None:
                return claimed
        return None

    def end(
        self,
        job_id: str,
        epoch: int,
        state: str,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
        state_was: str = "running",
    ) -> bool:
        """Whether the job ended now; false when a later claim has it."""
        changes: Document = {
            "state": state,
            "finished_at": documents.utc(dt.datetime.now(dt.UTC)),
            "expires_ms": 0,
        }
        if result is not None:
            changes["result"] = dict(result)
        if error is not None:
            changes["last_error"] = error[:MAX_ERROR]
        with translate():
            changed = self._db[JOBS].update_one(
                {"_id": job_id, "epoch": epoch, "state": state_was}, {"$set": changes}
            )
        return bool(changed.matched_count)

    def put_back(self, job_id: str, epoch: int, *, wait_s: float, error: str | None) -> None:
        """Queues a claimed job again, not to be claimed for `wait_s` seconds.

        Without an error (a worker that stops) the attempt is not counted.
        """
        update: Document = {"state": "queued", **lease_until(wait_s)}
        if error is None:
            update["attempts"] = {"$subtract": ["$attempts", 1]}
        else:
            update["last_error"] = {"$literal": error[:MAX_ERROR]}
        with translate():
            self._db[JOBS].update_one(
                {"_id": job_id, "epoch": epoch, "state": "running"},
                [{"$set": update}, {"$unset": "holder"}],
            )

    def _open(self, kinds: Collection[str], only: Document | None) -> list[Document]:
        query = {"kind": {"$in": sorted(kinds)}, "state": {"$in": ["queued", "running"]}}
        # Those that were put back for a while are no hindrance, however many they are.
        due = {"$or": [{"state": "running"}, {"$expr": {"$not": [_LIVE]}}]}
        return self._rows(
            [
                {"$match": {**query, **(only or {})}},
                {"$match": due},
                {"$sort": {"_id": 1}},
                {"$limit": 200},
            ]
        )

    def _rows(self, stages: list[Document]) -> list[Document]:
        with translate():
            added: list[Document] = [{"$unset": list(_OWN)}, {"$set": {"live": _LIVE}}]
            return list(self._db[JOBS].aggregate([*stages, *added]))

    def _record(self, row: Document, worker_alive: bool) -> Job:
        state: JobState = (
            "stalled" if row["state"] == "running" and not row["live"] else row["state"]
        )
        waiting = state in ("queued", "stalled") and not worker_alive
        return Job(
            job_id=row["_id"],
            kind=row["kind"],
            state=state,
            collection=row["collection"],
            params=row["params"],
            done=row["done"],
            total=row["total"],
            faces=row["faces"],
            skipped=row["skipped"],
            failed=row["failed"],
            attempts=row["attempts"],
            created_at=row["created_at"],
            started_at=row.get("started_at"),
            heartbeat_at=row.get("heartbeat_at"),
            finished_at=row.get("finished_at"),
            eta_s=_eta(row),
            last_error=row.get("last_error"),
            waiting_for="worker" if waiting else None,
            cancelling=row["cancelling"],
            result=row.get("result"),
        )


def lease_until(seconds: float) -> Document:
    """The fields of a pipeline update that hold a job for so many seconds of server time."""
    return {"expires_ms": {"$add": [_NOW_MS, int(seconds * 1000)]}, "heartbeat_at": "$$NOW"}


def _new(kind: str, collection: str | None, params: Mapping[str, Any]) -> Document:
    return {
        "_id": new_job_id(),
        "kind": kind,
        "collection": collection,
        "params": dict(params),
        "state": "queued",
        "done": 0,
        "total": None,
        "faces": 0,
        "skipped": 0,
        "failed": 0,
        "attempts": 0,
        "epoch": 0,
        "expires_ms": 0,
        "created_at": documents.utc(dt.datetime.now(dt.UTC)),
        "cancelling": False,
    }


def _claimed_by(holder: Holder) -> list[Document]:
    """The pipeline update that gives a job to `holder`."""
    return [
        {
            "$set": {
                "state": "running",
                "epoch": {"$add": ["$epoch", 1]},
                "attempts": {"$add": ["$attempts", 1]},
                "holder": {"$literal": holder.document()},
                "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
                "claimed_at": "$$NOW",
                "claimed_done": "$done",
                **lease_until(LEASE_S),
            }
        }
    ]


def new_job_id() -> str:
    """An id that sorts by creation time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def _free(row: Document) -> bool:
    if not row["live"]:
        return True
    return row["state"] == "running" and Holder.of(row["holder"]).gone()


def _allowed(row: Document, collections: Collection[str] | None) -> bool:
    return collections is None or row["collection"] in collections


def _eta(row: Document) -> float | None:
    """Seconds left at the pace of this claim: an attempt before it may be hours ago."""
    if row["state"] != "running" or not row["total"]:
        return None
    began, beat = row.get("claimed_at"), row.get("heartbeat_at")
    ahead = row["done"] - row.get("claimed_done", 0)
    if began is None or beat is None or ahead <= 0:
        return None
    elapsed: float = (beat - began).total_seconds()
    left: float = elapsed * (row["total"] - row["done"]) / ahead
    return round(max(0.0, left), 1)
