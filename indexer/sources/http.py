"""Pictures that a CMS lists as paged JSON: `{"items": […], "next_cursor": …}`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import httpx2

from faces.errors import FetchError, FetchFailed
from indexer.retry import pause_s
from indexer.sources import listed
from indexer.sources.base import Body, Entry, Listed, Listing, SourcePaused, SourceUnreadable
from indexer.sources.media import MediaReader
from indexer.sources.records import Reader

if TYPE_CHECKING:
    from faces.fetch import Fetcher

MAX_URL_LENGTH = 8192
"""What the fetcher takes."""
MAX_LISTING_BYTES = 16 * 1024 * 1024
MAX_PAGES = 1_000_000


class HttpSource:
    """The listing at `url`, each page continued with `?cursor=`. `media` reads the pictures."""

    kind = "http"

    def __init__(
        self,
        url: str,
        reader: Reader,
        listing: Fetcher,
        media: MediaReader,
        stopping: threading.Event,
    ) -> None:
        self.namespace = url
        self._url = httpx2.URL(url)
        self._reader = reader
        self._listing = listing
        self._media = media
        self._stopping = stopping

    def close(self) -> None:
        """Close the connections."""
        self._listing.close()
        self._media.close()

    def total(self) -> int | None:
        """Unknown: a listing does not say how long it is."""
        return None

    def pages(self, cursor: str | None) -> Iterator[Listing]:
        """All pages from `cursor` on. A cursor that comes twice ends in SourceUnreadable."""
        seen: set[str] = set()
        while True:
            items, following = self._page(cursor)
            entries = tuple(e for e in map(self._reader.read, items) if e is not None)
            yield Listing(entries, following)
            if following is None:
                return
            if following in seen or len(seen) == MAX_PAGES:
                raise SourceUnreadable(
                    "The listing's cursor goes round in a circle. Nothing was deleted: the CMS has"
                    ' to answer the page after `?cursor=`, and "next_cursor": null at the end.'
                )
            seen.add(following)
            cursor = following

    def absent(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that a second listing lacks too: items move between pages meanwhile."""
        return set(keys) - set(self.lookup(keys))

    def lookup(self, keys: Sequence[str]) -> dict[str, Listed]:
        """The entries with these keys, found by reading the listing once, as far as needed."""
        wanted = set(keys)
        found: dict[str, Listed] = {}
        if wanted:
            for page in self.pages(None):
                found |= {entry.key: entry for entry in page.entries if entry.key in wanted}
                if len(found) == len(wanted):
                    break
        return found

    def read(self, entry: Entry, *, max_bytes: int, etag: str | None, modified: str | None) -> Body:
        """The picture behind the entry's URL."""
        return self._media.read(entry, max_bytes=max_bytes, etag=etag, modified=modified)

    def _page(self, cursor: str | None) -> tuple[list[Any], str | None]:
        url = self._at(cursor)
        attempt = 0
        while True:
            attempt += 1
            try:
                fetched = self._listing.get(
                    url, max_bytes=MAX_LISTING_BYTES, headers={"Accept": "application/json"}
                )
                break
            except FetchFailed as error:
                if error.status in (401, 403):
                    raise SourcePaused(
                        f"The CMS refuses its listing (status {error.status}): check its access"
                        " rules. Nothing was deleted."
                    ) from error
                wait = pause_s(error, attempt)
                if wait is None or self._stopping.wait(wait):
                    raise SourceUnreadable(
                        f"The CMS's listing could not be read: {error.detail} Nothing was deleted."
                    ) from error
            except FetchError as error:
                raise SourceUnreadable(
                    "CMS_HTTP_URL leads to an address that may not be fetched: it may redirect"
                    " within its own origin only, and an address of your own network has to be"
                    " written as such, with its port. Nothing was deleted."
                ) from error
        try:
            page = listed.parse(fetched.body)
        except ValueError:
            page = None
        if not isinstance(page, dict) or not isinstance(page.get("items"), list):
            raise SourceUnreadable(
                'The CMS\'s listing is not JSON of the form {"items": […], "next_cursor": …}.'
                " Nothing was deleted."
            )
        following = page.get("next_cursor")
        if isinstance(following, bool) or not isinstance(following, str | int | None):
            raise SourceUnreadable(
                "The listing's next_cursor is neither text, a number nor null. Nothing was deleted."
            )
        return page["items"], None if following in (None, "") else str(following)

    def _at(self, cursor: str | None) -> str:
        """The address of the page at a cursor. Raises SourceUnreadable."""
        url = str(self._url)
        if cursor is not None:
            try:
                url = str(self._url.copy_merge_params({"cursor": cursor}))
            except (httpx2.InvalidURL, ValueError):  # as for half a character
                url = ""
        if not 0 < len(url) <= MAX_URL_LENGTH:
            raise SourceUnreadable(
                "The listing's next_cursor cannot be asked for: it has to be text that fits into an"
                f" address of {MAX_URL_LENGTH} characters. Nothing was deleted."
            )
        return url
