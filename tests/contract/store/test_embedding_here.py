"""Embedding for another model by the command itself, as no worker lives, and Ctrl-C meanwhile."""

from __future__ import annotations

import time

import pytest

from faces.database import Db
from faces.job_run import JobRun
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from migrations.runner import Runner
from migrations.step import discover
from migrations.switching import Switch, Wish
from tests.contract.store.conftest import SECONDS
from tests.faces_made import row_of_faces

NEXT = "sface"


def test_ctrl_c_puts_the_job_back_before_it_is_passed_on(store: Store, db: Db) -> None:
    store.put_item(MediaRef("default", "a", "api", "a"), MediaInfo(), row_of_faces(1), content="s")

    def busy(run: JobRun) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            run.check()
            time.sleep(0.01)

    def say(line: str) -> None:
        if line.startswith("embedded"):
            raise KeyboardInterrupt

    switch = Switch(db, Runner(db, discover(), say), busy, say)
    switch.begin(Wish(NEXT, "b1"))
    with pytest.raises(KeyboardInterrupt):
        switch.embed(NEXT)
    job = store.jobs.active("reembed")
    assert job is not None
    assert job.state == "queued"
