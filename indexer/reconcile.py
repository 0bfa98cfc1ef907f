"""Brings the index in step with one source: after a run both agree, whatever happened before."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from faces import identity, item_rules
from faces.errors import ConfigError
from faces.item_before import Before
from faces.records import KnownItem
from faces.store import Store
from faces.types import PIPELINE_VERSION
from indexer.crew import Crew, Half
from indexer.items import Ending, Ready, Result, Task
from indexer.plan import Brake, decide
from indexer.progress import Report, Tally
from indexer.seen import Seen
from indexer.sources.base import Entry, Listed, Listing, Source, SourcePaused, Unusable

NAMED = 1000
"""So many entries that could not be indexed are remembered by name."""
REFUSALS = 3
"""This many answers 401 or 403 without one success between them pause the source."""

_NOTHING_TO_DO: Mapping[str, Ending] = {"skip": "unchanged", "wait": "waiting", "broken": "broken"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. `complete` is false when it was stopped before the end of the listing.

    `held_back` counts the deletions that the brake prevented, `repeated` the entries whose id had
    been listed already.
    """

    tally: Tally
    complete: bool
    held_back: int = 0
    repeated: int = 0

    def result(self) -> dict[str, int | bool]:
        """As a job's result."""
        return {
            **self.tally.counts(),
            "complete": self.complete,
            "held_back": self.held_back,
            **({"repeated": self.repeated} if self.repeated else {}),
        }


class Worker(Protocol):
    """What carries tasks out: `Items`, or `DryItems`, which only says what would be done."""

    def prepare(self, task: Task) -> Result | Ready:
        """The result of one task, or what is to be stored for it."""
        ...

    def store(self, made: Sequence[Ready]) -> list[Result]:
        """The results of what was prepared, stored together."""
        ...

    def unusable(self, listed: Unusable, known: KnownItem | None) -> Result:
        """The result for what cannot be indexed."""
        ...

    def delete(self, key: str, media_id: str) -> Result:
        """What became of an item that is to go, with how many faces went."""
        ...


@dataclass(slots=True)
class _Page:
    """A listed page that is not done yet: its tasks left, and what came of the others."""

    cursor: str | None
    left: int = 0
    results: list[Result] = field(default_factory=list)


class Reconciler:
    """One run over one source. Items of other sources are never looked at."""

    def __init__(
        self,
        store: Store,
        source: Source,
        items: Worker,
        *,
        name: str,
        collection: str,
        brake: Brake,
        allow_deletes: bool,
        again: bool = False,
        threads: int,
        report: Report,
        now: Callable[[], dt.datetime],
        stopping: threading.Event,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """`between` is called after each page: room for what cannot wait for the end."""
        self._between = between
        self._store = store
        self._source = source
        self._items = items
        self._name = name
        self._collection = collection
        self._brake = brake
        self._allow_deletes = allow_deletes
        self._told = {"allow_deletes": allow_deletes, "again": again}
        self._report = report
        self._now = now
        self._stopping = stopping
        self._threads = threads
        self._pages: deque[_Page] = deque()
        self._listed = False
        self._seen = Seen()
        self._refusals = 0
        self._reads = 0
        self._held = 0
        self._tally = Tally()
        self._settled = Tally()

    def run(self, cursor: str | None = None, tally: Tally | None = None) -> Outcome:
        """The outcome of a whole run, or of the rest of one from `cursor` on.

        Raises SourcePaused and SourceUnreadable (nothing was deleted), and whatever stops a run:
        the database full or away, the lease lost, the encoder unusable.
        """
        started = self._now()
        whole = cursor is None
        self._tally = tally or Tally()
        self._settled = dataclasses.replace(self._tally, broken_keys=[])
        self._tally.total = self._source.total()
        # Held by no attribute: what a run loaded is freed with it, and not when a cycle is found.
        crew: Crew[tuple[_Page, Task], tuple[_Page, Result]] = Crew(
            self._prepared, self._stored, size=self._threads, stopping=self._stopping
        )
        try:
            for page, result in crew.run(self._tasks(cursor)):
                self._count(page, result)
                self._settle()
                self._watch_refusals(result)
            if not self._listed or self._stopping.is_set():
                return Outcome(self._tally, complete=False)
            if self._refusals and not self._reads + self._tally.unchanged:
                raise _refused()
            if not whole:
                # The keys before the cursor were seen by a run that did not live to the end.
                self._relist()
            held_back = self._held + self._delete_missing(started)
        finally:
            crew.close()
        return Outcome(
            self._tally,
            complete=not self._stopping.is_set(),
            held_back=held_back,
            repeated=self._seen.repeated() if whole else 0,
        )

    def _tasks(self, cursor: str | None) -> Iterator[tuple[_Page, Task]]:
        """What has to be done, page by page; the next page is read while the crew is at work."""
        for listing in self._source.pages(cursor):
            page = _Page(listing.cursor)
            tasks = self._looked_up(page, listing)
            page.left = len(tasks)
            self._pages.append(page)
            self._settle()
            for task in tasks:
                yield page, task
            if self._stopping.is_set():
                return
        self._listed = True

    def _prepared(self, job: tuple[_Page, Task]) -> tuple[_Page, Result] | Half:
        page, task = job
        done = self._items.prepare(task)
        return Half((page, done), done.put.size) if isinstance(done, Ready) else (page, done)

    def _stored(self, made: Sequence[tuple[_Page, Ready]]) -> list[tuple[_Page, Result]]:
        results = self._items.store([ready for _, ready in made])
        return [(page, result) for (page, _), result in zip(made, results, strict=True)]

    def _settle(self) -> None:
        """Report the pages that are done, in their order: a later attempt goes on behind them."""
        while self._pages and not self._pages[0].left:
            page = self._pages.popleft()
            for result in page.results:
                _add(self._settled, result)
            self._report.page(page.cursor, self._settled)
            if not self._stopping.is_set():
                self._between()

    def _looked_up(self, page: _Page, listing: Listing) -> list[Task]:
        """The tasks of a page; what needs none is counted."""
        entries = list({entry.key: entry for entry in listing.entries}.values())
        self._seen.add(entry.key for entry in listing.entries)
        found = self._store.known_by_ids(
            self._name, self._collection, [entry.media_id for entry in entries]
        )
        known = {stored.source_key: stored for stored in found.values()}
        if not known and not self._pages and not self._settled.done:
            self._check_not_moved(entries[:3])
        fresh = [entry.media_id for entry in entries if entry.key not in known]
        buried = self._store.tombstoned(self._collection, fresh) if fresh else set()
        now = self._now()
        tasks: list[Task] = []
        for entry in entries:
            stored = known.get(entry.key)
            if isinstance(entry, Unusable):
                self._count_now(page, self._items.unusable(entry, stored))
            elif stored is None and entry.media_id in buried:
                self._count_now(page, Result(entry.key, "tombstoned"))
            else:
                step = decide(entry, stored, pipeline=PIPELINE_VERSION, now=now, **self._told)
                if ending := _NOTHING_TO_DO.get(step.verb):
                    self._count_now(page, nothing_to_do(entry, stored, ending))
                else:
                    tasks.append(Task(entry, stored, step))
        return self._informed(page, tasks)

    def _check_not_moved(self, first: Sequence[Listed]) -> None:
        """Raises ConfigError when this source fills another collection already."""
        items = [self._store.item_of_source(self._name, entry.key) for entry in first]
        others = [i.collection for i in items if i and i.collection != self._collection]
        if others and len(others) == len(items):
            raise ConfigError(
                f"The source {self._name} fills collection `{others[0]}` already, and an item"
                f" cannot be in two: set CMS_COLLECTION={others[0]} again, or a CMS_SOURCE_NAME of"
                " its own for this collection. Nothing was changed."
            )

    def _informed(self, page: _Page, tasks: list[Task]) -> list[Task]:
        """The tasks with what is stored of their items; ids of others are not even fetched."""
        wanted = [task.entry.media_id for task in tasks if task.step.verb == "fetch"]
        before = self._store.before(self._collection, wanted) if wanted else Before()
        mine = []
        for task in tasks:
            key = identity.media_key(self._collection, task.entry.media_id)
            media = before.items[key].media if key in before.items else None
            if detail := item_rules.taken(media, self._name, task.entry.key):
                result = Result(task.entry.key, "conflicts", reason="conflict", detail=detail)
                self._count_now(page, result)
            else:
                mine.append(dataclasses.replace(task, before=before))
        return mine

    def _count(self, page: _Page, result: Result) -> None:
        """Count what came of a task; one that was stopped is still to be done."""
        if result.ending != "stopped":
            page.left -= 1
            self._count_now(page, result)

    def _count_now(self, page: _Page, result: Result) -> None:
        page.results.append(result)
        self._held += result.held
        tally = self._tally
        _add(tally, result)
        if result.ending in ("failed", "broken", "conflicts", "deleted"):
            if len(tally.broken_keys) < NAMED:
                tally.broken_keys.append((result.key, result.reason or "failed"))
            if not result.again:
                self._report.failure(result.key, result.reason or "failed", result.detail)
        self._report.step(tally)

    def _watch_refusals(self, result: Result) -> None:
        if result.read:
            self._reads += 1
            self._refusals = 0
        elif result.refused:
            self._refusals += 1
            if self._refusals >= REFUSALS:
                raise _refused()

    def _relist(self) -> None:
        for listing in self._source.pages(None):
            self._seen.add(entry.key for entry in listing.entries)
            if self._stopping.is_set():
                return

    def _delete_missing(self, started: dt.datetime) -> int:
        """Delete what a complete listing no longer holds; how many the brake kept.

        An item written since the run began was not missing, only later than the listing.
        """
        known, missing = 0, []
        for item in self._store.known_items(self._name, self._collection):
            if self._stopping.is_set():
                return 0
            known += 1
            if item.source_key not in self._seen and item.updated_at < started:
                missing.append((item.source_key, item.media_id))
        if not missing:
            return 0
        absent = self._source.absent([key for key, _ in missing])
        going = [(key, media_id) for key, media_id in missing if key in absent]
        if not self._allow_deletes and self._brake.holds(len(going), known):
            return len(going)
        for key, media_id in going:
            if self._stopping.is_set():
                break
            result = self._items.delete(key, media_id)
            if result.ending != "unchanged":
                self._tally.count(result.ending, result.faces)
            if result.reason is not None:
                self._report.failure(key, result.reason, result.detail)
            self._report.step(self._tally)
        return 0


def _add(tally: Tally, result: Result) -> None:
    tally.count(result.ending, result.faces)
    if result.ending == "deleted":
        tally.failed += 1  # listed, but not to be found


def _refused() -> SourcePaused:
    return SourcePaused(
        "The media server refuses access (401 or 403), so the run stopped. Nothing was deleted:"
        " check its access rules, the next run goes on from here."
    )


def nothing_to_do(entry: Entry, stored: KnownItem | None, ending: Ending) -> Result:
    """The result for an entry that nothing is done about: hidden, unchanged, waiting or broken."""
    if ending == "unchanged" and entry.hidden:
        return Result(entry.key, "hidden")
    if ending == "broken" and stored is not None:
        return Result(entry.key, ending, reason=stored.error, again=True)
    return Result(entry.key, ending)


def held_back(count: int, ratio: float) -> str:
    """What to say of deletions that the brake prevented."""
    return (
        f"{count} items are gone from the source, or their pictures from its server for more than"
        f" a day: more than INDEX_MAX_DELETE_RATIO ({ratio:g}) allows, so none was deleted. Look at"
        " the source first; if it is right, run `python -m indexer once --allow-deletes`."
    )


def server_clock(read: Callable[[], dt.datetime]) -> Callable[[], dt.datetime]:
    """A clock that shows the database server's time, read once and carried on from there."""
    base, at = read(), time.monotonic()
    return lambda: base + dt.timedelta(seconds=time.monotonic() - at)
