"""What was stored of a page's items before they are written: three reads for all of them.

It may be stale by the time it is used. Every change to an item's faces or tombstones grows the
item's `rev`, which the write compares: what was stale is then read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from faces import identity
from faces.database import Document
from faces.types import MediaRef


@dataclass(frozen=True, slots=True)
class ItemBefore:
    """One item as stored (None: never there), its faces without vectors, and its tombstones."""

    media: Document | None = None
    faces: Sequence[Document] = ()
    stones: Sequence[Document] = ()


@dataclass(frozen=True, slots=True)
class Before:
    """The items of one page, by the `_id` of their media document."""

    items: Mapping[str, ItemBefore] = field(default_factory=dict)

    @classmethod
    def of_rows(
        cls,
        keys: Iterable[str],
        media: Mapping[str, Document],
        faces: Iterable[Document],
        stones: Iterable[Document],
    ) -> Before:
        """The page, put together from what was read of each collection."""
        by_item: dict[str, tuple[list[Document], list[Document]]] = {k: ([], []) for k in keys}
        for rows, place in ((faces, 0), (stones, 1)):
            for row in rows:
                by_item[identity.media_key(row["collection"], row["media_id"])][place].append(row)
        return cls({key: ItemBefore(media.get(key), *lists) for key, lists in by_item.items()})

    def of(self, ref: MediaRef) -> ItemBefore | None:
        """The item of `ref`, None when it is not of this page."""
        return self.items.get(identity.media_key(ref.collection, ref.media_id))
