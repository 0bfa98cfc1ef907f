"""The arguments of $vectorSearch: in which order they are read, and each one's errors."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from localatlas.errors import CommandError
from localatlas.stage import VectorQuery, check_by_server, parse_stage

GOOD = {"index": "i", "path": "v", "queryVector": [1, 0], "limit": 10, "numCandidates": 100}
EXACT = {"index": "i", "path": "v", "queryVector": [1, 0], "limit": 10, "exact": True}
GONE = object()


def stage(base: dict[str, Any] = GOOD, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**base, **changes}.items() if value is not GONE}


def read(spec: Any) -> VectorQuery:
    check_by_server(spec)
    return parse_stage(spec)


def query(base: dict[str, Any] = GOOD, **changes: Any) -> VectorQuery:
    return read(stage(base, **changes))


def refused(spec: Any) -> CommandError:
    with pytest.raises(CommandError) as caught:
        read(spec)
    return caught.value


def test_a_whole_stage_is_read() -> None:
    parsed = query(filter={"a": 1}, limit=5.0, numCandidates=Int64(50), unknown=1)

    assert (parsed.index, parsed.path, parsed.limit, parsed.candidates) == ("i", "v", 5, 50)
    assert parsed.vector is not None
    assert parsed.vector.values.tolist() == [1, 0]
    assert parsed.filter is not None


def test_an_exact_search_has_no_candidates_and_no_upper_limit() -> None:
    parsed = query(EXACT, limit=20_000)

    assert parsed.candidates is None
    assert parsed.limit == 20_000


@pytest.mark.parametrize("value", ["x", 5, None, [], True])
def test_a_stage_that_is_no_object_is_refused(value: Any) -> None:
    error = refused(value)

    assert (error.code, error.name) == (9, "FailedToParse")
    assert "must be an object" in error.message


@pytest.mark.parametrize("limit", ["5", None, True, [1], {"a": 1}])
def test_a_limit_that_is_no_number_is_refused_first(limit: Any) -> None:
    error = refused({"limit": limit, "filter": {"$foo": 1}})

    assert (error.code, error.name) == (8575100, "Location8575100")
    assert "limit" in error.message


@pytest.mark.parametrize("limit", [0, -1, 0.5, -0.9, math.nan, -math.inf, Decimal128("0")])
def test_a_limit_that_is_not_positive_is_refused_first(limit: Any) -> None:
    error = refused({"limit": limit, "filter": {"$foo": 1}})

    assert (error.code, error.name) == (7912700, "Location7912700")
    assert "positive" in error.message


def test_a_filter_that_is_no_query_is_refused_before_the_engine_reads_anything() -> None:
    error = refused({"filter": {"a": {"$foo": 1}}})

    assert (error.code, error.name) == (2, "BadValue")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (stage(index=GONE, path=GONE), '"index" is required'),
        (stage(index=None), '"index" is required'),
        (stage(index=""), '"index" cannot be empty'),
        (stage(index=5), '"index" must be a string'),
        (stage(path=GONE, exact=1), '"path" is required'),
        (stage(path=5), '"path" must be a string'),
        (stage(exact="true", numCandidates=0), '"exact" must be a boolean'),
        (stage(exact=1), '"exact" must be a boolean'),
        (stage(numCandidates=GONE, limit=GONE), "numCandidates is required for approximate"),
        (stage(numCandidates=None), "numCandidates is required for approximate"),
        (stage(exact=False, numCandidates=GONE), "numCandidates is required for approximate"),
        (stage(numCandidates=0), '"numCandidates" must be within bounds [1..10000]'),
        (stage(numCandidates=10_001), '"numCandidates" must be within bounds [1..10000]'),
        (stage(numCandidates=1.5), '"numCandidates" must be an integer'),
        (stage(numCandidates="100"), '"numCandidates" must be a integer'),
        (stage(exact=True), 'must be omitted when "exact"'),
        (stage(limit=GONE, queryVector=GONE), '"limit" is required'),
        (stage(EXACT, limit=GONE, queryVector=GONE), '"limit" is required'),
        (stage(limit=5.5), '"limit" must be an integer'),
        (stage(limit=Decimal128("5")), '"limit" must be a integer'),
        (stage(limit=2**40), '"limit" overflowed'),
        (stage(limit=101), "limit should be less than or equal to numCandidates"),
        (stage(queryVector=GONE), "Exactly one and only one"),
        (stage(queryVector=None), "Exactly one and only one"),
        (stage(query="text"), "Exactly one and only one of query and queryVector"),
        (stage(queryVector="1,0"), '"queryVector" Unexpected type found when parsing vector'),
        (stage(queryVector=[1, "0"], model="m"), "Unsupported BsonValue type: STRING"),
        (stage(queryVector=[1, Decimal128("0")]), "Unsupported BsonValue type: DECIMAL128"),
        (stage(queryVector=[1, math.inf], filter=1), "non-finite value"),
        (stage(queryVector=[1, 1e300]), "at position [1]"),
        (stage(queryVector=Binary(b"\x27\x00" + struct.pack("<f", math.nan), 9)), "non-finite"),
        (stage(model="m", filter=1), "model can only be specified"),
        (stage(queryVector=GONE, query=5), "query must be a string or document"),
        (stage(filter=5), "filter must be a document"),
        (stage(filter=[{"a": 1}]), "filter must be a document"),
        (stage(filter={"a": [1]}), '"filter.a" must be a boolean'),
        (stage(parentFilter={"a": [1]}), '"parentFilter.a" must be a boolean'),
        (stage(explainOptions={"traceDocumentIds": []}), "cannot be empty"),
        (stage(explainOptions={"x": 1}), 'unrecognized field "x"'),
        (stage(nestedOptions={"scoreMode": "sum"}), "is not supported. Accepted values"),
        (stage(nestedOptions=1), '"nestedOptions" must be a document'),
        (stage(returnStoredSource=1), '"returnStoredSource" must be a boolean'),
        (stage(searchNodePreference={"key": ""}), '"searchNodePreference.key" cannot be empty'),
        (stage(searchNodePreference={}), '"searchNodePreference.key" is required'),
    ],
)
def test_the_engine_names_the_first_thing_wrong(spec: dict[str, Any], message: str) -> None:
    error = refused(spec)

    assert (error.code, error.name) == (8, "UnknownError")
    assert error.message.startswith("PlanExecutor error during aggregation :: caused by :: ")
    assert message in error.message


@pytest.mark.parametrize("changes", [{"filter": None}, {"filter": {}}, {"exact": None}])
def test_a_null_is_a_missing_value(changes: dict[str, Any]) -> None:
    assert query(**changes).candidates == 100


def test_explain_options_are_at_their_place_in_an_explain() -> None:
    spec = stage(explainOptions={"traceDocumentIds": [1]})

    assert parse_stage(spec).traced
    assert not parse_stage(spec, explained=True).traced


def test_a_text_query_is_left_to_the_index() -> None:
    assert query(queryVector=GONE, query="a face", model="m").vector is None
