"""Tokens: where a list goes on, and which change a client has asked for before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from app.gate import ClientGone
from app.rekognition.faults import BadToken, TokenMismatch
from faces.aliases import Aliases
from faces.errors import Busy, MalformedRequest
from faces.records import Page

T = TypeVar("T")
LONGEST = 255
_LONG = "sha256:"
REMEMBERED_S = 8 * 3600.0
MOST_REMEMBERED = 10_000
_LOOK_S = 0.25
MOST_BYTES = 4 * 1024 * 1024
"""What the remembered answers may take: one that names a hundred faces has 10 kB."""


def shorten(cursor: str | None, aliases: Aliases) -> str | None:
    """The cursor as a NextToken: itself, or where it is too long its remembered hash."""
    if cursor is None or len(cursor) <= LONGEST:
        return cursor
    return _LONG + aliases.keep("", [cursor])[cursor]


def lengthen(token: str | None, aliases: Aliases) -> str | None:
    """The cursor of a NextToken; None for none and for the empty one, which begins the list."""
    if not token:
        return None
    if not token.startswith(_LONG):
        return token
    cursor = aliases.find("", token.removeprefix(_LONG))
    if cursor is None:
        raise BadToken
    return cursor


def page(read: Callable[[str | None], Page[T]], token: str | None, aliases: Aliases) -> Page[T]:
    """The page at a NextToken, with the next one as its cursor. Raises BadToken."""
    cursor = lengthen(token, aliases)
    try:
        found = read(cursor)
    except MalformedRequest:
        raise BadToken from None
    return Page(found.items, shorten(found.next_cursor, aliases))


class Tokens:
    """The ClientRequestTokens of changes that were made, for eight hours, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._under_way: set[tuple[str, str]] = set()
        self._seen: OrderedDict[tuple[str, str], tuple[float, str, bytes]] = OrderedDict()
        self._size = 0

    @contextlib.contextmanager
    def alone(
        self, caller: str, given: Mapping[str, Any], gone: threading.Event, deadline: float
    ) -> Iterator[None]:
        """Nobody else is within such a block with the same token of the same caller.

        A client whose connection broke asks again while its change is still being made. Raises Busy
        when `time.monotonic()` passes `deadline` before it is that one's turn, and ClientGone.
        """
        token = given.get("ClientRequestToken")
        if token is None:
            yield
            return
        with self._ended:
            while (caller, token) in self._under_way:
                if gone.is_set():
                    raise ClientGone
                if time.monotonic() > deadline:
                    raise Busy("The same change is still being made: try again.", retry_after=2)
                self._ended.wait(_LOOK_S)
            self._under_way.add((caller, token))
        try:
            yield
        finally:
            with self._ended:
                self._under_way.remove((caller, token))
                self._ended.notify_all()

    def answer(
        self, caller: str, operation: str, given: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The answer of the same change when it was made already; None when it was not.

        Raises TokenMismatch when the token was used with other parameters.
        """
        token = given.get("ClientRequestToken")
        if token is None:
            return None
        with self._lock:
            seen = self._seen.get((caller, token))
        if seen is None or seen[0] < time.monotonic():
            return None
        if seen[1] != _digest(operation, given):
            raise TokenMismatch
        told: dict[str, Any] = json.loads(seen[2])
        return told

    def made(
        self, caller: str, operation: str, given: Mapping[str, Any], answer: dict[str, Any]
    ) -> None:
        """Remember the answer of a change; the oldest are forgotten where there are too many."""
        token = given.get("ClientRequestToken")
        if token is None:
            return
        until = time.monotonic() + REMEMBERED_S
        text = json.dumps(answer).encode()
        with self._lock:
            if (old := self._seen.pop((caller, token), None)) is not None:
                self._size -= len(old[2])
            self._seen[(caller, token)] = (until, _digest(operation, given), text)
            self._size += len(text)
            while len(self._seen) > MOST_REMEMBERED or self._size > MOST_BYTES:
                _, (_, _, old_text) = self._seen.popitem(last=False)
                self._size -= len(old_text)


def _digest(operation: str, given: Mapping[str, Any]) -> str:
    text = json.dumps([operation, {k: given[k] for k in sorted(given)}])
    return hashlib.sha256(text.encode()).hexdigest()
