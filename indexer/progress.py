"""How a run shows itself: a bar on a terminal, a line every few seconds elsewhere, one summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Protocol, TextIO

_NAMED = 10


@dataclass(slots=True)
class Tally:
    """What a run has done so far. Every listed entry counts in exactly one of the first ten."""

    indexed: int = 0
    no_face: int = 0
    updated: int = 0
    unchanged: int = 0
    hidden: int = 0
    waiting: int = 0
    failed: int = 0
    broken: int = 0
    conflicts: int = 0
    tombstoned: int = 0
    faces: int = 0
    deleted: int = 0
    faces_deleted: int = 0
    total: int | None = None
    broken_keys: list[tuple[str, str]] = field(default_factory=list)

    def count(self, ending: str, faces: int) -> None:
        """Add one entry; `deleted` counts an item, not a listed entry."""
        if ending == "stopped":
            return
        setattr(self, ending, getattr(self, ending) + 1)
        if ending == "indexed":
            self.faces += faces
        elif ending == "deleted":
            self.faces_deleted += faces

    @property
    def done(self) -> int:
        """Entries dealt with."""
        return (
            self.indexed
            + self.no_face
            + self.updated
            + self.unchanged
            + self.hidden
            + self.waiting
            + self.failed
            + self.broken
            + self.conflicts
            + self.tombstoned
        )

    @property
    def skipped(self) -> int:
        """Entries that needed no picture."""
        return self.unchanged + self.hidden + self.waiting + self.broken + self.tombstoned

    def counts(self) -> dict[str, int]:
        """The counts that are not zero, for a job's result."""
        return {k: v for k, v in asdict(self).items() if isinstance(v, int) and v and k != "total"}


class Report(Protocol):
    """Whoever wants to know how far a run is."""

    def step(self, tally: Tally) -> None:
        """Called after every entry; must be quick."""
        ...

    def failure(self, key: str, reason: str, detail: str) -> None:
        """Called for each entry that could not be indexed."""
        ...

    def page(self, cursor: str | None, tally: Tally) -> None:
        """Called when everything up to `cursor` is done."""
        ...


class Console:
    """Draws a run on a stream: a bar when it is a terminal, else a line every `every` seconds."""

    def __init__(
        self,
        stream: TextIO,
        *,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        width: int = 28,
    ) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._every = 0.1 if self._terminal else every
        self._clock = clock
        self._width = width
        self._started = clock()
        self._last = self._started
        self._drawn = False

    def step(self, tally: Tally) -> None:
        """Draw when it is time to."""
        now = self._clock()
        if now - self._last < self._every and not (self._terminal and not self._drawn):
            return
        self._last = now
        text = self._text(tally, now)
        if self._terminal:
            self._stream.write(f"\r\x1b[2K{text}")
            self._drawn = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def failure(self, key: str, reason: str, detail: str) -> None:
        """Broken entries are named in the summary."""

    def page(self, cursor: str | None, tally: Tally) -> None:
        """Pages are not shown."""

    def clear(self) -> None:
        """Take the bar away before other output."""
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._drawn = False

    def _text(self, tally: Tally, now: float) -> str:
        seconds = max(now - self._started, 1e-6)
        rate = tally.done / seconds
        tail = f"{tally.faces} faces, {rate:.0f}/s"
        if not tally.total:
            return f"indexing: {tally.done} pictures, {tail}"
        share = min(1.0, tally.done / tally.total)
        left = (tally.total - tally.done) / rate if rate and tally.total > tally.done else 0.0
        tail += f", {duration(left)} left"
        if not self._terminal:
            return f"indexing: {tally.done} of {tally.total} pictures, {tail}"
        full = round(share * self._width)
        bar = "█" * full + "░" * (self._width - full)
        return f"indexing {bar} {tally.done}/{tally.total} pictures, {tail}"


def summary(tally: Tally, seconds: float, *, name: str, collection: str) -> str:
    """One line of what a run did, with broken entries by name (the first few)."""
    parts = [f"{tally.indexed + tally.no_face} indexed ({tally.faces} faces)"]
    for count, text in (
        (tally.no_face, "of them without a face"),
        (tally.updated, "updated (same picture)"),
        (tally.unchanged, "unchanged"),
        (tally.hidden, "not public (CMS_VISIBLE_STATUSES)"),
        (tally.deleted, f"deleted ({tally.faces_deleted} faces)"),
        (tally.waiting, "waiting for another try"),
        (tally.tombstoned, "deleted through the API and left out"),
        (tally.conflicts, "with an id that is taken"),
        (tally.failed, "failed"),
        (tally.broken, "still broken"),
    ):
        if count:
            parts.append(f"{count} {text}")
    line = f"{name} → {collection}: {tally.done} pictures in {duration(seconds)}: "
    line += ", ".join(parts)
    if tally.broken_keys:
        named = [f"{_printable(key)} ({reason})" for key, reason in tally.broken_keys[:_NAMED]]
        more = tally.failed + tally.broken + tally.conflicts - len(named)
        line += ". Not indexed: " + ", ".join(named) + (f" and {more} more" if more > 0 else "")
    return line


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _printable(key: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in key)
