"""List cursors: opaque to clients, bound to their list, checked before anything is read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import TypeAlias

from faces.errors import FieldError, MalformedRequest

Key: TypeAlias = tuple[str | int, ...]
_VERSION = 1
_LONGEST = 8192
"""Twelve characters for an emoji, of which an id may hold 255: 4,100 once they are base64."""


def encode(scope: Sequence[str | None], key: Sequence[str | int]) -> str:
    """A cursor that goes on after `key` in the list that `scope` names (route and parameters)."""
    body = json.dumps([_VERSION, _digest(scope), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


def decode(cursor: str | None, scope: Sequence[str | None], types: Sequence[type]) -> Key | None:
    """The key in `cursor`, with values of `types`; None without a cursor.

    Raises MalformedRequest for a cursor that this list did not give.
    """
    if cursor is None:
        return None
    if len(cursor) > _LONGEST or not cursor.isascii():
        raise _malformed()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json.loads(raw)
    except (binascii.Error, UnicodeDecodeError, ValueError, RecursionError):
        raise _malformed() from None
    if not isinstance(values, list) or values[:2] != [_VERSION, _digest(scope)]:
        raise _malformed()
    key = tuple(values[2:])
    if [type(value) for value in key] != list(types):
        raise _malformed()
    if not all(_storable(value) for value in key):
        raise _malformed()
    return key


def _storable(value: str | int) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _digest(scope: Sequence[str | None]) -> str:
    return hashlib.sha256(json.dumps(list(scope)).encode()).hexdigest()[:12]


def _malformed() -> MalformedRequest:
    return MalformedRequest(
        errors=[FieldError("cursor", "is not a cursor that this list gave: start without one")]
    )
