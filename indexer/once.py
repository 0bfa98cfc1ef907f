"""The commands that work at once, in their own process, and still show as jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from faces.audit import Audit
from faces.database import connect, database
from faces.errors import ConfigError
from faces.job_run import Cancelled, JobRun, run_claimed
from faces.leases import Holder
from faces.settings import Settings
from faces.store import Store
from indexer.handlers import JobReport
from indexer.progress import Console, Tally, summary
from indexer.reconcile import Outcome, held_back
from indexer.run import LeaseHeld, Run, open_run


@dataclass(frozen=True, slots=True)
class Said:
    """What a finished run has to say."""

    summary: str
    warnings: tuple[str, ...]


class Once:
    """`indexer once`: a reconcile in this process, drawn on `stream`, recorded as a job."""

    def __init__(self, settings: Settings, stopping: threading.Event, stream: TextIO) -> None:
        self._settings = settings
        self._stopping = stopping
        self._console = Console(stream)
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        self._conflict: str | None = None

    def run(
        self, *, allow_deletes: bool, deadline_s: float | None, again: bool = False
    ) -> Said | None:
        """What the run has to say, or None when another process holds the source's lease.

        Raises what stopped the run.
        """
        client = connect(self._settings, "worker")
        began = time.monotonic()
        timer = threading.Timer(deadline_s or 0, self._stopping.set)
        timer.daemon = True
        try:
            store = Store(database(client, self._settings))
            with open_run(store, self._settings, stopping=self._stopping, role="once") as opened:
                if deadline_s is not None:
                    timer.start()
                name, collection = opened.name, opened.collection
                self._as_job(store, opened, allow_deletes=allow_deletes, again=again)
        except LeaseHeld:
            return None
        finally:
            timer.cancel()
            self._console.clear()
            client.close()
        if self._outcome is None:
            raise self._error or ConfigError("The run ended without a result.")
        seconds = time.monotonic() - began
        return Said(
            summary(self._outcome.tally, seconds, name=name, collection=collection),
            tuple(self._warnings(self._outcome)),
        )

    def _as_job(self, store: Store, opened: Run, *, allow_deletes: bool, again: bool) -> None:
        params = {"source": opened.name, "allow_deletes": allow_deletes, "trigger": "once"}
        holder = Holder.this_process("once")
        document = store.jobs.begin("backfill", opened.collection, params, holder)

        def handler(run: JobRun) -> Mapping[str, Any]:
            report = Both(self._console, JobReport(run, self._stopping))
            try:
                self._outcome = opened.reconcile(
                    report=report, allow_deletes=allow_deletes, again=again
                )
                self._conflict = report.conflict
                report.job.raise_ended()
            except Exception as error:
                self._error, self._outcome = error, None
                raise
            if not self._outcome.complete:
                raise Cancelled
            result = {"source": opened.name, **self._outcome.result()}
            if self._outcome.held_back:
                result["warning"] = self._held_back(self._outcome)
            return result

        run_claimed(store, document, handler)

    def _held_back(self, outcome: Outcome) -> str:
        return held_back(outcome.held_back, self._settings.index_max_delete_ratio)

    def _warnings(self, outcome: Outcome) -> Iterator[str]:
        if outcome.held_back:
            yield self._held_back(outcome)
        if self._conflict is not None:
            yield f"{outcome.tally.conflicts} pictures were left out: {self._conflict}"
        if outcome.tally.broken:
            yield (
                f"{outcome.tally.broken} pictures are set aside until they change in the CMS; `once"
                " --again` tries them all the same."
            )
        if outcome.repeated:
            yield (
                f"{outcome.repeated} entries of the listing had an id that was listed already, and"
                " of each id one picture is kept: if CMS_FIELD_ID names a field that is not"
                " unique, name another."
            )
        if not outcome.complete:
            yield "stopped before the end; the next run goes on."


class Both:
    """A report to the console and to a job."""

    def __init__(self, console: Console, job: JobReport) -> None:
        self._console = console
        self.job = job
        self.conflict: str | None = None
        """What to say of the first id that another source owns."""

    def step(self, tally: Tally) -> None:
        """Pass on."""
        self._console.step(tally)
        self.job.step(tally)

    def failure(self, key: str, reason: str, detail: str) -> None:
        """Pass on."""
        if reason == "conflict" and self.conflict is None:
            self.conflict = detail
        self.job.failure(key, reason, detail)

    def page(self, cursor: str | None, tally: Tally) -> None:
        """Pass on."""
        self.job.page(cursor, tally)


def audit(
    settings: Settings, collection: str | None, *, fix: bool, stream: TextIO
) -> Iterator[str]:
    """The findings of an audit, a line each."""
    client = connect(settings, "worker")
    try:
        store = Store(database(client, settings))
        active = store.active_model()
        if active is None:
            raise ConfigError(
                "The database is not set up yet: run `python -m migrations up` first."
            )
        work = Audit(store.db, active, collection=collection, fix=fix)
        findings = work.run(_counting(stream, work.total()))
    finally:
        client.close()
    wrong = 0
    for name, finding in findings.items():
        wrong += finding.count
        line = f"{name.replace('_', ' ')}: {finding.count}"
        if finding.count:
            line += f" ({', '.join(finding.examples)}{', …' if finding.count > 5 else ''})"
        if finding.fixed:
            line += f"; mended or marked for the next run: {finding.fixed}"
        yield line
    if wrong and not fix:
        yield "Nothing was changed: run `python -m indexer audit --fix` to mend what can be."


def _counting(stream: TextIO, total: int) -> Callable[[int], None]:
    """Shows how far an audit is: in place on a terminal, a line every few seconds elsewhere."""
    state = {"last": time.monotonic()}
    terminal = stream.isatty()

    def show(done: int) -> None:
        now = time.monotonic()
        if terminal:
            stream.write(f"\r\x1b[2K{'' if done >= total else f'audit: {done} of {total}'}")
        elif now - state["last"] >= 5:
            stream.write(f"audit: {done} of {total}\n")
            state["last"] = now
        stream.flush()

    return show
