"""The worker as it runs on a dyno: schedule, jobs, live events, restarts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from faces.records import Job
from tests import media_server
from tests.indexing import Index, prepared


@pytest.fixture
def index(database: Database[dict[str, Any]], atlas: str, models_dir: Path) -> Index:
    return prepared(database, atlas, models_dir)


@pytest.fixture
def folder(index: Index, samples_dir: Path, tmp_path: Path) -> Path:
    """A folder source of four pictures, configured."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, person in enumerate(sorted((samples_dir / "gallery").iterdir())[:4]):
        shutil.copy(sorted(person.iterdir())[0], folder / f"{number}.jpg")
    index.env |= {"CMS_SOURCE": "folder", "CMS_FOLDER": str(folder), "CMS_SOURCE_NAME": "press"}
    return folder


@pytest.fixture
def run(index: Index) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts workers; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        started.append(index.start("run", **env))
        return started[-1]

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.terminate()
        try:
            worker.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.communicate()


def eventually(true: Callable[[], object], *, within: float = 60, what: str = "") -> float:
    """Seconds until `true()` was so; fails after `within`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within, what or "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - began


def job(index: Index, job_id: str) -> Job:
    return index.store.jobs.get(job_id)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
        except OSError:
            continue
    return found


def test_a_worker_catches_up_takes_jobs_and_ends_cleanly(
    index: Index, folder: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    waiting = index.store.jobs.enqueue("audit", None, {})
    assert job(index, waiting).waiting_for == "worker"
    worker = run()
    eventually(lambda: len(index.media()) == 4, what="the missed run was not caught up")
    eventually(lambda: job(index, waiting).state == "succeeded")
    assert "worker: alive" in index.run("status").stdout

    (folder / "0.jpg").unlink()
    asked = index.store.jobs.enqueue("backfill", "default", {})
    eventually(lambda: job(index, asked).started_at, what="the job was not started")
    eventually(lambda: job(index, asked).state == "succeeded")
    result = job(index, asked).result
    assert result is not None
    assert result["deleted"] == 1
    assert set(index.media()) == {"1.jpg", "2.jpg", "3.jpg"}

    dry = index.store.jobs.enqueue("backfill", "default", {"dry_run": True})
    (folder / "1.jpg").unlink()
    eventually(lambda: job(index, dry).state == "succeeded")
    assert set(index.media()) == {"1.jpg", "2.jpg", "3.jpg"}

    elsewhere = index.store.jobs.enqueue("backfill", "other", {})
    eventually(lambda: job(index, elsewhere).state == "failed")
    assert "CMS_COLLECTION" in (job(index, elsewhere).last_error or "")

    worker.terminate()
    worker.communicate(timeout=120)
    assert worker.returncode == 0
    assert not index.store.presence.alive("worker")
    again = run()
    eventually(lambda: index.store.presence.alive("worker"))
    assert again.poll() is None
    assert index.store.jobs.active("backfill") is None, "it is in step: nothing was missed"


def test_single_items_follow_the_cms_hook(
    index: Index, folder: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    run()
    eventually(lambda: len(index.media()) == 4)
    shutil.copy(folder / "0.jpg", folder / "new.jpg")
    (folder / "1.jpg").unlink()
    params = {"changed": ["new.jpg", "never.jpg"], "deleted": ["1.jpg", "0.jpg", "../x"]}
    asked = index.store.jobs.enqueue("sync", "default", params)
    eventually(lambda: job(index, asked).state == "succeeded")
    # What the CMS still has is not deleted, whatever an event says.
    assert set(index.media()) == {"0.jpg", "2.jpg", "3.jpg", "new.jpg"}


def test_each_of_two_sources_has_its_own_worker(
    index: Index, folder: Path, run: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    shutil.copy(folder / "0.jpg", desk / "a.jpg")
    other = {"CMS_FOLDER": str(desk), "CMS_SOURCE_NAME": "desk"}
    workers = [run(), run(**other)]
    eventually(lambda: len(index.media(source="press")) == 4, what="press was not caught up")
    eventually(lambda: len(index.media(source="desk")) == 1, what="desk was not caught up")
    shutil.copy(folder / "1.jpg", desk / "b.jpg")
    (folder / "3.jpg").unlink()
    for source, key in (("desk", "b.jpg"), ("press", "3.jpg")):
        index.store.jobs.enqueue("sync", "default", {"source": source, "changed": [key]})
    eventually(lambda: len(index.media(source="desk")) == 2)
    eventually(lambda: len(index.media(source="press")) == 3)
    assert index.db.likeness_jobs.count_documents({"state": "failed"}) == 0
    for worker in workers:
        worker.terminate()
    logs = [worker.communicate(timeout=120)[1] for worker in workers]
    # What was done is said, a line a job.
    assert all('"event": "job_ended"' in log and '"faces": ' in log for log in logs)


def test_nothing_survives_the_worker_and_the_next_one_resumes(
    index: Index, folder: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    for number in range(4, 40):
        shutil.copy(folder / f"{number % 4}.jpg", folder / f"{number}.jpg")
    worker = run()
    eventually(lambda: len(index.faces()) >= 2)
    mine = descendants(worker.pid)
    assert mine
    worker.kill()
    worker.communicate()
    eventually(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine),
        what="a child outlived the worker",
    )
    index.db.client.admin.command("killAllSessions", [])
    run()
    eventually(lambda: len(index.media()) == 40)
    eventually(lambda: index.store.jobs.active("backfill") is None)
    whole = index.state()
    index.once()
    assert index.state() == whole


def test_two_workers_share_the_work_and_a_deletion_runs_beside_a_backfill(
    index: Index, folder: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    for number in range(4, 40):
        shutil.copy(folder / f"{number % 4}.jpg", folder / f"{number}.jpg")
    index.store.create_collection("old")
    first, second = run(), run()
    eventually(lambda: len(index.faces()) >= 1)
    gone = index.store.delete_collection("old")
    eventually(lambda: job(index, gone).state in ("running", "succeeded"))
    eventually(lambda: len(index.media()) == 40)
    eventually(lambda: index.store.jobs.active("backfill") is None)
    runs = [j for j in index.store.jobs.page(50, None).items if j.kind == "backfill"]
    assert [j.state for j in runs] == ["succeeded"]
    assert runs[0].done == 40
    assert first.poll() is None
    assert second.poll() is None


def test_a_batch_that_crashes_is_said_and_tried_again(
    index: Index, folder: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    worker = run()
    eventually(lambda: len(index.media()) == 4)
    asked = index.store.jobs.enqueue("audit", None, {})
    eventually(lambda: job(index, asked).state == "succeeded")
    batch = children(worker.pid) or descendants(worker.pid)
    os.kill(batch[0], signal.SIGKILL)
    asked = index.store.jobs.enqueue("audit", None, {})
    eventually(lambda: job(index, asked).state == "succeeded")
    worker.terminate()
    assert "batch_ended_badly" in worker.communicate(timeout=120)[1]


def test_live_events_are_followed_and_a_lost_place_is_made_good(
    index: Index, samples_dir: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    people = sorted((samples_dir / "gallery").iterdir())
    name = f"{index.db.name}_cms"
    records = index.db.client[name].media
    with media_server.serving() as media:
        for number, person in enumerate(people):
            media.files[f"/{number}.jpg"] = sorted(person.iterdir())[0].read_bytes()
        index.env |= {
            "CMS_SOURCE": "mongo",
            "CMS_MONGODB_DATABASE": name,
            "CMS_MONGODB_COLLECTION": "media",
            "CMS_VISIBLE_STATUSES": "published",
            "MEDIA_ALLOWED_HOSTS": media.origin,
            "INDEX_LIVE": "true",
        }

        def publish(number: int) -> None:
            records.insert_one(
                {
                    "_id": f"k{number}",
                    "url": media.url(f"/{number}.jpg"),
                    "updated_at": "1",
                    "status": "published",
                }
            )

        publish(0)
        worker = run()
        eventually(lambda: set(index.media()) == {"k0"})
        eventually(lambda: index.store.jobs.active("backfill") is None)
        publish(1)
        eventually(lambda: set(index.media()) == {"k0", "k1"})
        records.update_one({"_id": "k1"}, {"$set": {"status": "draft"}})
        eventually(lambda: index.media()["k1"]["hidden"])
        records.delete_one({"_id": "k0"})
        eventually(lambda: set(index.media()) == {"k1"})

        # While nobody follows, things happen; the stream goes on where it was.
        worker.terminate()
        worker.communicate(timeout=120)
        publish(2)
        worker = run()
        eventually(lambda: "k2" in index.media())
        worker.terminate()
        worker.communicate(timeout=120)

        # The place in the stream is lost: a whole reconcile makes it good.
        publish(3)
        index.db.likeness_leases.update_many(
            {"kind": "live"}, {"$set": {"token": {"_data": "not a place"}}}
        )
        worker = run()
        eventually(lambda: "k3" in index.media())
        worker.terminate()
        assert "live_token_lost" in worker.communicate(timeout=120)[1]
        index.db.client.drop_database(name)


def test_a_malformed_schedule_is_named_at_start(index: Index) -> None:
    done = index.run("run", INDEX_SCHEDULE="every night")
    assert done.returncode == 1
    assert done.stderr.startswith("indexer: INDEX_SCHEDULE")
    done = index.run("run", INDEX_LIVE="true")
    assert "CMS_SOURCE=mongo" in done.stderr


def test_beside_the_web_process_a_backfill_runs_only_when_a_core_is_free(
    index: Index, folder: Path
) -> None:
    index.store.jobs.enqueue("backfill", "default", {})
    process = index.start("work", "--lane", "long", INDEXER_EMBEDDED="true")
    try:
        decoder = eventually_one(lambda: descendants(process.pid))
        for pid in (process.pid, decoder):
            assert way_given(pid)
        eventually(lambda: len(index.media()) == 4)
    finally:
        process.terminate()
        process.communicate(timeout=120)


def test_beside_the_web_process_an_erasure_is_not_put_off(index: Index, folder: Path) -> None:
    process = index.start("work", "--lane", "short", INDEXER_EMBEDDED="true")
    try:
        lower = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        eventually(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == lower)
        assert os.sched_getscheduler(process.pid) == os.sched_getscheduler(0)
    finally:
        process.terminate()
        process.communicate(timeout=120)


def way_given(pid: int) -> bool:
    """Whether a process has the idle class, or the lowest priority where a sandbox forbids that."""
    idle = os.sched_getscheduler(pid) == os.SCHED_IDLE
    allowed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
        ],
        stderr=subprocess.DEVNULL,
    )
    return idle or (allowed.returncode != 0 and os.getpriority(os.PRIO_PROCESS, pid) == 19)


def eventually_one(found: Callable[[], list[int]]) -> int:
    """The first of what is found, once there is something."""
    eventually(found)
    return found()[0]
