"""The filter values of an index, column by column, and the evaluation of a filter over them.

A column holds, for one path, flat arrays of (row, value) for each family of values, so that a row
may have none, one or many values, and a comparison is one numpy pass over the family. Strings are
numbered once; object ids and UUIDs are two 64-bit halves.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localatlas.arrays import Growing, Mask, Strings
from localatlas.filters import (
    BOOLEAN,
    DATE,
    NUMBER,
    OBJECT_ID,
    STRING,
    UUID,
    All,
    Any_,
    Compare,
    Exists,
    Expression,
    Not,
    OneOf,
    Value,
    comparable,
)
from localatlas.vectorfile import Frozen

# Longer strings are cut when they are indexed (not when they are asked for): the longest index
# term.
MAX_STRING = 8191
INT64 = range(-(2**63), 2**63)
FINITE = sys.float_info.max
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "$eq": operator.eq,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class Column:
    """The values of one filter path over the rows of the index."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._keys = path.split(".")
        self.present = Growing(np.int32)
        self.nulls = Growing(np.int32)
        self.strings = Strings()
        # family -> rows, then one or two arrays of values
        self.families: dict[str, list[Growing]] = {}

    def add(self, row: int, document: Mapping[str, Any]) -> None:
        """Take up what `document` holds at the path, as the values of `row`."""
        present = False
        for leaf in reach(document, self._keys):
            present = True
            for element in _elements(leaf):
                value = comparable(element)
                if value is not None:
                    self._append(row, value)
        if present:
            self.present.append(row)

    def compare(self, relation: str, value: Value, mask: Mask) -> None:
        """Set `mask` where any value of a row stands in `relation` to `value`."""
        match value.family:
            case "null":
                mask[self.nulls.view()] = True
            case "number":
                self._integers(_integer_test(relation, value.content), mask)
                self._doubles(_double_range(relation, value.content), mask)
            case "date" | "boolean":
                if (found := self._arrays(value.family)) is not None:
                    mask[found[0][RELATIONS[relation](found[1], value.content)]] = True
            case "string":
                self._strings(relation, value.content, mask)
            case _:
                self._wide(relation, value, mask)

    def one_of(self, values: Sequence[Value], mask: Mask) -> None:
        """Set `mask` where any value of a row equals one of `values`, all of one family."""
        family = values[0].family
        contents = [value.content for value in values]
        if family == NUMBER:
            tests = [_integer_test("$eq", each) for each in contents]
            self._among("integer", [test[1] for test in tests if isinstance(test, tuple)], mask)
            self._among("double", [float(each) for each in contents], mask)
        elif family == STRING:
            self._among(STRING, [self.strings.find(each) for each in contents], mask)
        elif family in (OBJECT_ID, UUID):
            self._wide_among(family, [_halves(each) for each in contents], mask)
        else:
            self._among(family, contents, mask)

    def freeze(self) -> Frozen:
        """Return the column as arrays by name, to be kept in a file."""
        arrays = {"present": self.present.view(), "nulls": self.nulls.view()}
        for family, found in self.families.items():
            for place, array in enumerate(found):
                arrays[f"{family}.{place}"] = array.view()
        return Frozen(arrays, tuple(self.strings.values))

    @classmethod
    def thaw(cls, path: str, frozen: Frozen) -> Column:
        """Return the column that `freeze` gave."""
        column = cls(path)
        column.strings = Strings(frozen.strings)
        for name, values in frozen.arrays.items():
            array = Growing(values.dtype.type, values)
            family, dot, _ = name.partition(".")
            if dot:
                column.families.setdefault(family, []).append(array)
            elif family == "present":
                column.present = array
            else:
                column.nulls = array
        return column

    def compact(self, new_rows: NDArray[np.int32]) -> Column:
        """Return the column without the rows whose new number is -1."""
        packed = type(self)(self.path)
        packed.present = _renumbered(self.present, new_rows)
        packed.nulls = _renumbered(self.nulls, new_rows)
        for family, arrays in self.families.items():
            rows = new_rows[arrays[0].view()]
            alive = rows >= 0
            kept = [rows[alive], *(array.view()[alive] for array in arrays[1:])]
            if family == STRING:
                numbers, kept[1] = np.unique(kept[1], return_inverse=True)
                packed.strings = Strings([self.strings.values[number] for number in numbers])
            packed.families[family] = [
                Growing(array.view().dtype.type, values)
                for array, values in zip(arrays, kept, strict=True)
            ]
        return packed

    def _append(self, row: int, value: Value) -> None:
        content = value.content
        match value.family:
            case "null":
                self.nulls.append(row)
            case "number":
                whole = isinstance(content, int)
                self._push("integer" if whole else "double", row, content)
            case "string":
                self._push(STRING, row, self.strings.number(_cut(content)))
            case "objectId" | "uuid":
                self._push(value.family, row, *_halves(content))
            case _:
                self._push(value.family, row, content)

    def _push(self, family: str, row: int, *contents: Any) -> None:
        arrays = self.families.get(family)
        if arrays is None:
            arrays = [Growing(np.int32), *(Growing(dtype) for dtype in DTYPES[family])]
            self.families[family] = arrays
        for array, content in zip(arrays, (row, *contents), strict=True):
            array.append(content)

    def _arrays(self, family: str) -> list[NDArray[Any]] | None:
        arrays = self.families.get(family)
        return None if arrays is None else [array.view() for array in arrays]

    def _integers(self, test: tuple[str, Any] | bool, mask: Mask) -> None:
        found = self._arrays("integer")
        if found is None or test is False:
            return
        if test is True:
            mask[found[0]] = True
        else:
            mask[found[0][RELATIONS[test[0]](found[1], test[1])]] = True

    def _doubles(self, within: tuple[float, float] | None, mask: Mask) -> None:
        found = self._arrays("double")
        if found is not None and within is not None:
            mask[found[0][(found[1] >= within[0]) & (found[1] <= within[1])]] = True

    def _among(self, family: str, contents: Sequence[Any], mask: Mask) -> None:
        """Set `mask` where a value is one of `contents`; not-a-number is one like another."""
        found = self._arrays(family)
        if found is None:
            return
        rows, held = found
        mask[rows[np.isin(held, np.array(contents, held.dtype))]] = True
        if any(each != each for each in contents):
            mask[rows[np.isnan(held)]] = True

    def _wide_among(self, family: str, pairs: Sequence[tuple[int, int]], mask: Mask) -> None:
        found = self._arrays(family)
        if found is None:
            return
        rows, high, low = found
        near = np.flatnonzero(np.isin(high, np.array([top for top, _ in pairs], np.uint64)))
        wanted = set(pairs)
        held = zip(high[near].tolist(), low[near].tolist(), strict=True)
        mask[rows[near[[pair in wanted for pair in held]]]] = True

    def _strings(self, relation: str, content: str, mask: Mask) -> None:
        found = self._arrays(STRING)
        if found is None:
            return
        rows, numbers = found
        if relation == "$eq":
            mask[rows[numbers == self.strings.find(content)]] = True
        else:
            mask[rows[self.strings.standing(relation, content)[numbers]]] = True

    def _wide(self, relation: str, value: Value, mask: Mask) -> None:
        found = self._arrays(value.family)
        if found is None:
            return
        rows, high, low = found
        top, rest = _halves(value.content)
        if relation == "$eq":
            hit = (high == top) & (low == rest)
        else:
            strict = RELATIONS["$gt" if relation.startswith("$gt") else "$lt"]
            hit = strict(high, top) | ((high == top) & RELATIONS[relation](low, rest))
        mask[rows[hit]] = True


class Nulls(Column):
    """The rows with a null at a path that is no filter field, which a filter may still ask for."""

    def add(self, row: int, document: Mapping[str, Any]) -> None:
        """Take up whether `document` holds a null at the path."""
        if any(map(_holds_null, reach(document, self._keys))):
            self.nulls.append(row)


DTYPES: dict[str, tuple[type[np.generic], ...]] = {
    "integer": (np.int64,),
    "double": (np.float64,),
    STRING: (np.int32,),
    DATE: (np.int64,),
    BOOLEAN: (np.bool_,),
    OBJECT_ID: (np.uint64, np.uint64),
    UUID: (np.uint64, np.uint64),
}


def evaluate(expression: Expression, columns: Mapping[str, Column], rows: int) -> Mask:
    """Return for each of `rows` rows whether `expression` holds there."""
    match expression:
        case All(parts):
            mask = np.ones(rows, np.bool_)
            for part in parts:
                mask &= evaluate(part, columns, rows)
            return mask
        case Any_(parts):
            mask = np.zeros(rows, np.bool_)
            for part in parts:
                mask |= evaluate(part, columns, rows)
            return mask
        case Not(part):
            return ~evaluate(part, columns, rows)
    mask = np.zeros(rows, np.bool_)
    column = columns.get(expression.path)
    if column is None:
        return mask
    match expression:
        case Compare(_, relation, value):
            column.compare(relation, value, mask)
        case OneOf(_, values):
            column.one_of(values, mask)
        case Exists():
            mask[column.present.view()] = True
    return mask


def reach(value: object, keys: Sequence[str]) -> Iterator[object]:
    """Yield what lies at the end of `keys`, through sub-documents and arrays of any depth."""
    if not keys:
        yield value
    elif isinstance(value, Mapping):
        if keys[0] in value:
            yield from reach(value[keys[0]], keys[1:])
    elif isinstance(value, list):
        for element in value:
            yield from reach(element, keys)


def _elements(value: object) -> Iterator[object]:
    if isinstance(value, list):
        for element in value:
            yield from _elements(element)
    else:
        yield value


def _holds_null(value: object) -> bool:
    if not isinstance(value, list):
        return value is None
    kinds = set(map(type, value))
    return type(None) in kinds or (list in kinds and any(map(_holds_null, value)))


def _cut(text: str) -> str:
    """Return the first 8191 UTF-16 units of `text`; half a surrogate pair becomes U+FFFD."""
    if len(text) <= MAX_STRING // 2:
        return text
    units = text.encode("utf-16-le")
    if len(units) <= 2 * MAX_STRING:
        return text
    cut = units[: 2 * MAX_STRING].decode("utf-16-le", "surrogatepass")
    return cut[:-1] + "\ufffd" if "\ud800" <= cut[-1] <= "\udbff" else cut


def _halves(content: bytes) -> tuple[int, int]:
    wide = content.ljust(16, b"\0")
    return int.from_bytes(wide[:8]), int.from_bytes(wide[8:])


def _integer_test(relation: str, bound: float) -> tuple[str, Any] | bool:
    """Return the comparison of int64 values that equals `relation` to `bound`, which may be double.

    True or False when it holds for all or for none.
    """
    if isinstance(bound, int):
        return relation, bound
    if bound != bound:
        return False
    if not INT64[0] <= bound <= INT64[-1]:
        return relation != "$eq" and (bound > 0) == (relation in ("$lt", "$lte"))
    whole = int(bound)
    if whole == bound:
        return relation, whole
    if relation == "$eq":
        return False
    # Between two whole numbers: x > 1.5 is x >= 2, x < 1.5 is x <= 1.
    below = whole if bound > 0 else whole - 1
    return ("$gt", below) if relation in ("$gt", "$gte") else ("$lte", below)


def _double_range(relation: str, bound: int | float) -> tuple[float, float] | None:
    """Return the least and the largest double that stand in `relation` to `bound`, if any does.

    An open end is the largest finite number, so that an infinite value is found by $in alone or
    where it is the bound of its own end; not-a-number by $in alone. An integer bound is rounded.
    """
    number = float(bound)
    low = {"$gt": math.nextafter(number, math.inf), "$gte": number, "$eq": number}
    high = {"$lt": math.nextafter(number, -math.inf), "$lte": number, "$eq": number}
    least, largest = low.get(relation, -FINITE), high.get(relation, FINITE)
    return (least, largest) if least <= FINITE and largest >= -FINITE else None


def _renumbered(rows: Growing, new_rows: NDArray[np.int32]) -> Growing:
    moved = new_rows[rows.view()]
    return Growing(np.int32, moved[moved >= 0])
