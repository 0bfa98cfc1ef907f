"""Searches whose rows the front puts in order: which they are, and what becomes of the reply."""

from __future__ import annotations

from typing import Any

import pytest

from localatlas.plain import plain
from localatlas.rewrite import RANK

HITS = [("b", 0.75), ("a", 0.5), (1, 0.25)]
BODY: dict[str, Any] = {"aggregate": "things", "cursor": {}}
META = {"$meta": "vectorSearchScore"}
UNION = {"$unionWith": {"coll": "others", "pipeline": []}}


def reply(*rows: dict[str, Any], identity: int = 0) -> dict[str, Any]:
    cursor = {"id": identity, "ns": "db.things", "firstBatch": list(rows)}
    return {"cursor": cursor, "ok": 1.0}


def batch(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    assert found is not None
    rows: list[dict[str, Any]] = found["cursor"]["firstBatch"]
    return rows


def test_documents_come_in_the_order_of_the_hits() -> None:
    simple = plain(HITS, [], BODY)

    assert simple is not None
    assert simple.pipeline == [{"$match": {"_id": {"$in": ["b", "a", 1]}}}]
    # One is gone, and one came back with its number as another type.
    rows = batch(simple.finish(reply({"_id": 1.0, "x": 1}, {"_id": "b"})))
    assert rows == [{"_id": "b"}, {"_id": 1.0, "x": 1}]


def test_the_score_is_added_behind_the_fields_that_are_included() -> None:
    simple = plain(HITS, [{"$project": {"score": META, "title": 1, "a.b": True}}], BODY)

    assert simple is not None
    assert simple.pipeline[1:] == [{"$project": {"_id": 1, "title": 1, "a.b": True}}]
    rows = batch(simple.finish(reply({"_id": "a", "title": "A"}, {"_id": "b", "title": "B"})))
    assert [list(row.items()) for row in rows] == [
        [("_id", "b"), ("title", "B"), ("score", 0.75)],
        [("_id", "a"), ("title", "A"), ("score", 0.5)],
    ]


@pytest.mark.parametrize("fields", [{}, {"title": 1}])
def test_the_id_goes_at_last_where_it_is_not_wanted(fields: dict[str, Any]) -> None:
    simple = plain(HITS, [{"$project": {"_id": 0, **fields, "score": META}}], BODY)

    assert simple is not None
    assert simple.pipeline[1:] == [{"$project": {"_id": 1, **fields}}]
    assert batch(simple.finish(reply({"_id": "a"}, {"_id": "b"}))) == [
        {"score": 0.75},
        {"score": 0.5},
    ]


@pytest.mark.parametrize("name", ["$set", "$addFields"])
def test_the_score_is_set_where_the_field_stands(name: str) -> None:
    simple = plain(HITS, [{name: {"x": META, "y": META}}], BODY)

    assert simple is not None
    (row,) = batch(simple.finish(reply({"_id": "a", "x": "old", "z": 1})))
    assert list(row.items()) == [("_id", "a"), ("x", 0.5), ("z", 1), ("y", 0.5)]


def test_what_unions_add_stays_behind_whatever_its_ids_are() -> None:
    simple = plain(HITS, [{"$project": {"x": 1, "score": META}}, UNION, UNION], BODY)

    assert simple is not None
    assert simple.pipeline[1:] == [
        {"$project": {"_id": 1, "x": 1, RANK: {"$literal": True}}},
        UNION,
        UNION,
    ]
    rows = [{"_id": "a", RANK: True}, {"_id": "b", RANK: True}, {"_id": 1}, {"x": 2}]
    assert batch(simple.finish(reply(*rows))) == [
        {"_id": "b", "score": 0.75},
        {"_id": "a", "score": 0.5},
        {"_id": 1},
        {"x": 2},
    ]


def test_a_reply_that_is_not_the_whole_is_given_up() -> None:
    simple = plain(HITS, [{"$project": {"x": 1}}, UNION], BODY)

    assert simple is not None
    rows: list[dict[str, Any]] = [{"_id": each, RANK: True} for each in ("a", "b", 1)]
    # More unions may follow when every row is here already; a row may be missing otherwise.
    assert simple.finish(reply(*rows, {"x": 1}, identity=7)) is not None
    assert simple.finish(reply(*rows[:2], identity=7)) is None
    # A collection's own collation may match more than was asked for.
    assert simple.finish(reply({"_id": "A", RANK: True})) is None


def test_an_error_stays_as_it_is() -> None:
    simple = plain(HITS, [], BODY)

    assert simple is not None
    error = {"ok": 0.0, "errmsg": "no", "code": 13}
    assert simple.finish(error) is error


@pytest.mark.parametrize(
    "rest",
    [
        [{"$limit": 1}],
        [{"$match": {"x": 1}}],
        [{"$project": {}}],
        [{"$project": 1}],
        [{"$project": {"_id": 0}}],
        [{"$project": {"v": 0}}],
        [{"$project": {"v": 0, "score": META}}],
        [{"$project": {"x": "$y"}}],
        [{"$project": {"_id": "$x", "score": META}}],
        [{"$project": {"_id": META}}],
        [{"$project": {"x": {"y": 1}}}],
        [{"$project": {"x": {"$meta": "textScore"}}}],
        [{"$project": {"a.b": META}}],
        [{"$project": {"a": META, "a.b": 1}}],
        [{"$project": {"$a": META}}],
        [{"$project": {"": META}}],
        [{"$project": {"x": 1}}, {"$limit": 1}],
        [{"$project": {"x": 1}}, {**UNION, "$limit": 1}],
        [{"$project": {"x": 1}, "$limit": 1}],
        [{"$set": {"x": 1}}],
        [{"$set": {"x": META, "y": "$z"}}],
        [{"$set": {"_id": META}}],
        [{"$set": {"x": META}}, UNION],
        [{"$set": {}}],
        [UNION],
    ],
)
def test_what_does_more_is_left_to_the_backend(rest: list[dict[str, Any]]) -> None:
    assert plain(HITS, rest, BODY) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"cursor": {"batchSize": 2}},
        {"cursor": {"batchSize": 0}},
        {"cursor": {"batchSize": 5.0}},
        {"cursor": {"other": 1}},
        {"cursor": None},
        {"collation": {"locale": "en"}},
    ],
)
def test_rows_have_to_come_at_once_and_by_their_own_ids(changed: dict[str, Any]) -> None:
    assert plain(HITS, [], BODY | changed) is None
    assert plain(HITS, [], BODY | {"cursor": {"batchSize": 3}}) is not None


def test_a_batch_has_room_for_so_many() -> None:
    many = [(number, 1.0) for number in range(102)]

    assert plain(many, [], BODY) is None
    assert plain(many[:101], [], BODY) is not None
    assert plain([], [], BODY) is None


def test_a_part_of_the_id_does_not_stand_beside_the_whole() -> None:
    assert plain(HITS, [{"$project": {"_id.site": 1, "score": META}}], BODY) is None
