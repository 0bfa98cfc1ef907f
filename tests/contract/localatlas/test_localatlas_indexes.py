"""Search indexes over their life, as a driver sees it, and the strictness of their commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

Documents = Collection[dict[str, Any]]


def definition(similarity: str = "euclidean", **extra: Any) -> dict[str, Any]:
    field = {"type": "vector", "path": "v", "numDimensions": 1, "similarity": similarity}
    return {"fields": [field], **extra}


def model(name: str = "vs", **changes: Any) -> SearchIndexModel:
    return SearchIndexModel(name=name, type="vectorSearch", definition=definition(**changes))


def listed(collection: Documents, name: str = "vs") -> dict[str, Any]:
    (found,) = collection.list_search_indexes(name)
    return dict(found)


def eventually(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def nearest(collection: Documents, name: str = "vs") -> list[Any]:
    stage = {"index": name, "path": "v", "queryVector": [0], "limit": 9, "exact": True}
    return [row["_id"] for row in collection.aggregate([{"$vectorSearch": stage}])]


@pytest.fixture
def collection(database: Database[dict[str, Any]]) -> Documents:
    database.c.insert_many([{"_id": n, "v": [n]} for n in range(3)])
    return database.c


def test_an_index_is_ready_only_when_every_document_is_searchable(
    database: Database[dict[str, Any]],
) -> None:
    database.c.insert_many([{"_id": n, "v": [n % 50]} for n in range(600)])
    database.c.create_search_index(model())
    stage = {"index": "vs", "path": "v", "queryVector": [0], "limit": 5000, "exact": True}
    pipeline = [{"$vectorSearch": stage}, {"$count": "n"}]
    while not listed(database.c)["queryable"]:
        assert listed(database.c)["status"] != "READY" or listed(database.c)["queryable"]
    assert list(database.c.aggregate(pipeline)) == [{"n": 600}]


def test_an_update_keeps_the_id_counts_versions_and_serves_meanwhile(collection: Documents) -> None:
    collection.create_search_index(model())
    eventually(lambda: listed(collection)["status"] == "READY")
    before = listed(collection)
    for version in (1, 2):
        collection.update_search_index("vs", definition("cosine"))
        assert listed(collection)["queryable"]
        assert listed(collection)["latestDefinitionVersion"]["version"] == version
        assert len(nearest_cosine(collection)) in (2, 3)  # the zero vector goes with cosine
    eventually(lambda: listed(collection)["status"] == "READY")
    assert listed(collection)["id"] == before["id"]
    assert listed(collection)["latestDefinition"] == definition("cosine")
    assert sorted(nearest_cosine(collection)) == [1, 2]


def nearest_cosine(collection: Documents) -> list[Any]:
    stage = {"index": "vs", "path": "v", "queryVector": [1], "limit": 9, "exact": True}
    return [row["_id"] for row in collection.aggregate([{"$vectorSearch": stage}])]


def test_the_same_index_again_is_no_new_one(collection: Documents) -> None:
    command = {"createSearchIndexes": "c", "indexes": [model().document]}
    first = collection.database.command(command)["indexesCreated"]
    again = collection.database.command(command)["indexesCreated"]
    assert [one["name"] for one in first + again] == ["vs", "vs"]
    assert first[0]["id"] != again[0]["id"]
    assert listed(collection)["id"] == first[0]["id"]


def test_a_batch_is_created_whole_or_not_at_all(collection: Documents) -> None:
    collection.create_search_index(model("a"))
    with pytest.raises(OperationFailure, match="already exists with a different") as error:
        collection.create_search_indexes([model("b"), model("a", similarity="cosine")])
    assert error.value.code == 68
    assert [one["name"] for one in collection.list_search_indexes()] == ["a"]


def test_drivers_may_drop_and_update_on_a_missing_collection(
    database: Database[dict[str, Any]],
) -> None:
    database.missing.drop_search_index("vs")
    assert list(database.missing.list_search_indexes()) == []
    with pytest.raises(OperationFailure, match=r"Collection '.*missing' does not exist") as error:
        database.missing.create_search_index(model())
    assert error.value.code == 26


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"createSearchIndexes": "c"}, 40414),
        ({"createSearchIndexes": "missing"}, 40414),
        ({"createSearchIndexes": "c", "indexes": "x"}, 14),
        ({"createSearchIndexes": "c", "indexes": ["x"]}, 14),
        ({"createSearchIndexes": "c", "indexes": []}, 8),
        ({"createSearchIndexes": "c", "indexes": [], "writeConcern": {"w": 1}}, 72),
        ({"createSearchIndexes": "c", "indexes": [], "extra": 1}, 40415),
        ({"createSearchIndexes": 7, "indexes": []}, 73),
        ({"updateSearchIndex": "c", "definition": {}}, 72),
        ({"updateSearchIndex": "c", "name": "a", "id": "b", "definition": {}}, 72),
        ({"updateSearchIndex": "c", "name": "a"}, 40414),
        ({"updateSearchIndex": "c", "name": "a", "definition": {}}, 27),
        ({"updateSearchIndex": "c", "name": 5, "definition": {}}, 14),
        ({"updateSearchIndex": "c", "id": "b", "type": "x", "definition": {}}, 40415),
        ({"dropSearchIndex": "c", "name": "a"}, 27),
        ({"dropSearchIndex": "c", "id": "0" * 24}, 27),
        ({"dropSearchIndex": "c", "name": "a", "id": "b"}, 72),
        ({"dropSearchIndex": "c"}, 8),
        ({"listSearchIndexes": "missing"}, 26),
        ({"listSearchIndexes": "c", "name": "a", "id": "b"}, 72),
    ],
)
def test_commands_are_as_strict_as_the_server(
    collection: Documents, command: dict[str, Any], code: int
) -> None:
    with pytest.raises(OperationFailure) as error:
        collection.database.command(command)
    assert error.value.code == code


def test_indexes_are_refused_on_a_view(database: Database[dict[str, Any]]) -> None:
    database.create_collection("view", viewOn="c", pipeline=[])
    with pytest.raises(OperationFailure) as error:
        database.view.create_search_index(model())
    assert error.value.code == 166


def test_neither_search_nor_index_commands_join_a_transaction(collection: Documents) -> None:
    stage = {"index": "vs", "path": "v", "queryVector": [0], "limit": 1, "exact": True}
    with collection.database.client.start_session() as session:
        for act in (
            lambda: list(collection.aggregate([{"$vectorSearch": stage}], session=session)),
            lambda: collection.create_search_index(model(), session=session),
            lambda: list(collection.list_search_indexes(session=session)),
        ):
            session.start_transaction()
            with pytest.raises(OperationFailure) as error:
                act()
            assert error.value.code == 263
            session.abort_transaction()


def test_the_stage_is_outside_the_stable_api(collection: Documents) -> None:
    with pytest.raises(OperationFailure) as error:
        collection.database.command(
            {
                "aggregate": "c",
                "pipeline": [{"$listSearchIndexes": {}}],
                "cursor": {},
                "apiVersion": "1",
                "apiStrict": True,
            }
        )
    assert error.value.code == 323


def test_a_new_collection_of_an_old_name_has_no_indexes(collection: Documents) -> None:
    collection.create_search_index(model())
    collection.drop()
    collection.insert_one({"_id": 7, "v": [7]})
    assert list(collection.list_search_indexes()) == []
    assert nearest(collection) == []
    collection.create_search_index(model())
    eventually(lambda: listed(collection)["queryable"])
    assert nearest(collection) == [7]


def test_a_collection_renamed_over_an_indexed_one_replaces_its_indexes(
    collection: Documents,
) -> None:
    database = collection.database
    collection.create_search_index(model("old"))
    database.other.insert_one({"_id": 5, "v": [5]})
    database.other.create_search_index(model("new"))
    eventually(lambda: listed(database.other, "new")["queryable"])
    database.other.rename("c", dropTarget=True)
    eventually(lambda: [one["name"] for one in collection.list_search_indexes()] == ["new"])
    assert nearest(collection, "new") == [5]


def test_one_index_does_not_see_another_collections_writes(collection: Documents) -> None:
    collection.create_search_index(model())
    eventually(lambda: listed(collection)["queryable"])
    collection.database.other.insert_one({"_id": 99, "v": [0]})
    collection.insert_one({"_id": 3, "v": [3]})
    eventually(lambda: nearest(collection) == [0, 1, 2, 3])
