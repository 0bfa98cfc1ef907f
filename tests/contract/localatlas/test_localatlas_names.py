"""A search looks at the collection that has the name now, however the name came to another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

Db = Database[dict[str, Any]]
FIELD = {"type": "vector", "path": "v", "numDimensions": 1, "similarity": "euclidean"}
SEARCH: list[dict[str, Any]] = [
    {
        "$vectorSearch": {
            "index": "vs",
            "path": "v",
            "queryVector": [0],
            "limit": 3,
            "exact": True,
        }
    }
]


def fill(database: Db) -> None:
    database.c.insert_many([{"_id": number, "v": [float(number)]} for number in range(3)])
    make_index(database)


def make_index(database: Db) -> None:
    database.c.create_search_index(
        SearchIndexModel(name="vs", type="vectorSearch", definition={"fields": [FIELD]})
    )
    deadline = time.monotonic() + 60
    while not all(one["queryable"] for one in database.c.list_search_indexes()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def found(database: Db) -> list[int]:
    return [row["_id"] for row in database.c.aggregate(SEARCH)]


def drop(database: Db) -> None:
    database.c.drop()
    database.c.insert_many([{"_id": number} for number in range(3)])


def drop_database(database: Db) -> None:
    database.client.drop_database(database.name)
    database.c.insert_many([{"_id": number} for number in range(3)])


def rename_over(database: Db) -> None:
    database.d.insert_many([{"_id": number} for number in range(3)])
    database.d.rename("c", dropTarget=True)


def rename_away(database: Db) -> None:
    database.c.rename("e", dropTarget=True)
    database.c.insert_many([{"_id": number} for number in range(3)])


@pytest.mark.parametrize("change", [drop, drop_database, rename_over, rename_away])
def test_another_collection_of_the_name_has_no_index(
    atlas: str, database: Db, change: Callable[[Db], None]
) -> None:
    with MongoClient[dict[str, Any]](atlas) as other:
        for _ in range(2):
            fill(database)
            assert found(database) == [0, 1, 2]
            assert found(other[database.name]) == [0, 1, 2]

            change(database)

            assert found(other[database.name]) == []
            assert found(database) == []
            database.c.drop()


def test_a_view_of_the_name_cannot_be_searched(atlas: str, database: Db) -> None:
    with MongoClient[dict[str, Any]](atlas) as other:
        fill(database)
        assert found(other[database.name]) == [0, 1, 2]

        database.c.rename("under")
        database.create_collection("c", viewOn="under", pipeline=[])

        with pytest.raises(OperationFailure, match="is a view"):
            found(other[database.name])


def test_writes_do_not_make_a_name_another(database: Db) -> None:
    fill(database)
    assert found(database) == [0, 1, 2]

    database.c.delete_one({"_id": 0})
    database.d.insert_one({"_id": 7})

    assert found(database) == [1, 2]


def test_an_index_of_many_documents_is_searched_as_a_small_one_is(database: Db) -> None:
    database.c.insert_many([{"_id": number, "v": [float(number)]} for number in range(700)][::-1])
    make_index(database)

    assert found(database) == [0, 1, 2]
    # More than come in one batch.
    many = [{"$vectorSearch": {**SEARCH[0]["$vectorSearch"], "limit": 600}}]
    assert [row["_id"] for row in database.c.aggregate(many)] == list(range(600))
    wrong = [{"$vectorSearch": {**SEARCH[0]["$vectorSearch"], "queryVector": [0, 0]}}]
    with pytest.raises(OperationFailure, match="dimensions but queried with"):
        database.c.aggregate(wrong)
