"""What a source of pictures is: a listing of entries, and the bytes of one entry.

A source reads the CMS and never writes to it. An entry that cannot be read (a record of the wrong
shape, a file that is a pipe) is still listed, as `Unusable`, so that it is recorded and not taken
for deleted.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from faces.errors import LikenessError

MAX_MEDIA_ID = 255
_MARKED = 4
"""So many characters at most become one in NFC: a Greek letter with three marks."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture as the source lists it.

    `key` is its id in the source, byte for byte; `media_id` the same in NFC. `version` changes
    when the picture's bytes may have changed, and is None when the source cannot tell. `url` is
    where readers find the picture.
    """

    key: str
    media_id: str
    version: str | None
    url: str | None = None
    title: str | None = None
    taken_at: dt.datetime | None = None
    metadata: dict[str, str | float | bool] = field(default_factory=dict)
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Unusable:
    """A listed thing that cannot be indexed: `reason` is a stable class, `detail` a sentence."""

    key: str
    media_id: str
    reason: str
    detail: str
    version: str | None = None


Listed: TypeAlias = Entry | Unusable


@dataclass(frozen=True, slots=True)
class Listing:
    """One page. `cursor` continues after it and is None on the last page."""

    entries: tuple[Listed, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """A picture's bytes with the validators that a later conditional request may send.

    `data` is None when the source says that nothing changed.
    """

    data: bytes | None
    etag: str | None = None
    modified: str | None = None


class SourcePaused(LikenessError):
    """The source refuses access; nothing was deleted, and the run stopped."""


class SourceUnreadable(LikenessError):
    """The source cannot be listed; nothing was deleted."""


class Gone(LikenessError):
    """The picture is not where its source says it is."""


class Unreadable(LikenessError):
    """One picture cannot be read; `reason` is a stable class, `permanent` until it changes."""

    def __init__(
        self, reason: str, detail: str, *, permanent: bool, retry_after: float | None = None
    ) -> None:
        self.reason = reason
        self.permanent = permanent
        self.retry_after = retry_after
        super().__init__(detail)


class Source(Protocol):
    """Where pictures come from. Methods may be called from several threads at once."""

    kind: str
    namespace: str
    """What the default name is a digest of: the folder, the URL, the database and collection."""

    def pages(self, cursor: str | None) -> Iterator[Listing]:
        """The whole listing from `cursor` on, in a stable order where the source has one.

        Raises SourcePaused or SourceUnreadable; then the listing was not complete.
        """
        ...

    def total(self) -> int | None:
        """About how many entries there are, when that is cheap to know."""
        ...

    def absent(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that are not in the source at this moment."""
        ...

    def lookup(self, keys: Sequence[str]) -> dict[str, Listed]:
        """The entries of `keys` as they are now, for events and retries; what is gone is left out.

        Raises SourcePaused or SourceUnreadable.
        """
        ...

    def read(self, entry: Entry, *, max_bytes: int, etag: str | None, modified: str | None) -> Body:
        """The picture's bytes, at most `max_bytes`.

        Raises Gone, SourcePaused, or Unreadable.
        """
        ...

    def close(self) -> None:
        """Free what the source holds open."""
        ...


def media_id_of(key: str) -> str | None:
    """The media id for a source's key: NFC, 1 to 255 printable characters, else None."""
    if len(key) > MAX_MEDIA_ID * _MARKED:
        return None  # a megabyte of accents would take minutes to be put in order
    text = unicodedata.normalize("NFC", key)
    if not 1 <= len(text) <= MAX_MEDIA_ID or not all(c.isprintable() for c in text):
        return None
    return text
