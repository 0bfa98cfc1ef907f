"""Brings the index in step with one source: after a run both agree, whatever happened before."""

from __future__ import annotations

import array
import dataclasses
import datetime as dt
import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from faces import identity
from faces.item_before import Before
from faces.records import KnownItem
from faces.store import Store
from faces.types import PIPELINE_VERSION
from indexer.crew import Crew
from indexer.items import Result, Task
from indexer.plan import Brake, decide
from indexer.progress import Report, Tally
from indexer.sources.base import Entry, Listing, Source, SourcePaused, Unusable

NAMED = 1000
"""So many entries that could not be indexed are remembered by name."""
REFUSALS = 3
"""This many answers 401 or 403 without one success between them pause the source."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. `complete` is false when it was stopped before the end of the listing.

    `held_back` counts the deletions that the brake prevented.
    """

    tally: Tally
    complete: bool
    held_back: int = 0

    def result(self) -> dict[str, int | bool]:
        """As a job's result."""
        return {
            **self.tally.counts(),
            "complete": self.complete,
            "held_back": self.held_back,
        }


class Worker(Protocol):
    """What carries tasks out: `Items`, or `DryItems`, which only says what would be done."""

    def carry_out(self, task: Task) -> Result:
        """The result of one task."""
        ...

    def unusable(self, listed: Unusable, known: KnownItem | None) -> Result:
        """The result for what cannot be indexed."""
        ...

    def delete(self, media_id: str) -> int:
        """How many faces went with a deleted item."""
        ...


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
        self._report = report
        self._now = now
        self._stopping = stopping
        self._crew: Crew[Task, Result] = Crew(items.carry_out, size=threads, stopping=stopping)
        self._seen = Seen()
        self._refusals = 0
        self._reads = 0
        self._tally = Tally()

    def run(self, cursor: str | None = None, tally: Tally | None = None) -> Outcome:
        """The outcome of a whole run, or of the rest of one from `cursor` on.

        Raises SourcePaused and SourceUnreadable (nothing was deleted), and whatever stops a run:
        the database full or away, the lease lost, the encoder unusable.
        """
        started = self._now()
        whole = cursor is None
        self._tally = tally or Tally()
        self._tally.total = self._source.total()
        try:
            for listing in self._source.pages(cursor):
                self._page(listing)
                if self._stopping.is_set():
                    return Outcome(self._tally, complete=False)
                self._report.page(listing.cursor, self._tally)
                self._between()
            if self._refusals and not self._reads + self._tally.unchanged:
                raise _refused()
            if not whole:
                # The keys before the cursor were seen by a run that did not live to the end.
                self._relist()
            held_back = self._delete_missing(started)
        finally:
            self._crew.close()
        return Outcome(self._tally, complete=not self._stopping.is_set(), held_back=held_back)

    def _page(self, listing: Listing) -> None:
        entries = list({entry.key: entry for entry in listing.entries}.values())
        self._seen.add(entry.key for entry in listing.entries)
        known = self._store.known_by_keys(self._name, [entry.key for entry in entries])
        fresh = [entry.media_id for entry in entries if entry.key not in known]
        buried = self._store.tombstoned(self._collection, fresh) if fresh else set()
        now = self._now()
        tasks: list[Task] = []
        for entry in entries:
            stored = known.get(entry.key)
            if isinstance(entry, Unusable):
                self._count(self._items.unusable(entry, stored))
            elif stored is None and entry.media_id in buried:
                self._count(Result(entry.key, "tombstoned"))
            else:
                tasks += self._task(entry, stored, now)
        for result in self._crew.run(self._informed(tasks)):
            self._count(result)
            self._watch_refusals(result)

    def _informed(self, tasks: list[Task]) -> list[Task]:
        """The tasks with what is stored of their items; ids of others are not even fetched."""
        wanted = [task.entry.media_id for task in tasks if task.step.verb == "fetch"]
        before = self._store.before(self._collection, wanted) if wanted else Before()
        mine = []
        for task in tasks:
            key = identity.media_key(self._collection, task.entry.media_id)
            media = before.items[key].media if key in before.items else None
            if media is not None and media["state"] != "gone" and media["source"] != self._name:
                detail = "Another source owns this id."
                self._count(Result(task.entry.key, "conflicts", reason="conflict", detail=detail))
            else:
                mine.append(dataclasses.replace(task, before=before))
        return mine

    def _task(self, entry: Entry, stored: KnownItem | None, now: dt.datetime) -> list[Task]:
        step = decide(entry, stored, pipeline=PIPELINE_VERSION, now=now)
        match step.verb:
            case "skip":
                self._count(Result(entry.key, "unchanged"))
            case "wait":
                self._count(Result(entry.key, "waiting"))
            case "broken":
                self._count(Result(entry.key, "broken", reason="as before"))
            case _:
                return [Task(entry, stored, step)]
        return []

    def _count(self, result: Result) -> None:
        tally = self._tally
        tally.count(result.ending, result.faces)
        if result.ending == "deleted":
            tally.failed += 1  # listed, but not to be found
        if result.ending in ("failed", "broken", "conflicts", "deleted"):
            if len(tally.broken_keys) < NAMED:
                tally.broken_keys.append((result.key, result.reason or "failed"))
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
        going = [media_id for key, media_id in missing if key in absent]
        if not self._allow_deletes and self._brake.holds(len(going), known):
            return len(going)
        for media_id in going:
            if self._stopping.is_set():
                break
            self._tally.faces_deleted += self._items.delete(media_id)
            self._tally.deleted += 1
            self._report.step(self._tally)
        return 0


class Seen:
    """The keys of a listing, 8 bytes each: a million of them take 8 MB.

    Two keys fall together once in 10^19 pairs; the later of them is then kept a run too long.
    """

    def __init__(self) -> None:
        self._hashes = array.array("Q")
        self._sorted: np.ndarray | None = None

    def add(self, keys: Iterable[str]) -> None:
        """Remember `keys`."""
        self._hashes.extend(map(_hash, keys))
        self._sorted = None

    def __contains__(self, key: str) -> bool:
        if self._sorted is None:
            self._sorted = np.unique(np.frombuffer(self._hashes, np.uint64))
        at = int(np.searchsorted(self._sorted, _hash(key)))
        return at < len(self._sorted) and int(self._sorted[at]) == _hash(key)


def _hash(key: str) -> int:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _refused() -> SourcePaused:
    return SourcePaused(
        "The media server refuses access (401 or 403), so the run stopped. Nothing was deleted:"
        " check its access rules, the next run goes on from here."
    )


def server_clock(read: Callable[[], dt.datetime]) -> Callable[[], dt.datetime]:
    """A clock that shows the database server's time, read once and carried on from there."""
    base, at = read(), time.monotonic()
    return lambda: base + dt.timedelta(seconds=time.monotonic() - at)
