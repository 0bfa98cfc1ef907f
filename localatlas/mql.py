"""Checks a filter as mongod does when it reads it as an ordinary match expression.

The server refuses what is no query language at all (code 2); what it knows and the search engine
does not is refused later, by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bson.regex import Regex

from localatlas.errors import BAD_VALUE, CommandError, failure

MAX_DEPTH = 100
LOGICAL = ("$and", "$or", "$nor")
# Top-level operators that need no look inside here: the search engine refuses every one of them.
OTHER_TOP_LEVEL = frozenset(
    {
        "$expr",
        "$comment",
        "$jsonSchema",
        "$alwaysTrue",
        "$alwaysFalse",
        "$sampleRate",
        "$text",
        "$where",
    }
)
COMPARISONS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
KNOWN = frozenset(
    {
        *COMPARISONS,
        "$in",
        "$nin",
        "$exists",
        "$not",
        "$all",
        "$elemMatch",
        "$size",
        "$type",
        "$mod",
        "$regex",
        "$options",
        "$bitsAllSet",
        "$bitsAllClear",
        "$bitsAnySet",
        "$bitsAnyClear",
        "$geoWithin",
        "$geoIntersects",
        "$near",
        "$nearSphere",
        "$within",
    }
)


def check_match(document: Mapping[str, Any], depth: int = 1) -> None:
    """Raise CommandError (BadValue) when `document` is no valid match expression.

    `depth` is that of the expression in a tree of them.
    """
    if depth > MAX_DEPTH:
        raise _bad(f"exceeded maximum query tree depth of {MAX_DEPTH}")
    for key, operand in document.items():
        if key in LOGICAL:
            if not isinstance(operand, list | tuple):
                raise _bad(f"{key} must be an array")
            if not operand:
                raise _bad(f"$and/$or/$nor must be a nonempty array: {key} is empty")
            for part in operand:
                if not isinstance(part, Mapping):
                    raise _bad("$or/$and/$nor entries need to be full objects")
                check_match(part, depth + 1)
        elif key.startswith("$"):
            if key not in OTHER_TOP_LEVEL:
                raise _bad(
                    f"unknown top level operator: {key}. If you have a field name that starts with "
                    "a '$' symbol, consider using $getField or $setField."
                )
        else:
            _check_operand(key, operand, depth)


def _check_operand(path: str, operand: object, depth: int) -> None:
    if not isinstance(operand, Mapping) or not operand:
        return
    first = next(iter(operand))
    if first.startswith("$") and first not in ("$ref", "$id", "$db"):
        _check_operators(path, operand, depth + 1)


def _check_operators(path: str, operators: Mapping[str, Any], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _bad(f"exceeded maximum query tree depth of {MAX_DEPTH}")
    for operator, operand in operators.items():
        if operator not in KNOWN:
            raise _bad(f"unknown operator: {operator}")
        if operator in ("$in", "$nin"):
            _check_list(operator, operand)
        elif operator == "$not":
            _check_not(path, operand, depth)
        elif operator in COMPARISONS and operator != "$eq" and _is_regex(operand):
            if operator == "$ne":
                raise _bad("Can't have regex as arg to $ne.")
            raise _bad(f"Can't have RegEx as arg to predicate over field '{path}'.")
        elif operator == "$regex" and not isinstance(operand, str) and not _is_regex(operand):
            raise _bad("$regex has to be a string")
        elif operator == "$options" and "$regex" not in operators:
            raise _bad("$options needs a $regex")
        elif operator == "$all" and not isinstance(operand, list | tuple):
            raise _bad("$all needs an array")
        elif operator == "$elemMatch" and not isinstance(operand, Mapping):
            raise _bad("$elemMatch needs an Object")
        elif operator == "$mod" and not (isinstance(operand, list | tuple) and len(operand) == 2):
            raise _bad("malformed mod, needs to be an array of two numbers")
        elif operator == "$size" and (
            isinstance(operand, bool) or not isinstance(operand, int | float) or operand < 0
        ):
            raise _bad("Failed to parse $size. Expected a number that is not negative")


def _check_list(operator: str, operand: object) -> None:
    if not isinstance(operand, list | tuple):
        raise _bad(f"{operator} needs an array")
    for element in operand:
        if isinstance(element, Mapping) and next(iter(element), "").startswith("$"):
            raise _bad("cannot nest $ under $in")


def _check_not(path: str, operand: object, depth: int) -> None:
    if _is_regex(operand):
        return
    if not isinstance(operand, Mapping):
        raise _bad("$not needs a regex or a document")
    if not operand:
        raise _bad("$not cannot be empty")
    _check_operators(path, operand, depth + 1)


def _is_regex(operand: object) -> bool:
    return isinstance(operand, Regex | re.Pattern)


def _bad(message: str) -> CommandError:
    return failure(BAD_VALUE, message)
