"""Rate limits per key and per address, counted in this process."""

from __future__ import annotations

import threading
import time

from limits import RateLimitItem, parse
from limits.storage.base import Storage
from limits.strategies import FixedWindowRateLimiter

from faces.errors import ConfigError, RateLimited

MOST_COUNTERS = 50_000
"""Beyond this many live counters the oldest windows are dropped: memory is bounded, too."""


class _Counters(Storage):
    """Fixed-window counters in a dict, without the timer threads of the library's own."""

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[float, int]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return KeyError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.monotonic()
        with self._lock:
            until, count = self._counts.get(key, (0.0, 0))
            if until <= now:
                if len(self._counts) >= MOST_COUNTERS:
                    self._sweep(now)
                until, count = now + expiry, 0
            self._counts[key] = (until, count + amount)
            return count + amount

    def get(self, key: str) -> int:
        until, count = self._counts.get(key, (0.0, 0))
        return count if until > time.monotonic() else 0

    def get_expiry(self, key: str) -> float:
        until, _ = self._counts.get(key, (0.0, 0))
        return time.time() + max(0.0, until - time.monotonic())

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        with self._lock:
            count = len(self._counts)
            self._counts.clear()
        return count

    def clear(self, key: str) -> None:
        with self._lock:
            self._counts.pop(key, None)

    def _sweep(self, now: float) -> None:
        live = sorted((u, k) for k, (u, _) in self._counts.items() if u > now)
        keep = {k for _, k in live[MOST_COUNTERS // 2 :]}
        self._counts = {k: v for k, v in self._counts.items() if k in keep}


class Limits:
    """Counts requests; `per_key` and `per_address` read like `600/minute`, empty for no limit."""

    def __init__(self, *, per_key: str, per_address: str) -> None:
        self._limiter = FixedWindowRateLimiter(_Counters())
        self._per_key = _parse("RATE_LIMIT_PER_KEY", per_key)
        self._per_address = _parse("RATE_LIMIT_PER_ADDRESS", per_address)

    def key(self, name: str) -> None:
        """Count one request of a key. Raises RateLimited."""
        self._hit(self._per_key, "key", name)

    def address(self, address: str) -> None:
        """Count one request from an address. Raises RateLimited."""
        self._hit(self._per_address, "address", address)

    def _hit(self, item: RateLimitItem | None, kind: str, name: str) -> None:
        if item is None or self._limiter.hit(item, kind, name):
            return
        reset, _ = self._limiter.get_window_stats(item, kind, name)
        raise RateLimited(
            f"This {kind} has made its {item.amount} requests of the present "
            f"{item.GRANULARITY.name}: wait and try again.",
            retry_after=max(1.0, reset - time.time()),
        )


def _parse(name: str, text: str) -> RateLimitItem | None:
    if not text:
        return None
    try:
        return parse(text)
    except ValueError:
        raise ConfigError(f"{name}: must read like 600/minute, or be empty.") from None
