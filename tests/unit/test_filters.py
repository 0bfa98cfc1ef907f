"""The filter grammar: what it accepts, what it builds, and that nothing else gets through."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faces import filters
from faces.errors import Conflict, InvalidRequest
from faces.records import FieldType
from localatlas.filters import parse_filter

DECLARED: dict[str, FieldType] = {"album": "string", "year": "number", "public": "bool"}
OURS = {
    "$and",
    "$or",
    "$nor",
    "$eq",
    "$in",
    "$gte",
    "$lt",
    "media_id",
    "subject_id",
    "facets",
    "taken_at",
    "created_at",
    "collection",
}


def parsed(value: object) -> dict[str, Any]:
    return filters.build(filters.parse(value, DECLARED))


@pytest.mark.parametrize(
    ("value", "built"),
    [
        ({}, {}),
        ({"media_id": "a"}, {"media_id": {"$eq": "a"}}),
        ({"subject_id": {"$in": ["a", "b"]}}, {"subject_id": {"$in": ["a", "b"]}}),
        ({"metadata.album": "x=y"}, {"facets": {"$eq": "album=x=y"}}),
        ({"metadata.year": 2001}, {"facets": {"$eq": "year=2001"}}),
        ({"metadata.year": 2001.0}, {"facets": {"$eq": "year=2001"}}),
        ({"metadata.year": 0.1}, {"facets": {"$eq": "year=0.1"}}),
        ({"metadata.public": True}, {"facets": {"$eq": "public=true"}}),
        (
            {"media_id": "a", "metadata.album": "b"},
            {"$and": [{"media_id": {"$eq": "a"}}, {"facets": {"$eq": "album=b"}}]},
        ),
        ({"$not": {"media_id": "a"}}, {"$nor": [{"media_id": {"$eq": "a"}}]}),
        (
            {"$or": [{"media_id": "a"}, {"media_id": "b"}]},
            {"$or": [{"media_id": {"$eq": "a"}}, {"media_id": {"$eq": "b"}}]},
        ),
        (
            {"taken_at": {"$gte": "2024-05-01T12:00:00+02:00", "$lt": "2024-06-01"}},
            {
                "taken_at": {
                    "$gte": dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC),
                    "$lt": dt.datetime(2024, 6, 1, tzinfo=dt.UTC),
                }
            },
        ),
    ],
)
def test_builds(value: object, built: dict[str, Any]) -> None:
    assert parsed(value) == built


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {"$where": "1"},
        {"$expr": {}},
        {"media_id": {"$gt": ""}},
        {"media_id": {"$in": []}},
        {"media_id": {"$in": ["a", 1]}},
        {"media_id": {"$in": "a"}},
        {"media_id": {"$in": ["a"], "$nin": ["b"]}},
        {"media_id": None},
        {"media_id": ""},
        {"media_id": "a" * 256},
        {"media_id": "\ud800"},
        {"media_id": {"$in": ["a"] * 1001}},
        {"subject_id": 1},
        {"embeddings.facenet128": "x"},
        {"hidden": False},
        {"collection": "other"},
        {"facets": "album=x"},
        {"metadata.unknown": "x"},
        {"metadata.": "x"},
        {"metadata.album": 1},
        {"metadata.album": {"$regex": "x"}},
        {"metadata.year": True},
        {"metadata.year": "2001"},
        {"metadata.year": float("nan")},
        {"metadata.year": 10**400},
        {"metadata.public": 1},
        {"taken_at": "2024-05-01"},
        {"taken_at": {}},
        {"taken_at": {"$gt": "2024-05-01"}},
        {"taken_at": {"$gte": 1}},
        {"taken_at": {"$gte": "yesterday"}},
        {"taken_at": {"$gte": "0001-01-01T00:00:00+14:00"}},
        {"$and": {}},
        {"$and": []},
        {"$or": [1]},
        {"$not": []},
        {"$nor": [{}]},
        {1: 2},
    ],
)
def test_refuses(value: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        filters.parse(value, DECLARED)
    assert raised.value.errors
    assert raised.value.errors[0].field.startswith("filter")


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(InvalidRequest) as raised:
        filters.parse({"$and": [{"my secret key": "my secret value"}]}, DECLARED)
    assert "secret" not in raised.value.detail
    assert raised.value.errors[0].field == "filter.$and.0"


def test_deep_and_wide_filters_are_refused() -> None:
    deep: object = {"media_id": "a"}
    for _ in range(filters.MAX_DEPTH + 1):
        deep = {"$not": deep}
    with pytest.raises(InvalidRequest, match="deep"):
        filters.parse(deep, DECLARED)
    wide = {"$or": [{"media_id": "a"}] * filters.MAX_CONDITIONS}
    with pytest.raises(InvalidRequest, match="conditions"):
        filters.parse(wide, DECLARED)


def test_a_field_that_is_still_being_written_is_a_conflict_not_a_wrong_answer() -> None:
    with pytest.raises(Conflict):
        filters.parse({"metadata.album": "a"}, DECLARED, pending=["album"])


LEAVES = st.one_of(
    st.builds(
        lambda v: {"media_id": v},
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
    ),
    st.builds(
        lambda v: {"metadata.year": v},
        st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15),
    ),
    st.builds(
        lambda v: {"metadata.album": {"$in": v}},
        st.lists(st.text("abc$.", max_size=5), min_size=1, max_size=4),
    ),
    st.builds(lambda v: {"metadata.public": v}, st.booleans()),
    st.builds(
        lambda v: {"taken_at": {"$gte": v.isoformat()}}, st.datetimes(dt.datetime(1900, 1, 1))
    ),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=8,
)


@given(TREES)
def test_every_built_filter_is_one_that_vector_search_takes(value: dict[str, Any]) -> None:
    try:
        tree = filters.parse(value, DECLARED)
    except InvalidRequest:
        return  # nested too deep
    built = filters.build(tree)
    assert _keys(built) <= OURS
    parse_filter(built, "filter")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "$and",
                    "$or",
                    "$not",
                    "$in",
                    "$gte",
                    "$where",
                    "$ne",
                    "media_id",
                    "metadata.album",
                    "taken_at",
                    "x",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_sent_is_refused_or_holds_our_operators_only(value: object) -> None:
    try:
        tree = filters.parse(value, DECLARED)
    except InvalidRequest:
        return
    assert _keys(filters.build(tree)) <= OURS


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in _keys(item)}
    if isinstance(value, list):
        return {key for item in value for key in _keys(item)}
    return set()
