"""A database over its quota stops the run by name and is no picture's fault."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from faces.database import MEDIA
from faces.errors import StorageFull
from faces.job_run import JobRun, run_claimed
from faces.leases import Holder
from faces.store import Store
from faces.types import Analysis
from indexer.crew import Crew
from indexer.items import Items, Task
from indexer.plan import Brake, decide
from indexer.sources.base import Body, Entry
from tests.faces_made import analysis, face


class FullStore(Store):
    """A store whose database takes no more pictures."""

    def put_item(self, *_: Any, **__: Any) -> Any:
        raise StorageFull


class Pictures:
    """A source that has every picture."""

    def read(self, entry: Entry, *, max_bytes: int, etag: str | None, modified: str | None) -> Body:
        return Body(entry.key.encode())


class Analyst:
    """Finds one face in everything."""

    model = "facenet128"

    def analyse(self, data: bytes) -> Sequence[Analysis]:
        return (analysis(face(0)),)

    def forget(self) -> None:
        pass


def test_the_run_stops_and_no_item_is_marked(store: Store) -> None:
    full = FullStore(store.db)
    stopping = threading.Event()
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    items = Items(
        full,
        Pictures(),  # type: ignore[arg-type]  # only reading is asked for
        Analyst(),  # type: ignore[arg-type]
        name="cms",
        collection="default",
        fence=None,
        max_bytes=100,
        min_quality=0.0,
        brake=Brake(0.2),
        now=lambda: now,
        stopping=stopping,
    )
    entries = [Entry(f"{n}.jpg", f"{n}.jpg", "1") for n in range(50)]
    tasks = [Task(e, None, decide(e, None, pipeline="1", now=now)) for e in entries]

    def handler(run: JobRun) -> dict[str, Any]:
        list(Crew(items.carry_out, size=3, stopping=stopping).run(tasks))
        return {}

    document = store.jobs.begin("backfill", "default", {}, Holder.this_process("test"))
    assert run_claimed(store, document, handler) == "failed"
    job = store.jobs.get(document["_id"])
    assert (job.last_error or "").startswith("storage_full: ")
    assert store.db[MEDIA].count_documents({}) == 0


@pytest.mark.parametrize("kind", ["erase", "delete_collection"])
def test_what_makes_room_is_tried_again(store: Store, kind: str) -> None:
    document = store.jobs.begin(kind, "default", {}, Holder.this_process("test"))

    def handler(run: JobRun) -> dict[str, Any]:
        raise StorageFull

    assert run_claimed(store, document, handler) == "queued"
