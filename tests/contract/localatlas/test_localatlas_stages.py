"""What follows a $vectorSearch runs in the backend, with the score wherever it is asked for."""

from __future__ import annotations

import datetime
import math
import time
import uuid
from typing import Any

import bson
import pytest
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

Rows = list[dict[str, Any]]
META = {"$meta": "vectorSearchScore"}


def index(collection: Collection[dict[str, Any]]) -> None:
    definition = {
        "fields": [{"type": "vector", "path": "v", "numDimensions": 1, "similarity": "euclidean"}]
    }
    collection.create_search_index(
        SearchIndexModel(name="vs", type="vectorSearch", definition=definition)
    )
    deadline = time.monotonic() + 60
    while not all(one["queryable"] for one in collection.list_search_indexes()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def collection(database: Database[dict[str, Any]]) -> Collection[dict[str, Any]]:
    """Documents 0..4 at distance 0..4 of the query, scores 1, 1/2, 1/5, 1/10, 1/17."""
    found = database.c
    found.insert_many([{"_id": n, "v": [float(n)], "t": "ab"[n % 2]} for n in (3, 1, 4, 0, 2)])
    index(found)
    return found


def search(limit: int = 3) -> dict[str, Any]:
    return {
        "$vectorSearch": {
            "index": "vs",
            "path": "v",
            "queryVector": [0],
            "limit": limit,
            "exact": True,
        }
    }


def scores(rows: Rows) -> list[float]:
    return [round(row["s"], 4) for row in rows]


STAGES: list[tuple[str, Rows, Rows]] = [
    ("no stage", [], [{"_id": n, "v": [float(n)], "t": "ab"[n % 2]} for n in range(3)]),
    (
        "inclusion",
        [{"$project": {"t": 1, "s": META}}],
        [
            {"_id": 0, "t": "a", "s": 1.0},
            {"_id": 1, "t": "b", "s": 0.5},
            {"_id": 2, "t": "a", "s": 0.2},
        ],
    ),
    (
        "inclusion without id",
        [{"$project": {"_id": 0, "s": META}}],
        [{"s": 1.0}, {"s": 0.5}, {"s": 0.2}],
    ),
    (
        "exclusion",
        [{"$project": {"v": 0, "t": 0, "s": META}}],
        [{"_id": 0, "s": 1.0}, {"_id": 1, "s": 0.5}, {"_id": 2, "s": 0.2}],
    ),
    (
        "in an expression",
        [{"$project": {"s": {"$multiply": [10, META]}}}],
        [{"_id": 0, "s": 10.0}, {"_id": 1, "s": 5.0}, {"_id": 2, "s": 2.0}],
    ),
    (
        "after the id is gone",
        [{"$project": {"_id": 0, "t": 1}}, {"$set": {"s": META}}],
        [{"t": "a", "s": 1.0}, {"t": "b", "s": 0.5}, {"t": "a", "s": 0.2}],
    ),
    (
        "after the id has changed",
        [{"$project": {"_id": "$t"}}, {"$set": {"s": META}}],
        [{"_id": "a", "s": 1.0}, {"_id": "b", "s": 0.5}, {"_id": "a", "s": 0.2}],
    ),
    (
        "after a new root",
        [{"$replaceRoot": {"newRoot": {"k": "$t"}}}, {"$set": {"s": META}}],
        [{"k": "a", "s": 1.0}, {"k": "b", "s": 0.5}, {"k": "a", "s": 0.2}],
    ),
    (
        "whole documents are what the client stored",
        [{"$project": {"_id": 0, "d": "$$ROOT", "s": META}}, {"$limit": 1}],
        [{"d": {"_id": 0, "v": [0.0], "t": "a"}, "s": 1.0}],
    ),
    (
        "match on the score",
        [{"$match": {"$expr": {"$gte": [META, 0.4]}}}, {"$project": {"s": META}}],
        [{"_id": 0, "s": 1.0}, {"_id": 1, "s": 0.5}],
    ),
    (
        "sort by the score",
        [{"$sort": {"t": -1}}, {"$sort": {"s": META}}, {"$project": {"s": META}}],
        [{"_id": 0, "s": 1.0}, {"_id": 1, "s": 0.5}, {"_id": 2, "s": 0.2}],
    ),
    (
        "group by with the best score",
        [{"$group": {"_id": "$t", "s": {"$max": META}}}, {"$sort": {"_id": 1}}],
        [{"_id": "a", "s": 1.0}, {"_id": "b", "s": 0.5}],
    ),
    (
        "group pushes what the client stored",
        [
            {"$set": {"s": META}},
            {"$group": {"_id": "$t", "all": {"$push": "$$ROOT"}}},
            {"$sort": {"_id": -1}},
            {"$limit": 1},
        ],
        [{"_id": "b", "all": [{"_id": 1, "v": [1.0], "t": "b", "s": 0.5}]}],
    ),
    (
        "facet",
        [{"$facet": {"top": [{"$limit": 1}], "s": [{"$project": {"s": META}}, {"$skip": 2}]}}],
        [{"top": [{"_id": 0, "v": [0.0], "t": "a"}], "s": [{"_id": 2, "s": 0.2}]}],
    ),
    (
        "unwind",
        [{"$unwind": "$v"}, {"$project": {"v": 1, "s": META}}, {"$skip": 2}],
        [{"_id": 2, "v": 2.0, "s": 0.2}],
    ),
    ("count", [{"$count": "n"}], [{"n": 3}]),
    ("count of none", [{"$match": {"t": "none"}}, {"$count": "n"}], []),
    (
        "count beside a score",
        [{"$facet": {"s": [{"$project": {"s": META}}, {"$skip": 2}], "n": [{"$count": "n"}]}}],
        [{"s": [{"_id": 2, "s": 0.2}], "n": [{"n": 3}]}],
    ),
    (
        "without the id alone",
        [{"$project": {"_id": 0}}, {"$set": {"s": META}}, {"$skip": 2}],
        [{"v": [2.0], "t": "a", "s": 0.2}],
    ),
    (
        "what a lookup is given",
        [
            {"$skip": 2},
            {
                "$lookup": {
                    "from": "c",
                    "let": {"s": META, "whole": "$$ROOT"},
                    "pipeline": [
                        {"$limit": 1},
                        {"$project": {"_id": 0, "s": "$$s", "w": "$$whole"}},
                    ],
                    "as": "x",
                }
            },
            {"$project": {"x": 1, "s": META}},
        ],
        [{"_id": 2, "x": [{"s": 0.2, "w": {"_id": 2, "v": [2.0], "t": "a"}}], "s": 0.2}],
    ),
    (
        "unset of the rest",
        [{"$set": {"s": META}}, {"$unset": ["v", "t"]}, {"$skip": 1}, {"$limit": 1}],
        [{"_id": 1, "s": 0.5}],
    ),
]


@pytest.mark.parametrize(
    ("stages", "expected"), [case[1:] for case in STAGES], ids=[case[0] for case in STAGES]
)
def test_later_stages(collection: Collection[dict[str, Any]], stages: Rows, expected: Rows) -> None:
    assert _rounded(list(collection.aggregate([search(), *stages]))) == expected


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def test_a_search_in_a_transaction_ends_it(collection: Collection[dict[str, Any]]) -> None:
    with collection.database.client.start_session() as session:
        session.start_transaction()
        collection.insert_one({"_id": "inside"}, session=session)
        with pytest.raises(OperationFailure) as refused:
            list(collection.aggregate([search()], session=session))
        with pytest.raises(OperationFailure) as ended:
            session.commit_transaction()
    assert (refused.value.code, ended.value.code) == (263, 251)
    assert collection.find_one("inside") is None


def test_unions_of_two_searches_keep_both_scores(
    database: Database[dict[str, Any]], collection: Collection[dict[str, Any]]
) -> None:
    database.other.insert_one({"_id": 9, "v": [3.0]})
    index(database.other)
    union = {"$unionWith": {"coll": "other", "pipeline": [search()]}}
    stages = [search(1), union, {"$project": {"s": META}}]
    rows = list(collection.aggregate(stages))
    assert [(row["_id"], round(row["s"], 4)) for row in rows] == [(0, 1.0), (9, 0.1)]


def test_booleans_numbers_and_not_a_number_are_ids_apart(
    database: Database[dict[str, Any]],
) -> None:
    made: list[Any] = [True, 1, math.nan, False, 0]
    database.c.insert_many([{"_id": one, "v": [float(n)]} for n, one in enumerate(made)])
    index(database.c)
    for stages in ([{"$match": {}}], [{"$match": {}}, {"$set": {"s": META}}]):
        rows = list(database.c.aggregate([search(4), *stages]))
        assert [repr(row["_id"]) for row in rows] == ["True", "1", "nan", "False"]


@pytest.mark.parametrize("kind", ["integer", "string", "objectid", "uuid", "date", "mixed"])
def test_rows_of_any_kind_of_id_come_in_order_over_many_batches(
    database: Database[dict[str, Any]], kind: str
) -> None:
    count = 60
    made = [_identity(kind, number) for number in range(count)]
    database.c.insert_many([{"_id": one, "v": [float(n)]} for n, one in enumerate(made)])
    index(database.c)
    for limit in (20, count):  # few rows and many are fetched in two ways
        stages = [search(limit), {"$project": {"s": META}}]
        rows = list(database.c.aggregate(stages, batchSize=7))
        assert [row["_id"] for row in rows] == made[:limit]
        assert scores(rows) == [round(1 / (1 + n * n), 4) for n in range(limit)]


def _identity(kind: str, number: int) -> Any:
    match kind:
        case "integer":
            return number * 37 % 5003 - 2500
        case "string":
            return f"{number * 37 % 5003:x}é"
        case "objectid":
            return bson.ObjectId()
        case "uuid":
            return bson.Binary.from_uuid(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        case "date":
            seconds = datetime.timedelta(seconds=number * 37 % 61)
            return datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) + seconds
        case _:
            return [number, str(number), 0.5 + number, {"n": number}][number % 4]


def test_variables_hints_and_comments_reach_the_backend(
    collection: Collection[dict[str, Any]],
) -> None:
    rows = collection.aggregate(
        [search(), {"$match": {"$expr": {"$eq": ["$t", "$$wanted"]}}}],
        let={"wanted": "b"},
        comment="mine",
        maxTimeMS=5000,
    )
    assert [row["_id"] for row in rows] == [1]


def test_a_search_can_be_explained(
    database: Database[dict[str, Any]], collection: Collection[dict[str, Any]]
) -> None:
    aggregate = {"aggregate": "c", "pipeline": [search()], "cursor": {}}
    assert database.command("explain", aggregate)["ok"] == 1


def test_results_can_be_written_to_a_collection(
    database: Database[dict[str, Any]], collection: Collection[dict[str, Any]]
) -> None:
    collection.aggregate([search(), {"$set": {"s": META}}, {"$out": "best"}])
    assert scores(list(database.best.find().sort("_id"))) == [1.0, 0.5, 0.2]
    with pytest.raises(OperationFailure):
        collection.aggregate([{"$vectorSearch": {"index": "vs"}}, {"$out": "best"}])
    assert database.best.count_documents({}) == 3


def test_a_search_works_inside_a_session_and_sees_current_documents(
    database: Database[dict[str, Any]], collection: Collection[dict[str, Any]]
) -> None:
    with database.client.start_session(causal_consistency=True) as session:
        collection.update_one({"_id": 0}, {"$set": {"t": "new"}}, session=session)
        (row,) = collection.aggregate([search(1)], session=session)
        assert row["t"] == "new"


def test_text_that_only_mentions_the_stage_is_not_taken_for_it(
    database: Database[dict[str, Any]],
) -> None:
    database.c.insert_one({"_id": 1, "name": "$vectorSearch"})
    pipeline = [
        {"$match": {"name": {"$eq": "$vectorSearch"}}},
        {"$set": {"x": "$listSearchIndexes"}},
    ]
    assert [row["_id"] for row in database.c.aggregate(pipeline)] == [1]
