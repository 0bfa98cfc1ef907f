"""How searches keep up: delays on purpose, streams that break, places that are forgotten."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import CursorType, MongoClient
from pymongo.collection import Collection
from pymongo.errors import NotPrimaryError, OperationFailure
from pymongo.operations import SearchIndexModel

Documents = Collection[dict[str, Any]]
INDEX = SearchIndexModel(
    name="vs",
    type="vectorSearch",
    definition={
        "fields": [{"type": "vector", "path": "v", "numDimensions": 1, "similarity": "euclidean"}]
    },
)


def nearest(collection: Documents, limit: int = 3) -> list[Any]:
    stage = {"index": "vs", "path": "v", "queryVector": [0], "limit": limit, "exact": True}
    return [row["_id"] for row in collection.aggregate([{"$vectorSearch": stage}])]


def eventually(holds: Callable[[], Any], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ready(collection: Documents) -> bool:
    return [one["queryable"] for one in collection.list_search_indexes()] == [True]


def test_writes_become_visible_after_the_lag_and_not_before(serve: Callable[..., Any]) -> None:
    server = serve("--lag", "600")
    with server.client() as client:
        collection = client.d.c
        collection.insert_one({"_id": 1, "v": [1]})
        collection.create_search_index(INDEX)
        eventually(lambda: ready(collection))
        assert nearest(collection) == [1]
        written = time.monotonic()
        collection.insert_one({"_id": 0, "v": [0]})
        collection.update_one({"_id": 1}, {"$set": {"t": "new"}})
        found = nearest(collection)
        assert found == [1] or time.monotonic() - written > 0.5
        eventually(lambda: nearest(collection) == [0, 1])
        assert time.monotonic() - written > 0.5


def test_a_build_passes_through_its_states_and_is_refused_until_ready(
    serve: Callable[..., Any],
) -> None:
    server = serve("--build-delay", "2500")
    seen = []
    with server.client() as client:
        collection = client.d.c
        collection.insert_one({"_id": 1, "v": [1]})
        collection.create_search_index(INDEX)
        with pytest.raises(OperationFailure, match="while in state NOT_STARTED") as error:
            nearest(collection)
        assert error.value.code == 8
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and "READY" not in seen:
            (index,) = collection.list_search_indexes()
            assert index["queryable"] == (index["status"] == "READY")
            if index["status"] == "BUILDING" and "BUILDING" not in seen:
                with pytest.raises(OperationFailure, match="while in state INITIAL_SYNC"):
                    nearest(collection)
            if index["status"] not in seen:
                seen.append(index["status"])
            time.sleep(0.01)
        assert seen == ["PENDING", "BUILDING", "READY"]
        assert nearest(collection) == [1]
        # An update serves the old build meanwhile.
        collection.update_search_index("vs", INDEX.document["definition"])
        (index,) = collection.list_search_indexes()
        assert (index["status"], index["queryable"]) == ("BUILDING", True)
        assert nearest(collection) == [1]


def test_writes_during_a_build_are_in_it(serve: Callable[..., Any]) -> None:
    server = serve("--build-delay", "300")
    with server.client() as client:
        collection = client.d.c
        collection.insert_many([{"_id": n, "v": [n]} for n in range(10)])
        collection.create_search_index(INDEX)
        written = 0
        while not ready(collection):
            collection.replace_one({"_id": 5}, {"_id": 5, "v": [-written]})
            collection.delete_one({"_id": 0})
            written += 1
        collection.replace_one({"_id": 5}, {"_id": 5, "v": [0]})
        eventually(lambda: nearest(collection) == [5, 1, 2])


def test_a_change_stream_of_a_client_goes_on_after_the_engine_was_killed(
    serve: Callable[..., Any],
) -> None:
    server = serve()
    with server.client() as client, client.d.c.watch(max_await_time_ms=100) as stream:
        client.d.c.insert_one({"_id": 1})
        assert stream.next()["documentKey"] == {"_id": 1}
        server.kill(server.engine_pid)

        def written() -> bool:
            with contextlib.suppress(Exception):
                client.d.c.update_one({"_id": 2}, {"$set": {"n": 1}}, upsert=True)
                return True
            return False

        eventually(written)
        assert stream.next()["documentKey"] == {"_id": 2}


def test_a_write_whose_reply_was_lost_is_retried(serve: Callable[..., Any]) -> None:
    server = serve("--enable-test-commands")
    with server.client(retryWrites=True) as client:
        fault = {"failCommands": ["insert"], "closeConnection": True}
        client.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": fault}
        )
        client.d.c.insert_one({})
        assert client.d.c.count_documents({}) == 1


def test_an_error_of_no_primary_names_its_topology(serve: Callable[..., Any]) -> None:
    server = serve("--enable-test-commands")
    with server.client(retryReads=False) as client:
        hello = client.admin.command("hello")
        fault = {"failCommands": ["find"], "errorCode": 189}
        client.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": fault}
        )
        with pytest.raises(NotPrimaryError) as refused:
            client.d.c.find_one()
        assert refused.value.details["topologyVersion"] == hello["topologyVersion"]
        # It is no news, so that the driver goes on with the same server at once.
        assert client.topology_description.has_writable_server()


def test_exhaust_cursors_stream(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.client() as client:
        client.d.c.insert_many([{"_id": n} for n in range(300)])
        cursor = client.d.c.find({}, cursor_type=CursorType.EXHAUST, batch_size=20)
        assert [one["_id"] for one in cursor] == list(range(300))


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[int]:
    """The port of a server that remembers no more than 40 changes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (tmp_path / "engine.toml").touch()
    command = [
        str(Path(sys.executable).parent / "secantusd-py"),
        *("--config", str(tmp_path / "engine.toml"), "--port", str(port)),
        *("--storage-path", str(tmp_path / "engine"), "--oplog-max-entries", "40"),
        *("--log-level", "ERROR"),
    ]
    with subprocess.Popen(command) as process:
        try:
            eventually(lambda: _answers(port), 20)
            yield port
        finally:
            process.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_when_its_place_is_forgotten_everything_is_read_anew(
    forgetful: int, serve: Callable[..., Any]
) -> None:
    server = serve("--backend", f"mongodb://127.0.0.1:{forgetful}/?directConnection=true")
    with MongoClient[dict[str, Any]](port=forgetful, directConnection=True) as direct:
        direct.d.c.insert_many([{"_id": n, "v": [n + 100]} for n in range(20)])
        with server.client() as client:
            client.d.gone.insert_one({"_id": 1, "v": [1]})
            client.d.gone.create_search_index(INDEX)
            client.d.c.create_search_index(INDEX)
            eventually(lambda: ready(client.d.c) and ready(client.d.gone))
        server.kill()
        direct.d.gone.drop()
        direct.d.c.delete_many({})
        for number in range(200):
            direct.d.c.insert_one({"_id": number, "v": [number]})
        server.start()
        with server.client() as client:
            eventually(lambda: ready(client.d.c))
            assert nearest(client.d.c, 300) == list(range(200))
            assert list(client.d.gone.list_search_indexes()) == []
            client.d.c.delete_one({"_id": 0})
            eventually(lambda: nearest(client.d.c) == [1, 2, 3])
