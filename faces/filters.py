"""The filter grammar of the API, parsed into a typed tree, and the tree built into a filter.

A client's value never reaches the database as anything but the right side of an operator that is
written here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from faces import documents
from faces.errors import Conflict, InvalidRequest
from faces.records import FieldType, Scalar

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_VALUES = 1000
MAX_ID = 255


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field that is one of some values: `media_id`, `subject_id`, or `facets`."""

    path: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class During:
    """A date that is not before `start` and before `end`; either may be open."""

    path: str
    start: dt.datetime | None
    end: dt.datetime | None


@dataclass(frozen=True, slots=True)
class And:
    """All of some filters; none at all matches everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of some filters."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Everything that a filter does not match, also what lacks its fields."""

    part: Filter


Filter: TypeAlias = OneOf | During | And | Or | Not


def parse(value: object, declared: Mapping[str, FieldType], pending: Sequence[str] = ()) -> Filter:
    """The filter that a decoded JSON value means.

    `declared` are the collection's metadata fields; those in `pending` are still being written.
    Raises InvalidRequest naming the place, Conflict for a pending field.
    """
    return _Parser(declared, frozenset(pending)).document(value, "filter", 0)


def build(tree: Filter) -> dict[str, Any]:
    """The tree as the `filter` of a $vectorSearch stage."""
    match tree:
        case OneOf(path, (value,)):
            return {path: {"$eq": value}}
        case OneOf(path, values):
            return {path: {"$in": list(values)}}
        case During(path, start, end):
            bounds = {"$gte": start, "$lt": end}
            return {path: {name: bound for name, bound in bounds.items() if bound is not None}}
        case And(parts):
            return {"$and": [build(part) for part in parts]} if parts else {}
        case Or(parts):
            return {"$or": [build(part) for part in parts]}
        case Not(part):
            inner = build(part)
            # Nothing is outside of everything; an empty clause inside $nor is not portable.
            return {"$nor": [inner]} if inner else {"collection": {"$in": [""]}}
    raise AssertionError(tree)


class _Parser:
    def __init__(self, declared: Mapping[str, FieldType], pending: frozenset[str]) -> None:
        self._declared = declared
        self._pending = pending
        self._conditions = 0

    def document(self, value: object, where: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            _refuse(where, "must be an object")
        if depth > MAX_DEPTH:
            _refuse(where, f"is nested more than {MAX_DEPTH} deep")
        parts = [self._entry(name, item, where, depth) for name, item in value.items()]
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _entry(self, name: object, value: object, where: str, depth: int) -> Filter:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            _refuse("filter", f"has more than {MAX_CONDITIONS} conditions")
        match name:
            case "$and":
                return And(self._list(value, f"{where}.$and", depth))
            case "$or":
                return Or(self._list(value, f"{where}.$or", depth))
            case "$not":
                return Not(self.document(value, f"{where}.$not", depth + 1))
            case "media_id" | "subject_id":
                return OneOf(name, tuple(self._ids(value, f"{where}.{name}")))
            case "taken_at" | "created_at":
                return _during(name, value, f"{where}.{name}")
            case str() if name.startswith("metadata."):
                return self._facet(name.removeprefix("metadata."), value, where)
        # The name is the client's own and is not repeated.
        raise InvalidRequest.field(
            where, "has a key that is neither a field, a declared metadata name nor $and/$or/$not"
        )

    def _list(self, value: object, where: str, depth: int) -> tuple[Filter, ...]:
        if not isinstance(value, list) or not value:
            _refuse(where, "must be a list that is not empty")
        return tuple(
            self.document(item, f"{where}.{index}", depth + 1) for index, item in enumerate(value)
        )

    def _ids(self, value: object, where: str) -> list[str]:
        ids = []
        for item in _values(value, where):
            if not isinstance(item, str) or not 0 < len(item) <= MAX_ID or not _encodable(item):
                _refuse(where, f"must be a string of 1 to {MAX_ID} characters")
            ids.append(item)
        return ids

    def _facet(self, name: str, value: object, where: str) -> Filter:
        declared = self._declared.get(name)
        if declared is None:
            _refuse(where, "uses a metadata name that this collection does not declare")
        if name in self._pending:
            raise Conflict(
                f"metadata.{name} was declared a moment ago and is still being written: "
                "its job is named by the collection."
            )
        found: list[Scalar] = []
        for item in _values(value, f"{where}.metadata.{name}"):
            if not documents.of_type(item, declared) or not (
                isinstance(item, str | int | float) and (not isinstance(item, str) or _short(item))
            ):
                _refuse(f"{where}.metadata.{name}", f"must be a {declared}, as declared")
            found.append(item)
        return OneOf("facets", tuple(dict.fromkeys(documents.facet(name, item) for item in found)))


def _values(value: object, where: str) -> list[object]:
    if not isinstance(value, dict):
        return [value]
    if set(value) != {"$in"}:
        _refuse(where, 'must be a value or {"$in": [...]}')
    values = value["$in"]
    if not isinstance(values, list) or not 0 < len(values) <= MAX_VALUES:
        _refuse(where, f"$in must be a list of 1 to {MAX_VALUES} values")
    return values


def _during(path: str, value: object, where: str) -> During:
    if not isinstance(value, dict) or not value or set(value) - {"$gte", "$lt"}:
        _refuse(where, 'must be {"$gte": ..., "$lt": ...} with one or both')
    moments = {name: _moment(item, f"{where}.{name}") for name, item in value.items()}
    return During(path, moments.get("$gte"), moments.get("$lt"))


def _moment(value: object, where: str) -> dt.datetime:
    try:
        if isinstance(value, str) and len(value) <= 40:
            return documents.utc(dt.datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest.field(where, "must be a date or time as in 2024-05-01T12:00:00Z")


def _short(value: str) -> bool:
    return len(value) <= documents.MAX_STRING and _encodable(value)


def _encodable(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _refuse(where: str, message: str) -> NoReturn:
    raise InvalidRequest.field(where, message)
