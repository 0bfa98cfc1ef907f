"""What was acknowledged is there after any crash, and so are the search indexes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from pymongo.operations import SearchIndexModel

WRITES = 10_000
INDEX = SearchIndexModel(
    name="vs",
    type="vectorSearch",
    definition={
        "fields": [
            {"type": "vector", "path": "v", "numDimensions": 2, "similarity": "euclidean"},
            {"type": "filter", "path": "t"},
        ]
    },
)


class Ledger:
    """Writes from several threads, single and in bulk, and notes what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, uri: str, life: int) -> None:
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._write, args=(uri, f"{life}-{number}", bulk))
            for number, bulk in enumerate((1, 1, 50))
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, uri: str, name: str, bulk: int) -> None:
        with MongoClient[dict[str, Any]](
            uri, serverSelectionTimeoutMS=300, retryWrites=False
        ) as client:
            number = 0
            while not self._stop.is_set():
                ids = [f"{name}-{number + one}" for one in range(bulk)]
                number += bulk
                try:
                    if bulk == 1:
                        client.ledger.writes.insert_one({"_id": ids[0]})
                    else:
                        client.ledger.writes.insert_many([{"_id": one} for one in ids])
                except PyMongoError:
                    return  # killed: nothing more is acknowledged in this life
                self.acknowledged.update(ids)


def test_no_acknowledged_write_is_lost_to_kill_9(serve: Callable[..., Any]) -> None:
    ledger = Ledger()
    server = serve()
    life = 0
    while len(ledger.acknowledged) < WRITES or life < 3:
        ledger.start(server.uri, life)
        target = len(ledger.acknowledged) + WRITES // 3
        deadline = time.monotonic() + 60
        while len(ledger.acknowledged) < target and time.monotonic() < deadline:
            time.sleep(0.01)
        engine, front = server.engine_pid, server.front_pid
        server.kill(*[(engine, front), (front,), (front, engine)][life % 3][:2])
        ledger.finish()
        server.start()
        with server.client() as client:
            kept = {one["_id"] for one in client.ledger.writes.find({}, {"_id": 1})}
        assert ledger.acknowledged <= kept
        life += 1


def test_an_engine_that_dies_comes_back_behind_the_same_front(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.client() as client:
        client.d.c.insert_one({"_id": 1})
        dead = server.engine_pid
        server.kill(dead)
        assert eventually(lambda: client.d.c.find_one({"_id": 1})) == {"_id": 1}
        assert server.engine_pid != dead


@pytest.mark.parametrize("end", ["stopped", "front killed", "both killed"])
def test_indexes_and_vectors_survive(serve: Callable[..., Any], end: str) -> None:
    server = serve()
    with server.client() as client:
        collection = client.d.c
        collection.insert_many([{"_id": n, "v": [n, 0], "t": "ab"[n % 2]} for n in range(20)])
        collection.create_search_index(INDEX)
        wait_until_queryable(collection)
        collection.update_one({"_id": 3}, {"$set": {"v": [0.5, 0]}})
        collection.delete_one({"_id": 0})
        collection.insert_one({"_id": 20, "v": [0.25, 0]})
    engine, front = server.engine_pid, server.front_pid
    match end:
        case "stopped":
            server.stop()
        case "front killed":
            server.kill(front)
        case "both killed":
            server.kill(engine, front)
        case _:
            server.kill(front)
    server.start()
    with server.client() as client:
        wait_until_queryable(client.d.c)
        assert eventually(lambda: nearest(client.d.c) == [20, 3, 1])
        (index,) = client.d.c.list_search_indexes()
        assert index["latestDefinition"] == INDEX.document["definition"]
        assert index["latestDefinitionVersion"]["version"] == 0


def test_a_damaged_vector_file_is_read_anew(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.client() as client:
        client.d.c.insert_many([{"_id": n, "v": [n, 0]} for n in range(5)])
        client.d.c.create_search_index(INDEX)
        wait_until_queryable(client.d.c)
    server.stop()
    (file,) = (server.data / "front").glob("*.vectors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 0xFF
    file.write_bytes(data)
    server.start()
    with server.client() as client:
        wait_until_queryable(client.d.c)
        assert nearest(client.d.c) == [0, 1, 2]


def test_a_dropped_index_and_a_dropped_collection_stay_gone(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.client() as client:
        for name in ("kept", "unindexed", "gone"):
            client.d[name].insert_one({"_id": 1, "v": [1, 0]})
            client.d[name].create_search_index(INDEX)
            wait_until_queryable(client.d[name])
        client.d.unindexed.drop_search_index("vs")
        client.d.gone.drop()
        client.d.gone.insert_one({"_id": 1, "v": [1, 0]})
    server.kill()
    server.start()
    with server.client() as client:
        wait_until_queryable(client.d.kept)
        assert list(client.d.unindexed.list_search_indexes()) == []
        assert list(client.d.gone.list_search_indexes()) == []
        assert eventually(lambda: len(list((server.data / "front").glob("*.vectors"))) == 1)


def test_an_index_follows_its_collection_to_another_name(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.client() as client:
        client.d.old.insert_many([{"_id": n, "v": [n, 0]} for n in range(3)])
        client.d.old.create_search_index(INDEX)
        wait_until_queryable(client.d.old)
        client.d.old.rename("new")
        assert eventually(lambda: nearest(client.d.new) == [0, 1, 2])
        client.d.new.insert_one({"_id": 9, "v": [0.5, 0]})
        assert eventually(lambda: nearest(client.d.new) == [0, 9, 1])
        assert list(client.d.old.list_search_indexes()) == []
    server.kill()
    server.start()
    with server.client() as client:
        wait_until_queryable(client.d.new)
        assert eventually(lambda: nearest(client.d.new) == [0, 9, 1])


def test_changes_from_before_a_rename_are_read_again_after_a_crash(
    serve: Callable[..., Any],
) -> None:
    server = serve()
    with server.client() as client:
        client.d.create_collection("old")
        client.d.old.create_search_index(INDEX)
        wait_until_queryable(client.d.old)
        client.d.old.insert_many([{"_id": n, "v": [n, 0]} for n in range(3)])
        client.d.old.rename("between")
        client.d.between.rename("new")
        assert eventually(lambda: nearest(client.d.new) == [0, 1, 2])
    server.kill()
    server.start()
    with server.client() as client:
        assert eventually(lambda: nearest(client.d.new) == [0, 1, 2])


def nearest(collection: Collection[dict[str, Any]], limit: int = 3) -> list[Any]:
    stage = {"index": "vs", "path": "v", "queryVector": [0, 0], "limit": limit, "exact": True}
    return [one["_id"] for one in collection.aggregate([{"$vectorSearch": stage}])]


def wait_until_queryable(collection: Collection[dict[str, Any]]) -> None:
    assert eventually(
        lambda: (
            all(one["queryable"] for one in collection.list_search_indexes())
            and list(collection.list_search_indexes())
        )
    )


def eventually(holds: Callable[[], Any], timeout: float = 60.0) -> Any:
    """What `holds` returns once it is true, or its last value."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = holds()
        except PyMongoError:
            result = None
        if result or time.monotonic() > deadline:
            return result
        time.sleep(0.02)
