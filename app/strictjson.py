"""JSON from strangers: UTF-8 only, bounded depth, finite numbers, real Unicode."""

from __future__ import annotations

import json
import math

from faces.errors import InvalidRequest, MalformedRequest

MAX_DEPTH = 64
MAX_NAMES = 10_000
"""Of all objects together. Each name that a form does not know costs an error to be told."""
_VALUE_BYTES = 64
_LARGEST = 2**1023


def weight(data: bytes | bytearray) -> int:
    """How many bytes, at most and about, the parsed value takes beside the text itself.

    A list that holds nothing is two characters long and takes more than sixty bytes.
    """
    return _VALUE_BYTES * sum(map(data.count, (b",", b":", b"[", b"{")))


def parse(data: bytes, *, field: str = "body") -> object:
    """The value that `data` spells.

    Raises MalformedRequest when it is not JSON or nests deeper than 64, and InvalidRequest for NaN,
    infinities, numbers beyond a double, lone surrogates, more than MAX_NAMES names, and an object
    that says something twice: one reader would take the first and another the last. `field` names
    it in the error.
    """
    names = 0

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal names
        names += len(pairs)
        if names > MAX_NAMES:
            raise InvalidRequest.field(field, f"holds objects with more than {MAX_NAMES} names")
        made = dict(pairs)
        if len(made) < len(pairs):
            raise InvalidRequest.field(field, "holds an object with the same key twice")
        return made

    try:
        value: object = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except UnicodeDecodeError:
        raise MalformedRequest(f"{field}: the JSON text is not UTF-8.") from None
    except RecursionError:
        raise _too_deep(field) from None
    except ValueError:
        raise MalformedRequest(f"{field}: the text is not valid JSON.") from None
    _check(value, field)
    return value


def _too_deep(field: str) -> MalformedRequest:
    return MalformedRequest(f"{field}: the JSON nests deeper than {MAX_DEPTH} levels.")


def _check(value: object, field: str) -> None:
    """Walk without recursion, level by level."""
    level: list[object] = [value]
    depth = 0
    while level:
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    _text(key, field)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _text(item, field)
            elif isinstance(item, float):
                if not math.isfinite(item):
                    raise InvalidRequest.field(field, "holds a number that is not finite")
            elif isinstance(item, int) and not -_LARGEST < item < _LARGEST:
                raise InvalidRequest.field(field, "holds a number beyond the range of a double")
        if any(isinstance(item, dict | list) for item in level):
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep(field)
        level = below


def _text(text: str, field: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest.field(field, "holds text that is not valid Unicode") from None
