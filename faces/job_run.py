"""Running jobs: one at a time, with a heartbeat, throttled progress, and an end in every case."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar

import structlog
from pymongo import ReturnDocument

from faces import documents
from faces.database import JOB_FAILURES, JOBS, Document, Session, in_transaction, translate
from faces.errors import LeaseLost, LikenessError, NotFound, StorageFull, Unavailable
from faces.jobs import LEASE_S, MAX_ATTEMPTS, MAX_ERROR, UNSTOPPABLE, Jobs, lease_until
from faces.leases import JOB_FENCE, Fence, Holder, check_fence
from faces.records import Job
from faces.store import Store

FLUSH_S = 0.5
T = TypeVar("T")
_COUNTERS = ("done", "total", "faces", "skipped", "failed")


class Cancelled(Exception):
    """The job was asked to stop."""


class PutBack(Exception):
    """The worker stops, or the job has to wait: it is queued again and no attempt is counted."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__()


class Replaced(NotFound):
    """What the job was about is gone, and another of the same name is there, which stays as it is.

    So it is when a job was cut after its last write, or had to wait: it is run again later.
    """


class JobRun:
    """A claimed job as its handler sees it. Progress calls raise `Cancelled` and `LeaseLost`."""

    def __init__(self, store: Store, document: Document, stopping: threading.Event) -> None:
        self.store = store
        self.job_id: str = document["_id"]
        self.kind: str = document["kind"]
        self.collection: str | None = document["collection"]
        self.params: Mapping[str, Any] = document["params"]
        self.cursor: Any = document.get("cursor")
        self.state: dict[str, Any] = dict(document.get("checkpoint") or {})
        self.started_at: dt.datetime = document["started_at"]
        self.attempts: int = document["attempts"]
        self.stopping = stopping
        self.other: tuple[str, Document] | None = None
        """Where another object of the same name is found, and how; the job leaves it alone."""
        self._epoch: int = document["epoch"]
        self._counters: Document = {name: document[name] for name in _COUNTERS}
        self._flushed = -1e9
        self._cancelling = bool(document["cancelling"])
        self._lost = False
        self._lock = threading.Lock()

    @property
    def epoch(self) -> int:
        """The epoch of this claim."""
        return self._epoch

    @property
    def fence(self) -> Fence:
        """What the job's writes carry, so that one that was taken over writes nothing."""
        return Fence(f"{JOB_FENCE}{self.job_id}", self._epoch)

    @property
    def counters(self) -> Mapping[str, int | None]:
        """Progress as last reported, also by an attempt before this one."""
        return self._counters

    def progress(
        self,
        *,
        done: int | None = None,
        total: int | None = None,
        faces: int | None = None,
        skipped: int | None = None,
        failed: int | None = None,
        cursor: Any = None,
        flush: bool = False,
    ) -> None:
        """Reports absolute counts and how far the work is; stored at most twice a second.

        `cursor` is where a later attempt goes on: everything before it is done. With `flush` it is
        stored now. Raises Cancelled, LeaseLost, and `PutBack` when the worker stops.
        """
        given = {"done": done, "total": total, "faces": faces, "skipped": skipped, "failed": failed}
        self._counters.update({name: value for name, value in given.items() if value is not None})
        if cursor is not None:
            self.cursor = cursor
        self.check()
        if flush or time.monotonic() - self._flushed >= FLUSH_S:
            self.save()
            self.check()

    def check(self) -> None:
        """Raises Cancelled, LeaseLost or PutBack when the handler has to stop."""
        if self._lost:
            raise LeaseLost
        if self._cancelling:
            raise Cancelled
        if self.stopping.is_set():
            self.put_back()

    def cancelled(self) -> bool:
        """Whether the job was asked to stop, as known from the last heartbeat."""
        return self._cancelling

    def put_back(self, wait_s: float = 0.0) -> NoReturn:
        """Stops here; the job is queued again, for `wait_s` seconds at least, uncounted."""
        raise PutBack(wait_s)

    def transaction(self, work: Callable[[Session], T]) -> T:
        """What `work(session)` returns, committed at once and only while this claim holds.

        A worker that was paused until another one had ended its job changes nothing any more: what
        it finds then may be new. Raises LeaseLost, Replaced, and what `in_transaction` raises.
        """

        def guarded(session: Session) -> T:
            self.guard(session)
            return work(session)

        return in_transaction(self.store.db, guarded)

    def guard(self, session: Session) -> None:
        """Raises LeaseLost or Replaced, as the transaction sees it."""
        check_fence(self.store.db, self.fence, session)
        if self.other is not None:
            where, query = self.other
            if self.store.db[where].find_one(query, {"_id": 1}, session=session) is not None:
                raise Replaced("What this job was about is gone; another has its name by now.")

    def failure(self, key: str, error: str, detail: str = "") -> None:
        """Keeps one failure by its key: an error's class and a sentence."""
        with translate():
            self.store.db[JOB_FAILURES].update_one(
                {"_id": f"{self.job_id}/{key}"},
                {
                    "$set": {
                        "job_id": self.job_id,
                        "key": key,
                        "error": error,
                        "detail": detail[:MAX_ERROR],
                        "finished_at": documents.utc(dt.datetime.now(dt.UTC)),
                    }
                },
                upsert=True,
            )

    def save(self) -> None:
        """Stores progress and renews the claim. Raises LeaseLost when a later claim has the job."""
        with self._lock:
            fields: Document = {
                **self._counters,
                "cursor": {"$literal": self.cursor},
                "checkpoint": {"$literal": self.state},
                **lease_until(LEASE_S),
            }
            with translate():
                document = self.store.db[JOBS].find_one_and_update(
                    {"_id": self.job_id, "epoch": self._epoch, "state": "running"},
                    [{"$set": fields}],
                    projection={"cancelling": 1},
                    return_document=ReturnDocument.AFTER,
                )
            if document is None:
                self._lost = True
                raise LeaseLost
            self._cancelling = bool(document["cancelling"])
            self._flushed = time.monotonic()


Outcome: TypeAlias = Literal["succeeded", "failed", "cancelled", "queued", "lost"]
Handler: TypeAlias = Callable[[JobRun], Mapping[str, Any] | None]


def run_next(
    store: Store,
    handlers: Mapping[str, Handler],
    *,
    holder: Holder,
    stopping: threading.Event | None = None,
    only: Document | None = None,
) -> bool:
    """Whether there was a job of these kinds that is `only` as the filter says, and it was run.

    `run_claimed` says what becomes of it.
    """
    document = store.jobs.claim(tuple(handlers), holder, only)
    if document is None:
        return False
    outcome = run_claimed(store, document, handlers[document["kind"]], stopping=stopping)
    if outcome != "lost":
        _say(store.jobs.get(document["_id"]), outcome)
    return True


def _say(job: Job, outcome: Outcome) -> None:
    """One line in the worker's log of what became of a job."""
    log = structlog.get_logger("likeness.jobs").bind(job_id=job.job_id, kind=job.kind)
    counts = {name: count for name in _COUNTERS if (count := getattr(job, name))}
    warning = (job.result or {}).get("warning")
    if outcome == "failed" or (outcome == "queued" and job.last_error):
        log.warning("job_ended", state=outcome, **counts, detail=job.last_error)
    elif warning:
        log.warning("job_ended", state=outcome, **counts, detail=warning)
    else:
        log.info("job_ended", state=outcome, **counts)


def run_claimed(
    store: Store,
    document: Document,
    handler: Handler,
    *,
    stopping: threading.Event | None = None,
) -> Outcome:
    """Runs a claimed job: to an end, put back as `queued`, or `lost` to a later claim.

    A handler's result becomes the job's. A database or encoder that is away puts the job back with
    a growing pause; any other error ends it as failed, with its sentence.
    """
    run = JobRun(store, document, stopping or threading.Event())
    log = structlog.get_logger("likeness.jobs").bind(job_id=run.job_id, kind=run.kind)
    with _heartbeat(run):
        try:
            result = handler(run)
            run.save()
        except PutBack as error:
            return _put_back(store.jobs, run, error.wait_s, None)
        except Cancelled:
            return _end(store.jobs, run, "cancelled")
        except LeaseLost:
            log.warning("job_taken_over")
            return "lost"
        except StorageFull as error:
            if run.kind in UNSTOPPABLE:
                return _unavailable(store.jobs, run, error)
            # Trying again does not make room.
            return _end(store.jobs, run, "failed", error=f"storage_full: {error.detail}")
        except Unavailable as error:
            return _unavailable(store.jobs, run, error)
        except LikenessError as error:
            return _end(store.jobs, run, "failed", error=error.detail)
        except Exception as error:
            # The worker outlives a faulty job; the fault is recorded and logged in full.
            log.exception("job_failed")
            return _end(
                store.jobs, run, "failed", error=f"Internal error ({type(error).__name__})."
            )
        return _end(store.jobs, run, "succeeded", result=result or {})


def _end(
    jobs: Jobs,
    run: JobRun,
    state: Literal["succeeded", "failed", "cancelled"],
    *,
    result: Mapping[str, Any] | None = None,
    error: str | None = None,
) -> Outcome:
    ended = jobs.end(run.job_id, run.epoch, state, result=result, error=error)
    return state if ended else "lost"


def _unavailable(jobs: Jobs, run: JobRun, error: Unavailable) -> Outcome:
    if run.attempts >= MAX_ATTEMPTS and run.kind not in UNSTOPPABLE:
        return _end(jobs, run, "failed", error=error.detail)
    return _put_back(jobs, run, min(60.0, 2.0 ** min(run.attempts, 6)), error.detail)


def _put_back(jobs: Jobs, run: JobRun, wait_s: float, error: str | None) -> Outcome:
    try:
        run.save()
    except LeaseLost:
        return "lost"
    jobs.put_back(run.job_id, run.epoch, wait_s=wait_s, error=error)
    return "queued"


class _heartbeat:  # used as a context manager only
    """Renews a claim in the background while a handler works without reporting."""

    def __init__(self, run: JobRun) -> None:
        self._run = run
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="job-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(LEASE_S / 6):
            try:
                self._run.save()
            except LeaseLost:
                return  # the handler's next progress call raises it
            except LikenessError:
                continue  # the database is away: the claim holds for a while yet
