"""Users, and a backend of somebody else's: the front answers only what the backend would allow."""

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
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

PASSWORD = "not a secret"
INDEX = SearchIndexModel(
    name="vs",
    type="vectorSearch",
    definition={
        "fields": [{"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"}]
    },
)
SEARCH: list[dict[str, Any]] = [
    {
        "$vectorSearch": {
            "index": "vs",
            "path": "v",
            "queryVector": [1, 0],
            "limit": 3,
            "exact": True,
        }
    }
]
MALFORMED = [{"$vectorSearch": {"index": "vs"}}]
LATE: list[dict[str, Any]] = [{"$match": {}}, {"$vectorSearch": {}}]
LIST: list[dict[str, Any]] = [{"$listSearchIndexes": {}}]
UNKNOWN_META = [*SEARCH, {"$set": {"x": {"$meta": "bogus"}}}]
LOST_META = [*SEARCH, {"$group": {"_id": 1}}, {"$set": {"x": {"$meta": "score"}}}]


def ready(client: MongoClient[dict[str, Any]], name: str = "c") -> None:
    deadline = time.monotonic() + 60
    while not [one for one in client.d[name].list_search_indexes() if one["queryable"]]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def guarded(serve: Callable[..., Any]) -> Iterator[Callable[..., MongoClient[dict[str, Any]]]]:
    """A localatlas with users; what it yields logs one in."""
    server = serve("--auth", "--user", "admin", env={"LOCALATLAS_PASSWORD": PASSWORD})
    opened = contextlib.ExitStack()

    def login(name: str | None = "admin") -> MongoClient[dict[str, Any]]:
        options = {} if name is None else {"username": name, "password": PASSWORD}
        return opened.enter_context(server.client(**options))

    with login() as admin:
        admin.d.c.insert_many([{"_id": n, "v": [n, 1]} for n in range(3)])
        admin.d.c.create_search_index(INDEX)
        ready(admin)
        admin.admin.command(
            "createUser", "reader", pwd=PASSWORD, roles=[{"role": "read", "db": "d"}]
        )
        admin.admin.command(
            "createUser", "stranger", pwd=PASSWORD, roles=[{"role": "readWrite", "db": "other"}]
        )
    with opened:
        yield login


Command = Callable[[MongoClient[dict[str, Any]]], Any]
READS: dict[str, Command] = {
    "search": lambda client: list(client.d.c.aggregate(SEARCH)),
    "search elsewhere in the pipeline": lambda client: list(client.d.c.aggregate(LATE)),
    "malformed search": lambda client: list(client.d.c.aggregate(MALFORMED)),
    "search of nothing": lambda client: list(client.d.nothing.aggregate(SEARCH)),
    "search in a union": lambda client: list(
        client.d.x.aggregate([{"$unionWith": {"coll": "c", "pipeline": SEARCH}}])
    ),
    "metadata that no server knows": lambda client: list(client.d.c.aggregate(UNKNOWN_META)),
    "metadata that is lost": lambda client: list(client.d.c.aggregate(LOST_META)),
    "explained": lambda client: client.d.command(
        {"explain": {"aggregate": "c", "pipeline": UNKNOWN_META, "cursor": {}}}
    ),
    "search of no collection": lambda client: client.d.command(
        {"aggregate": 1, "pipeline": SEARCH, "cursor": {}}
    ),
    "list": lambda client: list(client.d.c.aggregate(LIST)),
    "list command": lambda client: client.d.command("listSearchIndexes", "c"),
}
WRITES: dict[str, Command] = {
    "create": lambda client: client.d.command(
        {"createSearchIndexes": "c", "indexes": [INDEX.document]}
    ),
    "malformed create": lambda client: client.d.command({"createSearchIndexes": "c", "x": 1}),
    "update": lambda client: client.d.command(
        {"updateSearchIndex": "c", "name": "vs", "definition": INDEX.document["definition"]}
    ),
    "drop": lambda client: client.d.command({"dropSearchIndex": "c", "name": "vs"}),
    "update by a search": lambda client: client.d.command(
        {"update": "c", "updates": [{"q": {}, "u": SEARCH}]}
    ),
    "find and modify by a search": lambda client: client.d.command(
        {"findAndModify": "c", "query": {}, "update": SEARCH}
    ),
    "bulk write by a search": lambda client: client.admin.command(
        {
            "bulkWrite": 1,
            "ops": [{"update": 0, "filter": {}, "updateMods": SEARCH}],
            "nsInfo": [{"ns": "d.c"}],
        }
    ),
    "drop nothing": lambda client: client.d.command({"dropSearchIndex": "nothing", "name": "n"}),
}


def test_without_a_login_nothing_is_answered(guarded: Callable[..., Any]) -> None:
    client = guarded(None)
    for what, command in (READS | WRITES).items():
        with pytest.raises(OperationFailure) as refused:
            command(client)
        assert refused.value.code == 13, what


def test_a_stranger_to_the_database_is_told_nothing(guarded: Callable[..., Any]) -> None:
    client = guarded("stranger")
    view: dict[str, Command] = {
        "view of a search": lambda client: client.d.command(
            {"create": "v", "viewOn": "c", "pipeline": SEARCH}
        )
    }
    for what, command in (READS | WRITES | view).items():
        with pytest.raises(OperationFailure) as refused:
            command(client)
        assert refused.value.code == 13, what


def test_a_reader_may_search_and_list_but_not_change(guarded: Callable[..., Any]) -> None:
    client = guarded("reader")
    assert [one["_id"] for one in READS["search"](client)] == [2, 1, 0]
    assert [one["name"] for one in READS["list"](client)] == ["vs"]
    for what, command in WRITES.items():
        with pytest.raises(OperationFailure) as refused:
            command(client)
        assert refused.value.code == 13, what
    assert [one["name"] for one in READS["list"](client)] == ["vs"]


def test_users_and_indexes_survive_a_restart(serve: Callable[..., Any]) -> None:
    server = serve("--auth", "--user", "admin", env={"LOCALATLAS_PASSWORD": PASSWORD})
    with server.client(username="admin", password=PASSWORD) as client:
        client.d.c.insert_one({"_id": 1, "v": [1, 0]})
        client.d.c.create_search_index(INDEX)
        ready(client)
    server.kill()
    server.start()
    older = {"authMechanism": "SCRAM-SHA-1"}
    with server.client(username="admin", password=PASSWORD, **older) as client:
        ready(client)
        assert [one["_id"] for one in client.d.c.aggregate(SEARCH)] == [1]


def test_with_users_it_may_bind_to_every_address(serve: Callable[..., Any]) -> None:
    arguments = ("--host", "0.0.0.0", "--auth", "--user", "admin")  # noqa: S104 - the test's point
    server = serve(*arguments, env={"LOCALATLAS_PASSWORD": PASSWORD})
    with server.client(username="admin", password=PASSWORD) as client:
        assert client.admin.command("ping")["ok"] == 1


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[int]:
    """The port of a server that localatlas has not started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = tmp_path / "foreign.toml"
    config.touch()
    program = str(Path(sys.executable).parent / "secantusd-py")
    arguments = ["--config", str(config), "--port", str(port), "--log-level", "ERROR"]
    with subprocess.Popen(
        [program, *arguments, "--storage-path", str(tmp_path / "foreign")]
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield port
        finally:
            process.kill()


def test_it_stands_before_any_replica_set(foreign: int, serve: Callable[..., Any]) -> None:
    server = serve("--backend", f"mongodb://127.0.0.1:{foreign}/?replicaSet=secantus")
    with (
        server.client() as client,
        MongoClient[dict[str, Any]](port=foreign, directConnection=True) as direct,
    ):
        assert str(foreign) not in client.admin.command("hello")["me"]
        direct.d.c.insert_many([{"_id": n, "v": [n, 1]} for n in range(3)])
        client.d.c.create_search_index(INDEX)
        ready(client)
        assert [one["_id"] for one in client.d.c.aggregate(SEARCH)] == [2, 1, 0]
        with client.start_session() as session:
            session.with_transaction(
                lambda inside: client.d.c.insert_one({"_id": 9, "v": [1, 0]}, session=inside)
            )
        deadline = time.monotonic() + 60
        while [one["_id"] for one in client.d.c.aggregate(SEARCH)] != [9, 2, 1]:
            assert time.monotonic() < deadline
    server.kill()
    server.start()
    with server.client() as client:
        ready(client)
        assert [one["_id"] for one in client.d.c.aggregate(SEARCH)] == [9, 2, 1]
