"""The jobs panel in a real browser."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pymongo
import pytest

from faces.database import JOBS, Document
from faces.jobs import Jobs
from faces.leases import Holder
from tests.contract.api.conftest import Service
from tests.ui.browser import Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("ui")]
Shot = Callable[[str], None]
LIST = "document.getElementById('job-list')"
TEXT = f"{LIST}.textContent"
NOTE = "document.getElementById('jobs-note').textContent"


@pytest.fixture
def running(migrated: dict[str, str]) -> Iterator[str]:
    """A backfill that has done 30 of 120 photos in a minute."""
    with pymongo.MongoClient[Document](migrated["MONGODB_URI"], tz_aware=True) as direct:
        db = direct[migrated["MONGODB_DATABASE"]]
        began = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
        job_id = Jobs(db).begin("backfill", "default", {}, Holder.this_process("worker"))["_id"]
        figures = {"done": 30, "total": 120, "faces": 33, "failed": 2, "claimed_at": began}
        db[JOBS].update_one({"_id": job_id}, {"$set": figures})
        yield job_id
        db[JOBS].delete_one({"_id": job_id})


def test_what_runs_shows_how_far_it_is_and_how_long_it_takes(
    page: Page, service: Service, running: str, shot: Shot
) -> None:
    page.open(service.url)
    page.until(f"{TEXT}.includes('backfill in default: running')")
    assert "30 of 120 done" in page.run(TEXT)
    assert "33 faces" in page.run(TEXT)
    assert "min left" in page.run(TEXT)
    assert page.run(f"{LIST}.querySelector('progress').value") == 30
    shot("jobs")
    page.press("Cancel", LIST)
    page.until(f"{TEXT}.includes('stopping')")


def test_what_waits_is_started_and_cancelled(page: Page, service: Service) -> None:
    page.open(service.url)
    page.until("!document.getElementById('jobs').hidden")
    page.press("Index the CMS now")
    page.until(f"{TEXT}.includes('waiting for a worker')")
    page.press("Cancel", LIST)
    page.until(f"{TEXT}.includes('cancelled')")


def test_failures_are_shown_with_their_reasons(page: Page, staffed: Service, shot: Shot) -> None:
    page.open(staffed.url)
    page.press("Show failures", LIST)
    page.until("document.getElementById('dialog').open")
    said = page.run("document.getElementById('dialog').textContent")
    assert "broken.jpg" in said
    assert len(said.split("broken.jpg: ")[1]) > 20
    shot("failures")
    page.press("Close", "document.getElementById('dialog')")
    page.until("!document.getElementById('dialog').open")


def test_the_panel_asks_again_without_being_sent_the_same(page: Page, service: Service) -> None:
    page.send("Network.enable")
    page.open(service.url)
    page.until("!document.getElementById('jobs').hidden")
    page.until(
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('/v1/jobs?'))"
        ".some((one) => one.responseStatus === 304)"
    )
