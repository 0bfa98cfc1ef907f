"""Killed or paused at every named point, the index ends as an uninterrupted run leaves it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from tests import media_server
from tests.indexing import ROOT, Index, prepared
from tests.media_server import Server

COUNT = 6


@pytest.fixture
def index(database: Database[dict[str, Any]], atlas: str, models_dir: Path) -> Iterator[Index]:
    index = prepared(database, atlas, models_dir)
    name = f"{database.name}_cms"
    index.env |= {
        "CMS_SOURCE": "mongo",
        "CMS_SOURCE_NAME": "cms",
        "CMS_MONGODB_DATABASE": name,
        "CMS_MONGODB_COLLECTION": "media",
    }
    yield index
    database.client.drop_database(name)


@pytest.fixture
def media(samples_dir: Path) -> Iterator[Server]:
    people = sorted((samples_dir / "gallery").iterdir())
    with media_server.serving() as server:
        for number in range(COUNT):
            person = people[number % len(people)]
            photo = sorted(person.iterdir())[number // len(people)]
            server.files[f"/{number}.jpg"] = photo.read_bytes()
        yield server


def publish(index: Index, media: Server, numbers: range) -> None:
    """Make the CMS hold exactly these pictures."""
    records = index.db.client[index.env["CMS_MONGODB_DATABASE"]].media
    records.delete_many({})
    records.insert_many(
        {"_id": f"{n}", "url": media.url(f"/{n}.jpg"), "updated_at": "1"} for n in numbers
    )
    index.env["MEDIA_ALLOWED_HOSTS"] = media.origin


def armed(index: Index, point: str, together: int = COUNT) -> subprocess.Popen[str]:
    """`indexer once` that gets a signal at a named point."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.armed", f"{point}:{together}", "once"],
        cwd=ROOT,
        env=index.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forget(index: Index) -> None:
    """Empty the index, as on the first day."""
    for name in ("faces", "media", "tombstones", "jobs"):
        index.db[f"likeness_{name}"].delete_many({})


def wait_stopped(process: subprocess.Popen[str]) -> None:
    """Returns when the process stands still after SIGSTOP."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    pytest.fail("the process did not reach the point")


def test_killed_at_any_point_the_end_is_the_same(index: Index, media: Server) -> None:
    publish(index, media, range(COUNT))
    index.once()
    whole = index.state()
    assert len(whole["media"]) == COUNT
    for point, together in (
        ("after_fetch:2", COUNT),
        ("after_encode:3", 1),
        ("between_writes:1", COUNT),
        ("between_writes:2", 2),
        ("before_commit:4", 1),
        ("after_commit:1", COUNT),
        ("after_commit:2", 2),
        ("before_cursor:1", COUNT),
    ):
        forget(index)
        process = armed(index, f"{point}:SIGKILL", together)
        said = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, (point, said)
        partial = index.state()
        assert all(whole["media"][key] == value for key, value in partial["media"].items()), point
        assert partial["faces"].items() <= whole["faces"].items(), point
        # The server ends a dead client's transaction by itself, after a minute.
        index.db.client.admin.command("killAllSessions", [])
        index.once()
        assert index.state() == whole, point


def test_killed_during_deletion_the_rest_goes_on_the_next_run(index: Index, media: Server) -> None:
    publish(index, media, range(COUNT))
    index.once()
    publish(index, media, range(1))
    process = armed(index, "during_deletion:2:SIGKILL")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert len(index.media()) == COUNT - 2
    index.once()
    assert set(index.media()) == {"0"}
    assert {face["media_id"] for face in index.faces().values()} == {"0"}


@pytest.mark.parametrize("by", ["api", "holder"])
def test_a_paused_run_that_wakes_up_late_writes_nothing(
    index: Index, media: Server, by: str
) -> None:
    publish(index, media, range(1))
    index.once()
    index.db.likeness_media.update_many({}, {"$unset": {"etag": "", "sha256": ""}})
    process = armed(index, "after_encode:1:SIGSTOP")
    try:
        wait_stopped(process)
        if by == "api":
            index.store.delete_item("default", "0", source="api", tombstone=True)
        else:
            # Its lease ran out, and another holder finds the item gone from the CMS.
            index.db.likeness_leases.update_one({"_id": "source:cms"}, {"$set": {"expires_ms": 0}})
            publish(index, media, range(5, 6))
            index.once()
        assert not index.faces(media_id="0")
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=120)
    assert "0" not in index.media()
    assert not index.faces(media_id="0")


def test_of_two_runs_at_once_one_works(index: Index, media: Server) -> None:
    publish(index, media, range(COUNT))
    process = armed(index, "after_fetch:1:SIGSTOP")
    wait_stopped(process)
    index.once(status=3)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(index.media()) == COUNT


def test_sigterm_finishes_what_is_in_hand_and_frees_the_lease(index: Index, media: Server) -> None:
    publish(index, media, range(COUNT))
    process = armed(index, "after_encode:1:SIGTERM")
    said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "stopped before the end" in said[1]
    faces = index.faces()
    assert {face["media_id"] for face in faces.values()} == {
        key for key, item in index.media().items() if item["state"] == "done"
    }
    index.once()
    assert len(index.media()) == COUNT
