"""Reads one BSON document key by key and words what is wrong with it as the search engine does.

A message is `"<dotted path>" <reason>`. A null counts as a missing value.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

INT32 = range(-(2**31), 2**31)


class MalformedError(Exception):
    """What is wrong with a document, with the path of the key; the caller gives it a code."""


def bson_type(value: object) -> str:
    """Return the name of the BSON type `value` is encoded as, in capitals: STRING, DECIMAL128."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "INT64" if isinstance(value, Int64) or value not in INT32 else "INT32"
    for kinds, name in _TYPES:
        if isinstance(value, kinds):
            return name
    return "UNDEFINED"


_TYPES: tuple[tuple[tuple[type, ...], str], ...] = (
    ((float,), "DOUBLE"),
    ((Code,), "JAVASCRIPT"),
    ((str,), "STRING"),
    ((Binary, bytes, uuid.UUID), "BINARY"),
    ((Mapping,), "DOCUMENT"),
    ((list, tuple), "ARRAY"),
    ((ObjectId,), "OBJECT_ID"),
    ((datetime.datetime, DatetimeMS), "DATE_TIME"),
    ((Decimal128,), "DECIMAL128"),
    ((Regex, re.Pattern), "REGULAR_EXPRESSION"),
    ((Timestamp,), "TIMESTAMP"),
    ((MinKey,), "MIN_KEY"),
    ((MaxKey,), "MAX_KEY"),
)


def is_number(value: object) -> bool:
    """Whether `value` is an int32, int64 or double (a boolean is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Reader:
    """A view of one document that checks each key as it is asked for and knows which were.

    Every method raises MalformedError; `path` is the document's own path ("" at the root).
    """

    def __init__(self, document: Mapping[str, Any], path: str = "") -> None:
        self._document = document
        self._path = path
        self._asked: set[str] = set()

    def at(self, key: str) -> str:
        """Return the full path of `key`."""
        return f"{self._path}.{key}" if self._path else key

    def fail(self, reason: str, key: str = "") -> MalformedError:
        """Return the error about `key`, or about the document itself without one."""
        path = self.at(key) if key else self._path
        return MalformedError(f'"{path}" {reason}' if path else reason)

    def value(self, key: str) -> Any:
        """Return the raw value of `key`; None when it is missing or null."""
        self._asked.add(key)
        return self._document.get(key)

    def has(self, key: str) -> bool:
        """Whether `key` is there, if only with null."""
        return key in self._document

    def required(self, key: str) -> Any:
        """Return the raw value of `key`, which must be there and not null."""
        value = self.value(key)
        if value is None:
            raise self.fail("is required", key)
        return value

    def integer(self, key: str, *, bounds: tuple[int, int] | None = None) -> int | None:
        """Return a whole number that fits 32 bits (5.0 is one), or None when missing."""
        value = self.value(key)
        if value is None:
            return None
        if not is_number(value):
            # The engine's own grammar: the article is part of its pattern.
            raise self.fail("must be a integer", key)
        if value > INT32[-1]:
            raise self.fail("overflowed, must fit in a 32 bit integer", key)
        if value < INT32[0]:
            raise self.fail("underflowed, must fit in a 32 bit integer", key)
        if value != value or int(value) != value:
            raise self.fail("must be an integer", key)
        if bounds and not bounds[0] <= value <= bounds[1]:
            raise self.fail(f"must be within bounds [{bounds[0]}..{bounds[1]}]", key)
        return int(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return a real boolean, or `default` when missing."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail("must be a boolean", key)
        return value

    def string(self, key: str, *, empty: bool = True) -> str | None:
        """Return a string, or None when missing; `empty` says whether "" will do."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, str) or isinstance(value, Code):
            raise self.fail("must be a string", key)
        if not value and not empty:
            raise self.fail("cannot be empty", key)
        return value

    def choice(self, key: str, options: Iterable[str], default: str | None = None) -> str:
        """Return one of `options`, or `default` (None: it is required) when missing."""
        value = self.string(key)
        if value is None:
            if default is None:
                raise self.fail("is required", key)
            return default
        options = sorted(options)
        if value not in options:
            raise self.fail(f"must be one of [{', '.join(options)}]", key)
        return value

    def document(self, key: str) -> Reader | None:
        """Return a reader of the sub-document at `key`, or None when missing."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fail("must be a document", key)
        return Reader(value, self.at(key))

    def documents(self, key: str) -> list[Reader]:
        """Return readers of the documents in the required array at `key`."""
        value = self.required(key)
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise self.fail("must be a array", key)
        readers = []
        for position, element in enumerate(value):
            path = f"{self.at(key)}[{position}]"
            if not isinstance(element, Mapping):
                reason = "is required" if element is None else "must be a document"
                raise MalformedError(f'"{path}" {reason}')
            readers.append(Reader(element, path))
        return readers

    def finish(self) -> None:
        """Refuse the keys nobody asked for."""
        unknown = [key for key in self._document if key not in self._asked]
        if len(unknown) == 1:
            raise self.fail(f'unrecognized field "{unknown[0]}"')
        if unknown:
            names = ", ".join(f'"{key}"' for key in unknown)
            raise self.fail(f"unrecognized fields [{names}]")
