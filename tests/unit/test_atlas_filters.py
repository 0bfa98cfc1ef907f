"""Filters of $vectorSearch against a plain model of their rules, and what they refuse."""

from __future__ import annotations

import datetime
import math
import uuid
from typing import Any

import pytest
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localatlas.columns import Column, evaluate
from localatlas.errors import CommandError
from localatlas.filters import parse_filter
from localatlas.mql import check_match
from localatlas.reader import MalformedError

PATHS = ("a", "s.k")
UUIDS = [Binary(uuid.UUID(int=n << 60).bytes, 4) for n in (1, 2, 2**60)]
OIDS = [ObjectId(bytes([n] * 11 + [n + 1])) for n in (0, 7, 255 - 1)]
DATES = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (1969, 1970, 2024)]
NUMBERS = [0, 1, -1, 1.0, 1.5, -1.5, -0.0, 2**53 + 1, float(2**53), Int64(2**63 - 1), 2.0**63]
NUMBERS += [-(2.0**63), Int64(-(2**63)), -(2.0**64), math.inf, -math.inf, 1e300, 5e-324]
STRINGS = ["", "a", "A", "b", "aa", "é", "\uffff", "\U0001f600", "x" * 9000, "x" * 8191]
KEYED: list[list[Any]] = [NUMBERS, STRINGS, [True, False], DATES, OIDS, UUIDS]
UNINDEXED = [Decimal128("1"), Regex("a"), Timestamp(1, 1), b"abc", {"x": 1}, Binary(b"x" * 16, 3)]

scalar = st.one_of(*(st.sampled_from(values) for values in KEYED))
leaf = st.one_of(scalar, st.none(), st.sampled_from(UNINDEXED))
value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
sub = st.one_of(value, st.fixed_dictionaries({}, optional={"k": value}))
document = st.fixed_dictionaries(
    {}, optional={"a": value, "s": st.one_of(sub, st.lists(sub, max_size=3))}
)

one_type = st.sampled_from(KEYED).flatmap(
    lambda values: st.lists(st.sampled_from(values), min_size=1, max_size=3)
)
operators: Any = st.deferred(
    lambda: (
        st.dictionaries(
            st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), scalar, min_size=1, max_size=2
        )
        | st.fixed_dictionaries({"$eq": st.one_of(scalar, st.none())})
        | st.fixed_dictionaries({"$ne": st.one_of(scalar, st.none())})
        | st.fixed_dictionaries({"$in": one_type})
        | st.fixed_dictionaries({"$nin": one_type})
        | st.fixed_dictionaries({"$exists": st.booleans()})
        | st.fixed_dictionaries({"$not": operators})
    )
)
clause = st.dictionaries(
    st.sampled_from(PATHS), st.one_of(scalar, st.none(), operators), max_size=2
)
condition = st.recursive(
    clause,
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or", "$nor"]),
        st.lists(inner, min_size=1, max_size=3),
        min_size=1,
        max_size=2,
    ),
    max_leaves=5,
)


def family(each: Any) -> tuple[str, Any] | None:
    if each is None:
        return "null", 0
    if isinstance(each, bool):
        return "bool", each
    if isinstance(each, int | float):
        return "number", each
    if isinstance(each, str):
        return "string", each.encode("utf-8")
    if isinstance(each, datetime.datetime):
        return "date", each
    if isinstance(each, ObjectId):
        return "oid", each.binary
    if isinstance(each, Binary) and each.subtype == 4:
        return "uuid", bytes(each)
    return None


def reached(held: Any, keys: list[str]) -> list[Any]:
    if not keys:
        return [held]
    if isinstance(held, dict):
        return reached(held[keys[0]], keys[1:]) if keys[0] in held else []
    if isinstance(held, list):
        return [found for each in held for found in reached(each, keys)]
    return []


def flat(held: Any) -> list[Any]:
    return [x for each in held for x in flat(each)] if isinstance(held, list) else [held]


def indexed(held: dict[str, Any], path: str) -> list[tuple[str, Any]]:
    found = flat(reached(held, path.split(".")))
    cut = [each[:8191] if isinstance(each, str) else each for each in found]
    return [key for each in cut if (key := family(each)) is not None]


def relates(relation: str, found: tuple[str, Any], wanted: tuple[str, Any]) -> bool:
    if found[0] != wanted[0]:
        return False
    left, right = found[1], wanted[1]
    if isinstance(left, float):
        right = float(right)  # as the engine compares an integer with a double
        if math.isinf(left) and left != right:
            return False  # an open end is the largest finite number
        if math.isinf(left):
            return relation == ("$lte" if left > 0 else "$gte")
    return bool(
        {
            "$eq": left == right,
            "$gt": left > right,
            "$gte": left >= right,
            "$lt": left < right,
            "$lte": left <= right,
        }[relation]
    )


def holds(held: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(clause_holds(held, key, operand) for key, operand in wanted.items())


def clause_holds(held: dict[str, Any], key: str, operand: Any) -> bool:
    if key == "$and":
        return all(holds(held, part) for part in operand)
    if key == "$or":
        return any(holds(held, part) for part in operand)
    if key == "$nor":
        return not any(holds(held, part) for part in operand)
    if not isinstance(operand, dict):
        operand = {"$eq": operand}
    return all(operator_holds(held, key, name, value) for name, value in operand.items())


def operator_holds(held: dict[str, Any], path: str, name: str, operand: Any) -> bool:
    match name:
        case "$ne":
            return not operator_holds(held, path, "$eq", operand)
        case "$in":
            return any(
                each == found or relates("$eq", found, each)
                for each in map(family, operand)
                for found in indexed(held, path)
                if each is not None
            )
        case "$nin":
            return not operator_holds(held, path, "$in", operand)
        case "$exists":
            return bool(reached(held, path.split("."))) is operand
        case "$not":
            return not clause_holds(held, path, operand)
    wanted = family(operand)
    assert wanted is not None
    return any(relates(name, found, wanted) for found in indexed(held, path))


def found_by(documents: list[dict[str, Any]], wanted: dict[str, Any]) -> list[bool]:
    columns = {path: Column(path) for path in PATHS}
    for row, held in enumerate(documents):
        for column in columns.values():
            column.add(row, held)
    mask = evaluate(parse_filter(wanted, "filter"), columns, len(documents))
    return [bool(each) for each in mask]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(document, min_size=1, max_size=6), condition)
def test_a_filter_finds_what_the_rules_say(
    documents: list[dict[str, Any]], wanted: dict[str, Any]
) -> None:
    check_match(wanted)

    assert found_by(documents, wanted) == [holds(held, wanted) for held in documents]


@pytest.mark.parametrize("relation", ["$eq", "$gt", "$gte", "$lt", "$lte"])
@pytest.mark.parametrize("values", KEYED, ids=["number", "string", "bool", "date", "oid", "uuid"])
def test_every_pair_of_a_family_compares_by_value(values: list[Any], relation: str) -> None:
    documents = [{"a": each} for each in values]
    for bound in values:
        wanted = {"a": {relation: bound}}

        assert found_by(documents, wanted) == [holds(held, wanted) for held in documents]


def test_not_a_number_is_found_by_in_alone() -> None:
    documents = [{"a": math.nan}, {"a": 1}, {"a": 1.5}]

    assert found_by(documents, {"a": {"$in": [math.nan]}}) == [True, False, False]
    assert found_by(documents, {"a": math.nan}) == [False, False, False]
    assert found_by(documents, {"a": {"$gt": math.nan}}) == [False, False, False]
    assert found_by(documents, {"a": {"$gte": 0}}) == [False, True, True]


def test_an_infinite_value_is_outside_of_every_open_end() -> None:
    documents = [{"a": math.inf}, {"a": -math.inf}, {"a": 1e308}, {"a": 7}]

    assert found_by(documents, {"a": {"$gt": 5}}) == [False, False, True, True]
    assert found_by(documents, {"a": {"$lt": 9}}) == [False, False, False, True]
    assert found_by(documents, {"a": math.inf}) == [False, False, False, False]
    assert found_by(documents, {"a": {"$gte": -math.inf}}) == [False, True, True, True]
    assert found_by(documents, {"a": {"$lte": math.inf}}) == [True, False, True, True]
    assert found_by(documents, {"a": {"$in": [math.inf]}}) == [True, False, False, False]


def test_an_integer_is_rounded_where_it_meets_doubles() -> None:
    documents = [{"a": 2.0**53}, {"a": Int64(2**53)}]

    assert found_by(documents, {"a": 2**53 + 1}) == [True, False]
    assert found_by(documents, {"a": {"$lt": 2**53 + 1}}) == [False, True]


def test_a_long_string_is_cut_in_the_index_and_not_in_the_query() -> None:
    documents = [{"a": "x" * 9000}]

    assert found_by(documents, {"a": "x" * 8191}) == [True]
    assert found_by(documents, {"a": "x" * 9000}) == [False]


def test_a_cut_counts_utf16_units_and_splits_no_character() -> None:
    documents = [{"a": "\U0001f600" * 5000}]

    assert found_by(documents, {"a": "\U0001f600" * 4095 + "\ufffd"}) == [True]


def test_two_operators_may_hold_for_two_elements() -> None:
    assert found_by([{"a": [1, 10]}], {"a": {"$gt": 5, "$lt": 5}}) == [True]


def test_columns_forget_removed_rows() -> None:
    documents = [{"a": each} for values in KEYED for each in [*values, None, []]]
    column = Column("a")
    for row, held in enumerate(documents):
        column.add(row, held)
    import numpy as np

    new_rows = np.array([row // 2 if row % 2 else -1 for row in range(len(documents))], np.int32)
    kept = Column.thaw("a", column.compact(new_rows).freeze())

    for held in documents:
        for wanted in ({"a": held["a"]} if held["a"] != [] else {"a": {"$exists": True}},):
            mask = evaluate(parse_filter(wanted, "filter"), {"a": kept}, len(documents) // 2)
            assert [bool(each) for each in mask] == [
                holds(each, wanted) for each in documents[1::2]
            ]


NO_VALUE = "must be a boolean, objectId, number, string, date, uuid, or null"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"a": [1]}, f'"filter.a" {NO_VALUE}'),
        ({"a": {"b": 1}}, NO_VALUE),
        ({"a": {}}, NO_VALUE),
        ({"a": Decimal128("1")}, NO_VALUE),
        ({"a": Regex("^a")}, NO_VALUE),
        ({"a": {"$eq": Timestamp(1, 1)}}, f'"filter.a.$eq" {NO_VALUE}'),
        ({"a": {"$ne": [1]}}, f'"filter.a.$ne" {NO_VALUE}'),
        ({"a": b"raw"}, "must be UUID subtype 4"),
        ({"a": {"$gt": b"raw"}}, "must be UUID subtype 4"),
        ({"a": {"$gt": [1]}}, '"filter.a.$gt" Type is not supported: ARRAY'),
        ({"a": {"$lte": None}}, '"filter.a.$lte" Type is not supported: NULL'),
        ({"a": {"$gte": Decimal128("1")}}, "Type is not supported: DECIMAL128"),
        ({"a": {"$in": []}}, '"filter.a.$in" cannot be empty'),
        ({"a": {"$nin": []}}, '"filter.a.$nin" cannot be empty'),
        ({"a": {"$in": [1, "1"]}}, '"filter.a.$in" must have elements of the same type'),
        ({"a": {"$nin": [True, 1]}}, "must have elements of the same type"),
        ({"a": {"$in": [1, None]}}, "value type cannot be null"),
        ({"a": {"$in": [[1]]}}, NO_VALUE),
        ({"a": {"$exists": 1}}, '"filter.a.$exists" must be a boolean'),
        ({"a": {"$exists": "true"}}, "must be a boolean"),
        ({"a": {"$size": 1}}, '"filter.a" at least one of [$gt, '),
        ({"a": {"$type": "string"}}, "at least one of [$gt, "),
        ({"a": {"$elemMatch": {"$gt": 1}}}, "must be present"),
        ({"a": {"$not": {"$size": 1}}}, '"filter.a.$not" at least one of'),
        ({"a": {"$gt": 0, "$mod": [2, 0]}}, '"filter.a" unrecognized field "$mod"'),
        ({"a": {"$gt": 0, "$all": [1], "$size": 1}}, 'unrecognized fields ["$all", "$size"]'),
        ({"$and": [{"a": [1]}]}, NO_VALUE),
        ({"$or": [1]}, "filter must be a document"),
    ],
)
def test_a_filter_the_engine_cannot_run_is_refused(wanted: Any, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_filter(wanted, "filter")

    assert message in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda x: {"$and": [x]}, lambda x: {"$nor": [x]}])
def test_a_deep_filter_works_up_to_a_hundred_levels(wrap: Any) -> None:
    wanted: dict[str, Any] = {"a": 1}
    for _ in range(98):
        wanted = wrap(wanted)
    check_match(wanted)
    assert found_by([{"a": 1}, {"a": 2}], wanted) == [True, False]

    with pytest.raises(CommandError, match="maximum query tree depth"):
        check_match(wrap(wrap(wrap(wanted))))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"a": {"$foo": 1}}, "unknown operator: $foo"),
        ({"a": {"$gt": 1, "b": 2}}, "unknown operator: b"),
        ({"$foo": 1}, "unknown top level operator: $foo"),
        ({"$and": []}, "nonempty array"),
        ({"$or": []}, "nonempty array"),
        ({"$nor": []}, "nonempty array"),
        ({"$and": {"a": 1}}, "must be an array"),
        ({"$or": [1]}, "full objects"),
        ({"$and": [{"$or": []}]}, "nonempty array"),
        ({"a": {"$in": 1}}, "$in needs an array"),
        ({"a": {"$nin": {"x": 1}}}, "$nin needs an array"),
        ({"a": {"$in": [{"$gt": 1}]}}, "cannot nest $ under $in"),
        ({"a": {"$not": 1}}, "$not needs a regex or a document"),
        ({"a": {"$not": {}}}, "$not cannot be empty"),
        ({"a": {"$not": {"$foo": 1}}}, "unknown operator: $foo"),
        ({"a": {"$gt": Regex("a")}}, "Can't have RegEx"),
    ],
)
def test_what_is_no_query_language_the_server_refuses(wanted: Any, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        check_match(wanted)

    assert caught.value.code == 2
    assert caught.value.name == "BadValue"
    assert message in caught.value.message
