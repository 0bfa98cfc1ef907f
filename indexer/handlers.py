"""What the worker does for each kind of job."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from faces.errors import ConfigError, LeaseLost
from faces.job_run import Cancelled, Handler, JobRun, PutBack, run_next
from faces.leases import Holder
from faces.settings import Settings
from indexer.progress import Tally
from indexer.reconcile import held_back
from indexer.run import LeaseHeld, Run, open_run

LONG = "long"
SHORT = "short"
HELD_WAIT_S = 5.0
SYNCS_A_PAGE = 50
EVENTS_AGAIN = 5000
"""So many keys of events are remembered by a reconcile; further events wait for its end."""
UNFIT_S = dt.timedelta(seconds=3)
"""So long a backfill that names no source, or a job without collection, waits for its worker."""
UNCLAIMED_S = dt.timedelta(days=1)
"""So long a job of a source or a collection waits for a worker that has it, or had it last."""


def handlers(settings: Settings, lane: str) -> Mapping[str, Handler]:
    """The handlers of a lane. Erasures and the like are short: they run beside a backfill."""
    if lane == SHORT:
        return short_handlers()
    from faces import reembed

    return {
        "reembed": reembed.handler(settings),
        "backfill": lambda run: backfill(run, settings),
        "sync": lambda run: sync(run, settings),
        "audit": lambda run: audit(run, settings),
    }


def own_jobs(settings: Settings, source: str | None) -> dict[str, Any]:
    """A filter of the jobs that this process may take: those of other sources have their workers.

    What no worker takes is taken after a while by any of them, which says why it cannot do it.
    """
    now = dt.datetime.now(dt.UTC)
    free: list[dict[str, Any]] = [
        {"kind": {"$nin": ["backfill", "sync"]}},
        {
            "params.source": None,
            "$or": [{"kind": "backfill"}, {"collection": None}],
            "created_at": {"$lt": now - UNFIT_S},
        },
        {"epoch": 0, "created_at": {"$lt": now - UNCLAIMED_S}},  # one that ran has its worker
        {"kind": "backfill", "heartbeat_at": {"$lt": now - UNCLAIMED_S}},  # or had one
    ]
    if source is not None:
        free += [
            {"params.source": source},
            {"params.source": None, "collection": {"$in": [None, settings.cms_collection]}},
        ]
    return {"$or": free}


def backfill(run: JobRun, settings: Settings) -> Mapping[str, Any]:
    """A whole reconcile of the configured source, resumed at the page that was not finished."""
    _check_collection(run, settings)
    dry = bool(run.params.get("dry_run"))
    with (
        _halting(run) as halt,
        _opened(run, settings, halt) as opened,
        _events_again(run, opened),
    ):
        report = JobReport(run, halt)
        tally = Tally(**run.state.get("tally", {}))
        outcome = opened.reconcile(
            report=report,
            allow_deletes=bool(run.params.get("allow_deletes")),
            cursor=run.cursor,
            tally=tally,
            dry=dry,
            between=lambda: _waiting_syncs(run, settings, opened, halt),
        )
        report.raise_ended()
        run.check()
        result = {"source": opened.name, "dry_run": dry, **outcome.result()}
        if outcome.held_back:
            result["warning"] = held_back(outcome.held_back, settings.index_max_delete_ratio)
        return result


def sync(run: JobRun, settings: Settings) -> Mapping[str, Any]:
    """Single items, after events of the CMS, or those whose next try is due."""
    with _halting(run) as halt, _opened(run, settings, halt) as opened:
        return _sync(run, settings, opened, halt, ended=halt)


def _sync(
    run: JobRun, settings: Settings, opened: Run, halt: threading.Event, *, ended: threading.Event
) -> Mapping[str, Any]:
    """`ended` is set when this job ends early: the run it is in may go on."""
    _check_collection(run, settings)
    _check_source(run, opened)
    report = JobReport(run, ended, deletions_count=True)
    changed = [str(key) for key in run.params.get("changed", ())]
    deleted = [str(key) for key in run.params.get("deleted", ())]
    tally = Tally(total=len({*changed, *deleted}))
    opened.sync(changed, deleted, report=report, tally=tally)
    tried: set[str] = set()
    while run.params.get("due") and not (halt.is_set() or ended.is_set()):
        # After a long outage there are many: they are not left waiting for the next look.
        due = [key for item in opened.due() if (key := item.source_key) not in tried]
        if not due:
            break
        tried.update(due)
        tally.total = tally.done + tally.deleted + len(due)
        opened.sync(due, [], report=report, tally=tally)
    report.raise_ended()
    run.check()
    if halt.is_set():
        run.put_back()  # the run it is in was stopped before its end
    return {"source": opened.name, **tally.counts()}


def _waiting_syncs(run: JobRun, settings: Settings, opened: Run, halt: threading.Event) -> None:
    """Runs the events that came in during a long reconcile, between two of its pages."""
    events: list[str] = run.state.setdefault("events", [])

    def one(inner: JobRun) -> Mapping[str, Any]:
        keys = [*inner.params.get("changed", ()), *inner.params.get("deleted", ())]
        events[:] = dict.fromkeys([*events, *map(str, keys)])
        return _sync(inner, settings, opened, halt, ended=threading.Event())

    table: Mapping[str, Handler] = {"sync": one}
    holder = Holder.this_process("long")
    for _ in range(SYNCS_A_PAGE):
        if halt.is_set() or len(events) >= EVENTS_AGAIN:
            return
        only = own_jobs(settings, opened.name)
        if not run_next(run.store, table, holder=holder, stopping=run.stopping, only=only):
            return


@contextlib.contextmanager
def _events_again(run: JobRun, opened: Run) -> Iterator[None]:
    """Has the events that were handled between pages looked at again when the run is over.

    Entries that were in hand then had been looked up before them, and are stored after them.
    """
    try:
        yield
    finally:
        if keys := run.state.get("events"):
            params = {"source": opened.name, "changed": list(keys)}
            run.store.jobs.enqueue("sync", opened.collection, params)
            run.state["events"] = []


def audit(run: JobRun, settings: Settings) -> Mapping[str, Any]:
    """Looks for contradictions in what is stored, and mends them when asked to."""
    from faces.audit import Audit

    fix = bool(run.params.get("fix")) and not run.params.get("dry_run")
    active = run.store.active_model()
    if active is None:
        raise ConfigError("The database is not set up yet: run `python -m migrations up` first.")
    work = Audit(run.store.db, active, collection=run.collection, fix=fix)
    run.progress(total=work.total(), done=0)
    findings = work.run(lambda done: run.progress(done=done))
    return {"fix": fix, "findings": {name: f.document() for name, f in findings.items()}}


def short_handlers() -> Mapping[str, Handler]:
    """The store's own jobs: erase, delete, rewrite facets."""
    from faces.job_handlers import HANDLERS

    return HANDLERS


class JobReport:
    """Passes a run's progress on to its job; the job's end (cancelled, lost) stops the run."""

    def __init__(
        self, run: JobRun, halt: threading.Event, *, deletions_count: bool = False
    ) -> None:
        """`halt` is set when the job ends before its run does.

        With `deletions_count` what was deleted is among what is done: it was asked for by its key.
        """
        self._deletions_count = deletions_count
        self._run = run
        self._halt = halt
        self._ended: BaseException | None = None

    def step(self, tally: Tally) -> None:
        """Counts, stored at most twice a second."""
        self._progress(
            done=tally.done + (tally.deleted if self._deletions_count else 0),
            total=tally.total,
            faces=tally.faces,
            skipped=tally.skipped,
            failed=tally.failed + tally.conflicts,
        )

    def failure(self, key: str, reason: str, detail: str) -> None:
        """One document a failure, so that a job's own stays small."""
        self._run.failure(key, reason, detail)

    def page(self, cursor: str | None, tally: Tally) -> None:
        """Everything before the cursor is done: a later attempt goes on there."""
        if cursor is not None:
            self._run.state["tally"] = tally.counts()
            self._progress(cursor=cursor, flush=True)

    def raise_ended(self) -> None:
        """Raise what ended the job while its run was finishing what it had in hand."""
        if self._ended is not None:
            raise self._ended

    def _progress(self, **given: Any) -> None:
        try:
            self._run.progress(**given)
        except (Cancelled, PutBack, LeaseLost) as ended:
            self._ended = self._ended or ended
            self._halt.set()


@contextlib.contextmanager
def _halting(run: JobRun) -> Iterator[threading.Event]:
    """An event that is set when the worker stops or the job is cancelled."""
    halt, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if run.stopping.is_set() or run.cancelled():
                halt.set()
                return

    thread = threading.Thread(target=watch, name="halt", daemon=True)
    thread.start()
    try:
        yield halt
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _opened(run: JobRun, settings: Settings, halt: threading.Event) -> Iterator[Run]:
    try:
        with open_run(run.store, settings, stopping=halt, role="worker") as opened:
            _check_source(run, opened)
            yield opened
    except LeaseHeld:
        # The other run does the same work; this job looks again when it is over.
        run.check()
        run.put_back(wait_s=HELD_WAIT_S)


def _check_source(run: JobRun, opened: Run) -> None:
    if run.params.get("source") not in (None, opened.name):
        raise ConfigError(
            f"This job is for the source {run.params['source']}, and the worker has"
            f" {opened.name}: start one with that CMS_SOURCE_NAME, or ask again."
        )


def _check_collection(run: JobRun, settings: Settings) -> None:
    if run.collection not in (None, settings.cms_collection):
        raise ConfigError(
            "The configured source fills another collection (CMS_COLLECTION) than this job names."
        )
