"""Brings single items up to date, for the CMS's own events: what a reconcile does, by key."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence

from faces.records import KnownItem
from faces.store import Store
from faces.types import PIPELINE_VERSION
from indexer.items import Items, Result, Task
from indexer.plan import decide
from indexer.sources.base import Listed, Source, Unusable, media_id_of

PAGE = 100


class Sync:
    """Looks single keys of a source up and carries out what they need."""

    def __init__(
        self,
        store: Store,
        source: Source,
        items: Items,
        *,
        name: str,
        collection: str,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._store = store
        self._source = source
        self._items = items
        self._name = name
        self._collection = collection
        self._now = now

    def run(self, changed: Sequence[str], deleted: Sequence[str]) -> Iterator[Result]:
        """The result for each key: the source is asked what it has now, as events may come late.

        An item is deleted when the source confirms that it is gone.
        """
        keys = list(dict.fromkeys([*changed, *deleted]))
        for start in range(0, len(keys), PAGE):
            page = keys[start : start + PAGE]
            listed = self._source.lookup(page)
            ids = {key: media_id_of(key) for key in page}
            ids |= {key: entry.media_id for key, entry in listed.items()}
            wanted = [media_id for media_id in ids.values() if media_id is not None]
            known = self._store.known_by_ids(self._name, self._collection, wanted)
            for key in page:
                stored = known.get(ids[key] or "")
                mine = stored if stored is not None and stored.source_key == key else None
                yield self._one(key, listed.get(key), mine)

    def _one(self, key: str, listed: Listed | None, known: KnownItem | None) -> Result:
        if listed is None:
            if known is None:
                return Result(key, "unchanged")
            return self._items.delete(key, known.media_id)
        if isinstance(listed, Unusable):
            return self._items.unusable(listed, known)
        if known is None and self._store.tombstoned(self._collection, [listed.media_id]):
            return Result(key, "tombstoned")
        step = decide(listed, known, pipeline=PIPELINE_VERSION, now=self._now())
        if step.verb == "skip":
            return Result(key, "unchanged")
        if step.verb in ("wait", "broken"):
            return Result(key, "waiting" if step.verb == "wait" else "broken")
        return self._items.carry_out(Task(listed, known, step))
