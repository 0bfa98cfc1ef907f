"""What to do about each listed entry, decided from values alone."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import Literal, TypeAlias

from faces.records import KnownItem
from indexer.sources.base import Entry
from indexer.stamp import Stamp, decode, stamp_of

LOOKS = 3
"""So often a missing picture is looked for before it counts as gone."""
Verb: TypeAlias = Literal["skip", "inform", "fetch", "wait", "broken"]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do about one entry, and the stamp to store with it.

    `skip`: nothing changed. `inform`: write title, URL or visibility, fetch nothing. `fetch`: read
    the bytes, under the validators of `conditions` when given. `wait`: a failure whose next attempt
    is not due. `broken`: a failure that lasts until the item changes.
    """

    verb: Verb
    stamp: Stamp
    conditions: Stamp | None = None


def decide(
    entry: Entry,
    known: KnownItem | None,
    *,
    pipeline: str,
    now: dt.datetime,
    allow_deletes: bool = False,
    again: bool = False,
) -> Step:
    """The step for one entry, given what is stored of it and the pipeline's version.

    With `allow_deletes` a missing picture that the brake held does not wait for its next look; with
    `again` no failure waits, and what was set aside is tried anew.
    """
    stamp = stamp_of(entry, pipeline)
    if known is None or known.state == "gone":
        # What is not published and was never indexed is nobody's business yet.
        return Step("skip" if entry.hidden else "fetch", stamp)
    old = decode(known.etag)
    if entry.hidden:
        return _inform(entry, known, old, stamp)
    same = (
        old is not None
        and stamp.version is not None
        and (old.version, old.pipeline) == (stamp.version, pipeline)
    )
    if same and known.state != "failed":
        return _inform(entry, known, old, stamp)
    if same and known.error_permanent and not again:
        return Step("broken", stamp)
    # A source that cannot tell versions apart at least knows when title and URL are the same.
    alike = same or (stamp.version is None and old is not None and old.info == stamp.info)
    later = known.state == "failed" and known.next_at is not None and known.next_at > now
    held = known.error == "not_found" and known.attempts >= LOOKS and known.sha256 is not None
    if alike and later and not again and not (allow_deletes and held):
        return Step("wait", stamp)
    # Validators speak of the bytes at one URL, seen by this pipeline and made faces of.
    seen = old is not None and old.pipeline == pipeline and known.state in ("done", "no_face")
    usable = seen and known.url == entry.url
    return Step("fetch", stamp, old if usable else None)


def _inform(entry: Entry, known: KnownItem, old: Stamp | None, stamp: Stamp) -> Step:
    # The old version and validators stay: what is stored was made from those bytes.
    kept = dataclasses.replace(old, info=stamp.info) if old else stamp
    if known.url != entry.url:
        kept = dataclasses.replace(kept, etag=None, modified=None)
    if old is not None and old.info == stamp.info and known.hidden == entry.hidden:
        return Step("skip", kept)
    return Step("inform", kept)


@dataclass(frozen=True, slots=True)
class Brake:
    """Holds deletions back when a run would remove a suspiciously large part of a source."""

    ratio: float
    least: int = 20

    def holds(self, going: int, known: int) -> bool:
        """Whether `going` of `known` items are too many to delete without being told to."""
        return going > self.least and going > self.ratio * known
