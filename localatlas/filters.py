"""Parses the `filter` of a $vectorSearch stage into an expression, with the engine's errors.

    filter      := {clause, ...}                        all hold
    clause      := path: value | path: {op: ...} | $and | $or | $nor: [filter, ...]
    op          := $eq $ne $gt $gte $lt $lte $in $nin $exists $not

It is no $match: values compare within their family only, null means "there and null", negations are
complements over all documents, arrays hold when any element does. `columns.py` evaluates it.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from localatlas.reader import MalformedError, Reader, bson_type

NUMBER, STRING, DATE, BOOLEAN = "number", "string", "date", "boolean"
OBJECT_ID, UUID, NULL = "objectId", "uuid", "null"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ALLOWED = "must be a boolean, objectId, number, string, date, uuid, or null"
RANGES = ("$gt", "$gte", "$lt", "$lte")
# The order in which the engine reads the operators of one path.
OPERATORS = (*RANGES, "$eq", "$ne", "$in", "$nin", "$exists", "$not")


@dataclass(frozen=True, slots=True)
class Value:
    """A comparable value: dates as milliseconds, object ids and UUIDs as bytes."""

    family: str
    content: Any


@dataclass(frozen=True, slots=True)
class Compare:
    """True where any value at `path` of the family stands in relation `operator` to the operand.

    `operator` is one of $eq, $gt, $gte, $lt, $lte.
    """

    path: str
    operator: str
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """True where any value at `path` equals one of `values`, all of one family."""

    path: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """True where `path` is present, whatever it holds."""

    path: str


@dataclass(frozen=True, slots=True)
class Not:
    """True where `part` is not."""

    part: Expression


@dataclass(frozen=True, slots=True)
class All:
    """True where every part is; always, without parts."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Any_:
    """True where at least one part is."""

    parts: tuple[Expression, ...]


Expression = Compare | OneOf | Exists | Not | All | Any_


def parse_filter(document: object, path: str) -> Expression:
    """Return the expression of the filter at `path`, or raise MalformedError."""
    if not isinstance(document, Mapping):
        raise MalformedError(f'"{path}" filter must be a document')
    clauses: list[Expression] = []
    for key, operand in document.items():
        if key == "$and":
            clauses.append(All(_filters(operand, f"{path}.{key}")))
        elif key == "$or":
            clauses.append(Any_(_filters(operand, f"{path}.{key}")))
        elif key == "$nor":
            clauses.append(Not(Any_(_filters(operand, f"{path}.{key}"))))
        else:
            clauses.append(_clause(key, operand, f"{path}.{key}"))
    return clauses[0] if len(clauses) == 1 else All(tuple(clauses))


def needed_paths(expression: Expression) -> Iterator[str]:
    """Yield the paths that must be filter fields, in the order in which they are checked.

    A comparison with null needs none.
    """
    match expression:
        case Compare(path, _, value):
            if value.family != NULL:
                yield path
        case OneOf(path) | Exists(path):
            yield path
        case Not(part):
            yield from needed_paths(part)
        case All(parts) | Any_(parts):
            for part in parts:
                yield from needed_paths(part)


def comparable(value: object) -> Value | None:
    """Return `value` in its family, or None when its BSON type is never indexed for filters."""
    if value is None:
        return Value(NULL, None)
    if isinstance(value, bool):
        return Value(BOOLEAN, value)
    if isinstance(value, int | float):
        return Value(NUMBER, value)
    if isinstance(value, str):
        return None if isinstance(value, Code) else Value(STRING, value)
    if isinstance(value, ObjectId):
        return Value(OBJECT_ID, value.binary)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.UTC)
        return Value(DATE, (value - EPOCH) // datetime.timedelta(milliseconds=1))
    if isinstance(value, DatetimeMS):
        return Value(DATE, int(value))
    if isinstance(value, uuid.UUID):
        return Value(UUID, value.bytes)
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16:
        return Value(UUID, bytes(value))
    return None


def _filters(operand: object, path: str) -> tuple[Expression, ...]:
    if not isinstance(operand, list | tuple):
        raise MalformedError(f'"{path}" must be a array')
    if not operand:
        raise MalformedError(f'"{path}" cannot be empty')
    return tuple(parse_filter(part, f"{path}[{i}]") for i, part in enumerate(operand))


def _clause(path: str, operand: object, where: str) -> Expression:
    if not isinstance(operand, Mapping) or not any(key.startswith("$") for key in operand):
        return Compare(path, "$eq", _value(operand, where))
    return _operators(path, Reader(operand, where))


def _operators(path: str, reader: Reader) -> Expression:
    parts = [
        _operator(path, operator, operand, reader.at(operator))
        for operator, operand in ((name, reader.value(name)) for name in OPERATORS)
        if reader.has(operator) and not (operand is None and operator in ("$exists", "$not"))
    ]
    if not parts:
        raise reader.fail(f"at least one of [{', '.join(OPERATORS)}] must be present")
    reader.finish()
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _operator(path: str, operator: str, operand: object, where: str) -> Expression:
    match operator:
        case "$eq":
            return Compare(path, "$eq", _value(operand, where))
        case "$ne":
            return Not(Compare(path, "$eq", _value(operand, where)))
        case "$in":
            return OneOf(path, _values(operand, where))
        case "$nin":
            return Not(OneOf(path, _values(operand, where)))
        case "$exists":
            if not isinstance(operand, bool):
                raise MalformedError(f'"{where}" must be a boolean')
            return Exists(path) if operand else Not(Exists(path))
        case "$not":
            if not isinstance(operand, Mapping):
                raise MalformedError(f'"{where}" must be a document')
            return Not(_operators(path, Reader(operand, where)))
        case _:
            return Compare(path, operator, _bound(operand, where))


def _value(operand: object, where: str) -> Value:
    value = comparable(operand)
    if value is None:
        if isinstance(operand, bytes):
            raise MalformedError(f'"{where}" binary value must be UUID subtype 4')
        raise MalformedError(f'"{where}" {ALLOWED}')
    return value


def _bound(operand: object, where: str) -> Value:
    value = comparable(operand)
    if value is None and isinstance(operand, bytes):
        raise MalformedError(f'"{where}" binary value must be UUID subtype 4')
    if value is None or value.family == NULL:
        raise MalformedError(f'"{where}" Type is not supported: {bson_type(operand)}')
    return value


def _values(operand: object, where: str) -> tuple[Value, ...]:
    if not isinstance(operand, list | tuple):
        raise MalformedError(f'"{where}" must be a array')
    values = []
    for position, element in enumerate(operand):
        value = _value(element, f"{where}[{position}]")
        if value.family == NULL:
            raise MalformedError(f'"{where}[{position}]" value type cannot be null')
        values.append(value)
    if not values:
        raise MalformedError(f'"{where}" cannot be empty')
    if len({value.family for value in values}) > 1:
        raise MalformedError(f'"{where}" must have elements of the same type')
    return tuple(values)
