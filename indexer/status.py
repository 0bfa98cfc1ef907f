"""`indexer status`: where things stand, in a few lines."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator

from faces.audit import states
from faces.database import connect, database
from faces.errors import ConfigError
from faces.presence import WORKER
from faces.records import Job
from faces.settings import Settings
from faces.store import Store
from indexer.progress import duration
from indexer.wiring import name_of, source_of

SHOWN = 8


def lines(settings: Settings) -> Iterator[str]:
    """The worker, the source with its lease and counts, and the latest jobs."""
    client = connect(settings, "worker")
    try:
        store = Store(database(client, settings))
        alive = store.presence.alive(WORKER)
        yield "worker: alive" if alive else "worker: none is alive (python -m indexer run)"
        if settings.cms_source is None:
            yield "source: none is configured (CMS_SOURCE)"
        else:
            yield from _source(settings, store)
        jobs = store.jobs.page(SHOWN, None).items
        yield "jobs: none yet" if not jobs else "jobs, newest first:"
        for job in jobs:
            yield "  " + _job(job)
    finally:
        client.close()


def _source(settings: Settings, store: Store) -> Iterator[str]:
    try:
        with contextlib.closing(source_of(settings, threading.Event())) as source:
            name = name_of(settings, source)
    except ConfigError as error:
        yield f"source: {error.detail}"
        return
    holder = store.leases.holder(f"source:{name}")
    held = "idle" if holder is None else f"being indexed by process {holder.pid} ({holder.role})"
    yield f"source: {name} ({settings.cms_source}) → {settings.cms_collection}, {held}"
    counts = states(store.db, name, settings.cms_collection)
    yield "items: " + (", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none")
    if any(state.startswith("failed") for state in counts):
        yield "  (GET /v1/jobs/{job_id}/failures names them)"


def _job(job: Job) -> str:
    """One job in a line."""
    text = f"{job.job_id} {job.kind} {job.state}"
    if job.collection:
        text += f" in {job.collection}"
    if job.total or job.done:
        text += f", {job.done}" + (f" of {job.total}" if job.total else "")
    text += "".join(
        f", {count} {name}"
        for count, name in (
            (job.faces, "faces"),
            (job.skipped, "skipped"),
            (job.failed, "failed"),
        )
        if count
    )
    if job.eta_s and job.total:
        text += f", {(job.total - job.done) / job.eta_s:.0f}/s, about {duration(job.eta_s)} left"
    if job.state == "stalled" and job.heartbeat_at is not None:
        silent = (dt.datetime.now(dt.UTC) - job.heartbeat_at).total_seconds()
        text += f": no sign of life for {duration(max(0.0, silent))}"
    if job.waiting_for:
        text += f", waiting for a {job.waiting_for}"
    if job.last_error:
        text += f": {job.last_error}"
    if job.result and job.result.get("warning"):
        text += f": {job.result['warning']}"
    return text
