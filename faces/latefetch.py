"""A fetcher that costs nothing until somebody names a URL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from faces.addresses import Origin

if TYPE_CHECKING:
    from faces.fetch import Fetched, Fetcher


class LateFetcher:
    """A `faces.fetch.Fetcher` made at its first use: the HTTP client behind it takes 13 MB."""

    def __init__(self, origins: Sequence[Origin], *, timeout: float) -> None:
        self._origins, self._timeout = tuple(origins), timeout
        self._lock = threading.Lock()
        self._made: Fetcher | None = None

    def allowed(self, url: str) -> bool:
        """Whether scheme, host and port of `url` are on the allow-list. Resolves nothing."""
        return bool(self._origins) and self._fetcher().allowed(url)

    def get(self, url: str, *, max_bytes: int) -> Fetched:
        """The body behind `url`, at most `max_bytes` of it; raises as the fetcher does."""
        return self._fetcher().get(url, max_bytes=max_bytes)

    def close(self) -> None:
        """Closes what was opened."""
        if self._made is not None:
            self._made.close()

    def _fetcher(self) -> Fetcher:
        with self._lock:
            if self._made is None:
                from faces.fetch import Fetcher

                self._made = Fetcher(self._origins, timeout=self._timeout)
            return self._made
