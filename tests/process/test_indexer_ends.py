"""How a run begins and ends that is not simply done: the clock, a deadline, an absent encoder."""

from __future__ import annotations

import datetime as dt
import io
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from pymongo.database import Database

from faces.errors import EncoderUnavailable
from faces.settings import load
from indexer import items, schedule
from indexer.once import Once
from indexer.worker import Worker
from tests.indexing import Index, prepared


@pytest.fixture
def index(database: Database[dict[str, Any]], atlas: str, models_dir: Path) -> Index:
    return prepared(database, atlas, models_dir)


def pictures(folder: Path, samples: Path, count: int) -> Path:
    """A folder of so many pictures of a few people."""
    some = [sorted(person.iterdir())[0] for person in sorted((samples / "gallery").iterdir())]
    folder.mkdir(exist_ok=True)
    for number in range(count):
        shutil.copy(some[number % len(some)], folder / f"{number:04}.jpg")
    return folder


def configure(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    """The index's settings, with this folder as source, in this process's own environment."""
    index.env |= {"CMS_SOURCE": "folder", "CMS_FOLDER": str(folder), "CMS_SOURCE_NAME": "press"}
    for name, value in {**index.env, **env}.items():
        monkeypatch.setenv(name, value)


def jobs(index: Index) -> list[Any]:
    """The newest first."""
    return list(index.store.jobs.page(50, None).items)


def test_a_deadline_ends_a_run_in_time_with_0_and_the_next_one_does_the_rest(
    index: Index, samples_dir: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "photos", samples_dir, 300)
    where = ("--folder", str(folder), "--source-name", "press")
    began = time.monotonic()
    said = index.once(*where, "--deadline", "1s", status=0)
    assert time.monotonic() - began < 100, "the deadline, the start, and what was in hand"
    assert "stopped before the end; the next run goes on" in said
    done = len(index.media())
    assert done < 300
    assert index.db.likeness_media.count_documents({"state": "failed"}) == 0
    assert [job.state for job in jobs(index)] == ["cancelled"], "no success: the doctor may warn"
    for path in sorted(folder.iterdir())[done + 20 :]:
        path.unlink()
    kept = len(list(folder.iterdir()))
    said = index.once(*where)
    assert "stopped" not in said
    assert f"{done} unchanged" in said, "what was done before is not done again"
    assert len(index.media()) == kept
    assert jobs(index)[0].state == "succeeded"


def test_an_encoder_that_stays_away_ends_the_run_and_another_run_does_it_all(
    index: Index, samples_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "photos", samples_dir, 6)
    monkeypatch.setattr(items, "ENCODER_PATIENCE_S", 1.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        configure(index, folder, monkeypatch, ENCODER="remote", ENCODER_URL=url)
        began = time.monotonic()
        with pytest.raises(EncoderUnavailable):
            Once(load(), threading.Event(), io.StringIO()).run(allow_deletes=False, deadline_s=None)
        assert 1.0 <= time.monotonic() - began < 100
    (job,) = jobs(index)
    assert job.state == "queued", "a worker takes it up again"
    assert "encoder service" in (job.last_error or "")
    assert index.media() == {}, "no photo is to blame: none is failed, none is done"
    assert index.store.leases.acquire("source:press", _other(), 1.0) is not None, "not held"
    time.sleep(1.1)
    index.once(ENCODER="onnx")
    assert {row["state"] for row in index.media().values()} == {"done"}
    assert len(index.media()) == 6


def _other() -> Any:
    from faces.leases import Holder

    return Holder.this_process("test")


def test_the_schedule_s_moment_starts_a_run(
    index: Index, samples_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "photos", samples_dir, 1)
    configure(index, folder, monkeypatch)
    index.once()  # nothing is owed from before: only the clock can start a run
    shutil.copy(folder / "0000.jpg", folder / "new.jpg")
    before = {job.job_id for job in jobs(index)}
    moment = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=4)
    fields = ("year", "month", "day", "hour", "minute", "second")
    trigger = CronTrigger(**{f: getattr(moment, f) for f in fields}, timezone=dt.UTC)
    monkeypatch.setattr(schedule, "parse", lambda line: trigger)
    stopping = threading.Event()
    worker = threading.Thread(target=Worker(load(), index.store, stopping).run)
    worker.start()
    try:
        while dt.datetime.now(dt.UTC) < moment - dt.timedelta(seconds=1):
            assert {job.job_id for job in jobs(index)} == before, "it ran before its time"
            time.sleep(0.1)
        deadline = time.monotonic() + 120
        while "new.jpg" not in index.media():
            assert time.monotonic() < deadline, "the moment passed and nothing ran"
            time.sleep(0.1)
    finally:
        stopping.set()
        worker.join(120)
    (job,) = (job for job in jobs(index) if job.job_id not in before)
    assert (job.kind, job.params["trigger"]) == ("backfill", "schedule")
    assert job.started_at >= moment
