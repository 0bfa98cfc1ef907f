"""What a worker's jobs do around a run: events in a reconcile, and runs that end early."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from faces.database import JOBS, Db, Document
from faces.job_run import run_next
from faces.leases import Holder
from faces.settings import Settings
from faces.store import Store
from indexer import handlers
from indexer.progress import Report, Tally
from indexer.reconcile import Outcome

HERE = Holder.this_process("worker")
SETTINGS = Settings(cms_collection="default")


class Opened:
    """A run of source `a` that only notes what it is asked for."""

    name = "a"
    collection = "default"

    def __init__(self) -> None:
        self.synced: list[tuple[str, ...]] = []
        self.during: Callable[[], None] = lambda: None
        self.stopped: Callable[[], bool] = lambda: False

    def reconcile(self, *, between: Callable[[], None], tally: Tally, **_: object) -> Outcome:
        between()
        return Outcome(tally, complete=not self.stopped())

    def sync(
        self, changed: Sequence[str], deleted: Sequence[str], *, report: Report, tally: Tally
    ) -> None:
        self.synced.append((*changed, *deleted))
        self.during()
        report.step(tally)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    run = Opened()

    @contextlib.contextmanager
    def opening(*_: object, stopping: Any, **__: object) -> Iterator[Opened]:
        run.stopped = stopping.is_set
        yield run

    monkeypatch.setattr(handlers, "open_run", opening)
    return run


def work(store: Store, kind: str) -> bool:
    table: Mapping[str, Any] = {kind: handlers.handlers(SETTINGS, handlers.LONG)[kind]}
    return run_next(store, table, holder=HERE)


def job(db: Db, job_id: str) -> Document:
    found = db[JOBS].find_one({"_id": job_id})
    assert found is not None
    return found


def test_events_between_pages_are_looked_at_again_after_them(
    store: Store, db: Db, opened: Opened
) -> None:
    store.jobs.enqueue("backfill", "default", {"source": "a"})
    store.jobs.enqueue("sync", "default", {"changed": ["k"], "deleted": ["l"]})
    assert work(store, "backfill")
    assert opened.synced == [("k", "l")]
    assert work(store, "sync"), "what was in hand then may have been stored after it"
    assert opened.synced == [("k", "l")] * 2
    assert not work(store, "sync")


def test_events_are_looked_at_again_however_the_reconcile_ends(
    store: Store, db: Db, opened: Opened
) -> None:
    store.jobs.enqueue("sync", "default", {"changed": ["k"]})
    backfill = store.jobs.enqueue("backfill", "default", {"source": "a"})

    def cancel() -> None:
        db[JOBS].update_one({"_id": backfill}, {"$set": {"cancelling": True}})

    opened.during = cancel
    assert work(store, "backfill")
    assert db[JOBS].count_documents({"state": "queued", "params.changed": "k"}) == 1


def test_an_event_of_another_collection_is_not_called_done(
    store: Store, db: Db, opened: Opened
) -> None:
    other = store.jobs.enqueue("sync", "press", {"changed": ["k"]})
    assert work(store, "sync")
    assert job(db, other)["state"] == "failed"
    assert opened.synced == []


def test_an_event_that_is_cancelled_does_not_end_the_reconcile_around_it(
    store: Store, db: Db, opened: Opened
) -> None:
    event = store.jobs.enqueue("sync", "default", {"changed": ["k"]})
    backfill = store.jobs.enqueue("backfill", "default", {"source": "a"})

    def cancel() -> None:
        db[JOBS].update_one({"_id": event}, {"$set": {"cancelling": True}})

    opened.during = cancel
    assert work(store, "backfill")
    assert job(db, event)["state"] == "cancelled"
    assert job(db, backfill)["result"]["complete"] is True


def test_a_long_job_that_ran_is_left_to_its_own_worker(store: Store, db: Db) -> None:
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    store.jobs.enqueue("backfill", "default", {"source": "b"})
    db[JOBS].update_many({}, {"$set": {"created_at": long_ago, "epoch": 1}})
    only = handlers.own_jobs(SETTINGS, "a")
    assert store.jobs.claim(["backfill"], HERE, only) is None
    db[JOBS].update_many({}, {"$set": {"epoch": 0}})
    assert store.jobs.claim(["backfill"], HERE, only) is not None


def test_a_reconcile_whose_worker_is_gone_for_a_day_ends_and_says_why(
    store: Store, db: Db, opened: Opened
) -> None:
    left = store.jobs.enqueue("backfill", "default", {"source": "b"})
    now = dt.datetime.now(dt.UTC)
    ran = {"created_at": now - dt.timedelta(days=9), "epoch": 1, "state": "running"}
    db[JOBS].update_many({}, {"$set": {**ran, "heartbeat_at": now - dt.timedelta(hours=23)}})
    only = handlers.own_jobs(SETTINGS, "a")
    assert store.jobs.claim(["backfill"], HERE, only) is None
    db[JOBS].update_many({}, {"$set": {"heartbeat_at": now - dt.timedelta(hours=25)}})
    table = handlers.handlers(SETTINGS, handlers.LONG)
    assert run_next(store, table, holder=HERE, only=only)
    assert job(db, left)["state"] == "failed"
    assert "start one with that CMS_SOURCE_NAME" in job(db, left)["last_error"]
