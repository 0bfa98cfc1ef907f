"""Reading the pictures that records point to: safely, politely, and with patience.

Each host gets a few connections at a time and a bounded rate; one that asks for a longer rest is
left alone until then, and one that does not answer at all for some minutes, while the other hosts'
pictures go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faces.errors import FetchFailed
from indexer.retry import pause_s
from indexer.sources.base import Body, Entry, Gone, Unreadable

if TYPE_CHECKING:
    from faces.fetch import Fetched, Fetcher

CONCURRENT = 4
PER_SECOND = 100.0
SILENT_S = 60.0
SILENT_TRIES = 8
"""A host that answered none of so many requests for so long is left alone for a while."""
ALONE_S = 300.0


class Forbidden(Unreadable):
    """The media server refuses us (401 or 403)."""

    def __init__(self, detail: str) -> None:
        super().__init__("forbidden", detail, permanent=False)


class Host:
    """One media host: its places, its pace and the rest that it asked for."""

    def __init__(self, concurrent: int, per_second: float) -> None:
        self.places = threading.BoundedSemaphore(concurrent)
        self._gap = 1 / per_second
        self._next = 0.0
        self._rest_until = 0.0
        self._silent_since: float | None = None
        self._silent = 0
        self._lock = threading.Lock()

    def turn(self, now: float) -> float:
        """Seconds to wait before the next request."""
        with self._lock:
            start = max(now, self._next)
            self._next = start + self._gap
            return start - now

    def rest(self, until: float) -> None:
        """Leave the host alone until then."""
        with self._lock:
            self._rest_until = max(self._rest_until, until)

    def answered(self) -> None:
        """It lives."""
        with self._lock:
            self._silent_since, self._silent = None, 0

    def silent(self, now: float) -> None:
        """It did not answer a request; one that keeps silent is left alone."""
        with self._lock:
            if self._silent_since is None:
                self._silent_since = now
            self._silent += 1
            if self._silent >= SILENT_TRIES and now - self._silent_since >= SILENT_S:
                self._rest_until = max(self._rest_until, now + ALONE_S)

    def resting(self, now: float) -> float:
        """Seconds of rest left."""
        return max(0.0, self._rest_until - now)


class MediaReader:
    """Reads pictures by URL through the safe fetcher. `stopping` ends waits early."""

    def __init__(
        self,
        fetcher: Fetcher,
        stopping: threading.Event,
        *,
        concurrent: int = CONCURRENT,
        per_second: float = PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher = fetcher
        self._stopping = stopping
        self._limits = (concurrent, per_second)
        self._clock = clock
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the kept connections."""
        self._fetcher.close()

    def read(self, entry: Entry, *, max_bytes: int, etag: str | None, modified: str | None) -> Body:
        """The picture's bytes. Raises Gone, Forbidden, Unreadable, or the fetcher's own errors."""
        if entry.url is None:
            raise Unreadable("bad_record", "The record has no URL.", permanent=True)
        host = self._host(urlsplit(entry.url).netloc)
        attempt = 0
        while True:
            attempt += 1
            with host.places:
                if (left := host.resting(self._clock())) > 0:
                    raise Unreadable(
                        "host_resting",
                        "Its server asked for a pause, or has not answered for a minute.",
                        permanent=False,
                        retry_after=left,
                    )
                self._stopping.wait(host.turn(self._clock()))
                try:
                    fetched = self._fetcher.get(
                        entry.url, max_bytes=max_bytes, etag=etag, last_modified=modified
                    )
                except FetchFailed as error:
                    failed = error
                else:
                    host.answered()
                    return _body(fetched)
                if failed.reason in ("timeout", "unreachable"):
                    host.silent(self._clock())
                else:
                    host.answered()
                wait = pause_s(failed, attempt)
                if wait is None and failed.retry_after and failed.status in (429, 503):
                    host.rest(self._clock() + failed.retry_after)
            if failed.status in (401, 403):
                raise Forbidden(failed.detail) from failed
            if failed.status in (404, 410):
                raise Gone from failed
            if wait is None or self._stopping.wait(wait):
                raise failed

    def _host(self, name: str) -> Host:
        with self._lock:
            return self._hosts.setdefault(name, Host(*self._limits))


def _body(fetched: Fetched) -> Body:
    data = None if fetched.status == 304 else fetched.body
    return Body(data, fetched.etag, fetched.last_modified)
