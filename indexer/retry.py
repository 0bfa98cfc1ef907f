"""Which failures are tried again, when, and which last until the item changes. Nowhere else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from faces.errors import (
    FetchFailed,
    ImageError,
    InvalidImage,
    InvalidRequest,
    UrlNotAllowed,
)
from indexer.plan import LOOKS
from indexer.sources.base import Gone, Unreadable

MINUTE, HOUR = 60.0, 3600.0
_CAP = 6 * HOUR
# How often a failure of this class is tried before it counts as lasting.
_TRIES = {"empty": 3, "decoder_failed": 2, "not_found": LOOKS}
_NOT_FOUND_PAUSE = 12 * HOUR
"""Between two looks at a missing picture: the third look is then a day after the first."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed item: its stable class, a sentence without names or input, and what follows."""

    reason: str
    detail: str
    permanent: bool
    delay_s: float | None = None


def classify(
    error: Exception, attempts: int, *, jitter: Callable[[], float] = random.random
) -> Failure | None:
    """What follows from `error` at the `attempts`-th attempt (from 1); None when not an item's.

    A delay grows twofold from a minute up to six hours and is drawn from its upper half, so that
    items that failed together do not come back together. A server's own `Retry-After` is a minimum.
    """
    reason, detail, lasting, at_least = _class_of(error)
    if reason is None:
        return None
    if lasting or attempts >= _TRIES.get(reason, 1_000_000):
        return Failure(reason, detail, True)
    if reason == "not_found":
        return Failure(reason, detail, False, _NOT_FOUND_PAUSE)
    delay = min(_CAP, MINUTE * 2.0 ** min(attempts - 1, 12))
    return Failure(reason, detail, False, max(at_least, delay * (0.5 + jitter() / 2)))


def reason_of(error: Exception) -> str | None:
    """The stable class of `error`; None when it is not an item's."""
    return _class_of(error)[0]


def _class_of(error: Exception) -> tuple[str | None, str, bool, float]:
    match error:
        case Gone():
            return "not_found", "The picture is not where its source says it is.", False, 0.0
        case Unreadable():
            return error.reason, error.detail, error.permanent, error.retry_after or 0.0
        case UrlNotAllowed():
            return "url_not_allowed", error.detail, True, 0.0
        case FetchFailed(reason="status", status=404 | 410):
            return "not_found", error.detail, False, 0.0
        case FetchFailed(reason="too_large"):
            return "image_too_large", error.detail, True, 0.0
        case FetchFailed():
            return f"fetch_{error.reason}", error.detail, False, error.retry_after or 0.0
        case InvalidImage(reason="empty" | "decoder_failed"):
            return error.reason, error.detail, False, 0.0
        case InvalidImage():
            return error.reason, error.detail, True, 0.0
        case ImageError():
            return error.code, error.detail, True, 0.0
        case InvalidRequest():
            return "bad_record", error.detail, True, 0.0
    return None, "", False, 0.0


def pause_s(
    error: FetchFailed, attempt: int, *, jitter: Callable[[], float] = random.random
) -> float | None:
    """Seconds to wait before asking again within the same run, or None to leave it for later."""
    passing = error.reason in ("timeout", "unreachable", "protocol") or (
        error.reason == "status" and error.status in (408, 425, 429, 500, 502, 503, 504)
    )
    if not passing or attempt >= (2 if error.reason == "timeout" else 3):
        return None
    wait = error.retry_after if error.retry_after is not None else 0.25 * 4.0 ** (attempt - 1)
    return wait * (1 + jitter() / 4) if wait <= 5.0 else None
