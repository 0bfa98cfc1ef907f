"""Jobs and leases: one holder at a time, progress that survives, and an end in every case."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from faces.database import JOBS, LEASES, Db
from faces.errors import Conflict, DatabaseUnavailable, LeaseLost, NotFound
from faces.hook_jobs import MOST, note
from faces.job_history import ask, last_success, unfinished
from faces.job_run import JobRun, run_claimed, run_next
from faces.jobs import MAX_ATTEMPTS
from faces.leases import Holder, Leases
from faces.presence import WORKER, Presence
from faces.settings import Settings
from faces.store import Store
from indexer.handlers import own_jobs

HERE = Holder.this_process("worker")
AWAY = Holder("another-machine", 1, 1)


def expire(db: Db, name: str, where: str = JOBS) -> None:
    db[where].update_one({"_id": name}, {"$set": {"expires_ms": 1}})


def dead_holder() -> Holder:
    """A process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    from faces import leases

    started = leases._started(child.pid)
    assert started is not None
    child.communicate(b"\n")
    return Holder(HERE.host, child.pid, started)


class TestLeases:
    def test_one_holder_and_an_epoch_that_grows(self, db: Db) -> None:
        leases = Leases(db)
        first = leases.acquire("x", HERE, 60)
        assert first is not None
        assert leases.acquire("x", AWAY, 60) is None
        assert leases.acquire("x", HERE, 60) is None, "not even the same process twice"
        assert leases.holder("x") == HERE
        first.release()
        assert leases.holder("x") is None
        second = leases.acquire("x", AWAY, 60)
        assert second is not None
        assert second.epoch == first.epoch + 1
        with pytest.raises(LeaseLost):
            first.renew()
        first.release()
        assert leases.holder("x") == AWAY, "a lost lease is not released by its old holder"

    def test_time_is_the_servers(self, db: Db) -> None:
        leases = Leases(db)
        first = leases.acquire("x", AWAY, 60)
        assert first is not None
        expire(db, "x", LEASES)
        assert leases.acquire("x", HERE, 60) is not None

    def test_a_dead_holder_of_this_machine_loses_it_at_once(self, db: Db) -> None:
        leases = Leases(db)
        assert leases.acquire("x", dead_holder(), 3600) is not None
        assert leases.acquire("x", HERE, 60) is not None

    def test_of_many_at_once_one_gets_it(self, db: Db) -> None:
        leases, got = Leases(db), []

        def one() -> None:
            if (lease := leases.acquire("x", HERE, 60)) is not None:
                got.append(lease)

        threads = [threading.Thread(target=one) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1

    def test_renewing_holds_it_longer(self, db: Db) -> None:
        lease = Leases(db).acquire("x", AWAY, 60)
        assert lease is not None
        expire(db, "x", LEASES)
        lease.renew()
        assert Leases(db).acquire("x", HERE, 60) is None


class TestRunning:
    def test_progress_result_and_failures_are_kept(self, store: Store) -> None:
        job_id = store.jobs.enqueue("backfill", "default", {"dry_run": True})

        def handler(run: JobRun) -> dict[str, Any]:
            assert run.params == {"dry_run": True}
            run.progress(done=3, total=4, faces=7, skipped=1, failed=1, cursor="k3", flush=True)
            run.failure("item-2", "InvalidImage", "The picture cannot be decoded.")
            run.failure("item-2", "InvalidImage", "The picture cannot be decoded.")
            return {"ok": True}

        assert run_next(store, {"backfill": handler}, holder=HERE)
        job = store.jobs.get(job_id)
        assert (job.state, job.done, job.total, job.faces) == ("succeeded", 3, 4, 7)
        assert (job.skipped, job.failed, job.result) == (1, 1, {"ok": True})
        assert job.started_at
        assert job.finished_at
        assert [f.key for f in store.jobs.failures(job_id, 10, None).items] == ["item-2"]
        assert not run_next(store, {"backfill": handler}, holder=HERE)

    def test_only_kinds_that_have_a_handler_are_taken_the_oldest_first(self, store: Store) -> None:
        ids = [store.jobs.enqueue(kind, None, {}) for kind in ("a", "b", "a")]
        ran: list[str] = []
        handlers = {"a": lambda run: ran.append(run.job_id)}
        assert store.jobs.claimable(["a"])
        while run_next(store, handlers, holder=HERE):
            pass
        assert ran == [ids[0], ids[2]]
        assert not store.jobs.claimable(["a"])
        assert store.jobs.get(ids[1]).state == "queued"

    def test_a_job_of_a_dead_worker_goes_on_where_it_was(self, store: Store) -> None:
        job_id = store.jobs.enqueue("a", None, {})
        claimed = store.jobs.claim(["a"], dead_holder())
        assert claimed is not None
        run = JobRun(store, claimed, threading.Event())
        run.state["x"] = 1
        run.progress(done=5, total=9, cursor=["k", 5], flush=True)
        seen = []

        def handler(run: JobRun) -> None:
            seen.append((run.cursor, run.state, run.counters["done"], run.attempts))

        assert run_next(store, {"a": handler}, holder=HERE)
        assert seen == [(["k", 5], {"x": 1}, 5, 2)]
        assert store.jobs.get(job_id).state == "succeeded"
        with pytest.raises(LeaseLost):
            run.save()

    def test_a_live_worker_elsewhere_keeps_its_job_until_its_time_is_up(
        self, store: Store, db: Db
    ) -> None:
        job_id = store.jobs.enqueue("a", None, {})
        assert store.jobs.claim(["a"], AWAY) is not None
        assert store.jobs.claim(["a"], HERE) is None
        assert store.jobs.get(job_id).state == "running"
        expire(db, job_id)
        assert store.jobs.get(job_id).state == "stalled"
        assert store.jobs.claim(["a"], HERE) is not None

    def test_a_job_that_kills_its_worker_is_given_up(self, store: Store, db: Db) -> None:
        job_id = store.jobs.enqueue("a", None, {})
        for _ in range(MAX_ATTEMPTS):
            assert store.jobs.claim(["a"], AWAY) is not None
            expire(db, job_id)
        assert store.jobs.claim(["a"], HERE) is None
        job = store.jobs.get(job_id)
        assert job.state == "failed"
        assert job.last_error is not None
        assert str(MAX_ATTEMPTS) in job.last_error

    def test_what_hides_at_once_is_never_given_up(self, store: Store, db: Db) -> None:
        job_id = store.jobs.enqueue("erase", None, {})
        for _ in range(MAX_ATTEMPTS + 2):
            assert store.jobs.claim(["erase"], AWAY) is not None
            expire(db, job_id)

    def test_cancelling(self, store: Store) -> None:
        queued = store.jobs.enqueue("a", None, {})
        assert store.jobs.cancel(queued).state == "cancelled"
        running = store.jobs.enqueue("a", None, {})

        def handler(run: JobRun) -> None:
            assert store.jobs.cancel(running).cancelling
            while True:
                run.progress(done=1, flush=True)

        assert run_next(store, {"a": handler}, holder=HERE)
        assert store.jobs.get(running).state == "cancelled"
        with pytest.raises(Conflict):
            store.jobs.cancel(store.jobs.enqueue("erase", None, {}))

    def test_a_worker_that_stops_puts_its_job_back_uncounted(self, store: Store) -> None:
        job_id = store.jobs.enqueue("a", None, {})
        stopping = threading.Event()

        def handler(run: JobRun) -> None:
            stopping.set()
            run.progress(done=2, cursor="k")

        run_next(store, {"a": handler}, holder=HERE, stopping=stopping)
        job = store.jobs.get(job_id)
        assert (job.state, job.attempts, job.done) == ("queued", 0, 2)
        again = store.jobs.claim(["a"], HERE)
        assert again is not None
        assert again["cursor"] == "k"

    def test_a_database_that_is_away_puts_it_back_with_a_pause(self, store: Store) -> None:
        job_id = store.jobs.enqueue("a", None, {})

        def handler(run: JobRun) -> None:
            raise DatabaseUnavailable

        run_next(store, {"a": handler}, holder=HERE)
        job = store.jobs.get(job_id)
        assert (job.state, job.attempts) == ("queued", 1)
        assert job.last_error
        assert store.jobs.claim(["a"], HERE) is None, "not before the pause is over"

    @pytest.mark.parametrize(
        ("error", "said"),
        [(NotFound("It is gone."), "It is gone."), (ValueError("secret"), "ValueError")],
    )
    def test_an_error_ends_it_and_the_worker_lives(
        self, store: Store, error: Exception, said: str
    ) -> None:
        job_id = store.jobs.enqueue("a", None, {})

        def handler(run: JobRun) -> None:
            raise error

        assert run_next(store, {"a": handler}, holder=HERE)
        job = store.jobs.get(job_id)
        assert job.state == "failed"
        assert job.last_error is not None
        assert said in job.last_error
        assert "secret" not in job.last_error

    def test_begun_jobs_are_never_seen_queued(self, store: Store) -> None:
        document = store.jobs.begin("a", None, {"$x": "$y"}, HERE)
        assert store.jobs.get(document["_id"]).state == "running"
        assert store.jobs.claim(["a"], AWAY) is None
        assert run_claimed(store, document, lambda run: {"$ok": "$1"}) == "succeeded"
        assert store.jobs.get(document["_id"]).result == {"$ok": "$1"}

    def test_of_many_workers_one_gets_it(self, store: Store) -> None:
        store.jobs.enqueue("a", None, {})
        got = []

        def one() -> None:
            if (claimed := store.jobs.claim(["a"], HERE)) is not None:
                got.append(claimed)

        threads = [threading.Thread(target=one) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1


class TestLists:
    def test_newest_first_in_pages_and_by_collection(self, store: Store) -> None:
        ids = []
        for number in range(5):
            ids.append(store.jobs.enqueue("a", f"c{number % 2}", {}))
            time.sleep(0.002)  # ids sort by the millisecond
        page = store.jobs.page(2, None)
        rest = store.jobs.page(10, page.next_cursor)
        assert [job.job_id for job in page.items + rest.items] == ids[::-1]
        assert rest.next_cursor is None
        mine = store.jobs.page(10, None, ["c1"])
        assert [job.job_id for job in mine.items] == [ids[3], ids[1]]
        with pytest.raises(NotFound):
            store.jobs.get(ids[0], ["c1"])

    def test_waiting_for_a_worker_until_one_lives(self, store: Store, db: Db) -> None:
        job_id = store.jobs.enqueue("a", None, {})
        assert store.jobs.get(job_id).waiting_for == "worker"
        presence = Presence(db)
        presence.beat(HERE, ["facenet128"])
        assert store.jobs.get(job_id).waiting_for is None
        assert [p.models for p in presence.processes()] == [("facenet128",)]
        presence.leave(HERE)
        assert not presence.alive(WORKER)
        presence.beat(dead_holder())
        assert presence.processes() == []


class TestSources:
    """Jobs of several sources, each with a worker of its own."""

    @staticmethod
    def settings(collection: str) -> Settings:
        return Settings(cms_collection=collection)

    def test_a_worker_takes_its_own_sources_jobs(self, store: Store, db: Db) -> None:
        mine, others, anyones, elsewhere, nowhere, erase = (
            store.jobs.enqueue(kind, collection, params)
            for kind, collection, params in (
                ("backfill", "default", {"source": "a"}),
                ("backfill", "default", {"source": "b"}),
                ("sync", "default", {}),
                ("backfill", "press", {}),
                ("backfill", None, {}),
                ("erase", "press", {}),
            )
        )

        def taken(source: str | None, collection: str = "default") -> set[str]:
            kinds = ("backfill", "sync", "erase")
            only = own_jobs(self.settings(collection), source)
            found = set()
            while (claimed := store.jobs.claim(kinds, HERE, only)) is not None:
                found.add(claimed["_id"])
            db[JOBS].update_many({}, {"$set": {"state": "queued", "expires_ms": 0, "epoch": 0}})
            return found

        assert taken("a") == {mine, anyones, nowhere, erase}
        assert taken("b") == {others, anyones, nowhere, erase}
        assert taken("c", "press") == {elsewhere, nowhere, erase}
        assert taken(None) == {erase}
        # What no worker is there for is not left lying: some worker takes it and says why it fails.
        ago = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)
        db[JOBS].update_many({}, {"$set": {"created_at": ago}})
        assert taken(None) == {elsewhere, nowhere, erase}, "an event waits"
        db[JOBS].update_many({}, {"$set": {"created_at": ago - dt.timedelta(days=1)}})
        assert taken(None) == {mine, others, anyones, elsewhere, nowhere, erase}

    def test_events_are_gathered_until_a_worker_begins(self, store: Store, db: Db) -> None:
        jobs = store.jobs
        store.jobs.enqueue("sync", "default", {"source": "a", "changed": ["k"]})
        store.jobs.enqueue("sync", "default", {"source": None, "due": True})
        first = note(jobs, "default", "changed", "a/b")
        assert note(jobs, "default", "changed", "a/b") == first
        assert note(jobs, "default", "deleted", "c") == first
        assert note(jobs, "press", "deleted", "c") != first
        found = db[JOBS].find_one({"_id": first})
        assert found is not None
        assert found["params"] == {"changed": ["a/b"], "deleted": ["c"]}
        while (claimed := jobs.claim(["sync"], HERE)) and claimed["_id"] != first:
            pass
        second = note(jobs, "default", "changed", "late")
        assert second != first, "a job that has begun takes no more"
        for number in range(MOST - 1):
            db[JOBS].update_one({"_id": second}, {"$addToSet": {"params.changed": str(number)}})
        assert claimed is not None
        jobs.put_back(first, claimed["epoch"], wait_s=0, error="It is given up after a few.")
        assert note(jobs, "default", "changed", "one more") not in (first, second)

    def test_a_reconcile_is_asked_for_once(self, store: Store, db: Db) -> None:
        def asked(source: str, *, under_way: bool = True, since: dt.datetime | None = None) -> int:
            """How many jobs asking made."""
            before = db[JOBS].count_documents({})
            ask(store.jobs, source, "default", under_way=under_way, since=since)
            return db[JOBS].count_documents({}) - before

        store.jobs.enqueue("backfill", "default", {"source": "a", "dry_run": True})
        store.jobs.enqueue("backfill", "press", {})
        assert not unfinished(db, "backfill", "a", "default")
        threads = [threading.Thread(target=asked, args=("a",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert unfinished(db, "backfill", "a", "default")
        assert db[JOBS].count_documents({"params.source": "a", "params.dry_run": None}) == 1
        assert asked("b") == 1, "another source's is another matter"
        mine = {"params": {"source": "a", "trigger": "schedule"}}
        claimed = store.jobs.claim(["backfill"], HERE, mine)
        assert claimed is not None
        assert asked("a") == 0
        assert asked("a", under_way=False) == 1, "one under way may be past what changed"
        db[JOBS].update_many({}, {"$set": {"state": "failed"}})
        minute = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)
        assert asked("a", since=minute - dt.timedelta(minutes=1)) == 0, "it had its turn"
        assert asked("a", since=minute + dt.timedelta(minutes=1)) == 1

    def test_the_last_success_is_a_whole_runs(self, store: Store, db: Db) -> None:
        assert last_success(db, "backfill", "a") is None
        rows = (("a", False, True), ("b", False, True), ("a", True, True), ("a", False, False))
        for source, dry, whole in rows:
            result = {"source": source, "dry_run": dry, "complete": whole}
            store.jobs.enqueue("backfill", "default", {})
            assert run_next(
                store,
                {"backfill": lambda run, result=result: result},  # type: ignore[misc]
                holder=HERE,
            )
        first = min(job.started_at for job in store.jobs.page(9, None).items if job.started_at)
        assert last_success(db, "backfill", "a") == first

    def test_what_is_left_is_reckoned_by_this_attempts_pace(self, store: Store, db: Db) -> None:
        job_id = store.jobs.enqueue("backfill", "default", {})
        claimed = store.jobs.claim(["backfill"], HERE)
        assert claimed is not None
        ago = claimed["started_at"] - dt.timedelta(hours=8)
        counts = {"done": 500, "total": 1000, "expires_ms": 0, "started_at": ago}
        db[JOBS].update_one({"_id": job_id}, {"$set": counts})
        assert store.jobs.claim(["backfill"], AWAY) is not None
        assert store.jobs.get(job_id).eta_s is None, "nothing is done yet"
        beat = {"$set": {"done": 600, "heartbeat_at": {"$add": ["$claimed_at", 10_000]}}}
        db[JOBS].update_one({"_id": job_id}, [beat])
        assert store.jobs.get(job_id).eta_s == 40.0
