"""Runs the vector search contract against the embedded Atlas, or the one in CONTRACT_URI.

    CONTRACT_URI='mongodb+srv://…' python -m pytest -m atlas tests/contract/vectorsearch

On a real cluster at most three search indexes are alive at a time, waits are longer, and the
wording of definition errors, which is that of the self-managed engine, is not compared.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo import MongoClient
from pymongo.errors import OperationFailure

HERE = Path(__file__).resolve().parent
FILES = ("cases.json", "more_cases.json")
URI = "CONTRACT_URI"
# Seconds that one index build, and one case that builds none, take on a small shared cluster.
BUILD_SECONDS, CASE_SECONDS = 45, 2
# Groups whose messages are known from the self-managed engine only.
COMMUNITY_WORDING = ("def-err",)
OPTIONS = json_util.JSONOptions(tz_aware=True)

Document = dict[str, Any]


def cases() -> list[Document]:
    """Return the cases, those that may share a collection and its indexes beside each other."""
    found: dict[str, list[Document]] = {}
    for name in FILES:
        for case in json.loads((HERE / name).read_text("utf-8"))["cases"]:
            found.setdefault(place_key(case), []).append(case)
    return [case for group in found.values() for case in group]


def place_key(case: Document) -> str:
    """Return what cases that only read have in common when they may share a collection."""
    shared = "pipeline" in case and "session" not in case and not case["setup"].get("noCollection")
    return json.dumps(case["setup"]) if shared else case["id"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand every case to the test that asks for `case`."""
    if "case" in metafunc.fixturenames:
        found = cases()
        metafunc.parametrize("case", found, ids=[f"{c['id']}-{c['tier']}" for c in found])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the cases on one worker, and mark them `atlas` when they go to a real cluster."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("vectorsearch"))
            if URI in os.environ:
                item.add_marker("atlas")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say how long a run against a real cluster will take."""
    if URI not in os.environ:
        return
    ours = [item for item in session.items if HERE in item.path.parents]
    chosen = [item.callspec.params["case"] for item in ours if hasattr(item, "callspec")]
    builds = len({place_key(case) for case in chosen})
    minutes = (builds * BUILD_SECONDS + len(chosen) * CASE_SECONDS) // 60
    writer = session.config.get_terminal_writer()
    writer.line(f"{len(chosen)} cases, {builds} builds: about {minutes} minutes on Atlas")


class Place:
    """Collections and indexes as a case's setup wants them, with fresh names."""

    def __init__(self, contract: Contract, setup: Document) -> None:
        self.contract = contract
        self.names = {"$COLL": contract.fresh()}
        self.names.update((name, contract.fresh()) for name in setup.get("otherCollections", {}))
        self.remembered: Document = {}
        if not setup.get("noCollection"):
            self._fill(self.names["$COLL"], setup.get("docs", []))
        for name, documents in setup.get("otherCollections", {}).items():
            self._fill(self.names[name], documents)
        indexes = setup.get("indexes", [setup["index"]] if "index" in setup else [])
        if indexes and not setup.get("noIndex"):
            self.run({"createSearchIndexes": "$COLL", "indexes": indexes})
            for index in indexes:
                self.wait({"index": index["name"], "queryable": True})

    def _fill(self, name: str, documents: list[Document]) -> None:
        self.contract.database.create_collection(name)
        if documents:
            self.contract.database[name].insert_many(documents)

    def bound(self, value: Any) -> Any:
        """Return `value` with the names of collections and remembered values put in."""
        if isinstance(value, dict):
            return {self.bound(key): self.bound(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.bound(inner) for inner in value]
        if isinstance(value, str) and value.startswith("$MEM:"):
            return self.remembered[value.removeprefix("$MEM:")]
        return self.names.get(value, value) if isinstance(value, str) else value

    def run(self, command: Document) -> Document:
        """Run `command` and return the reply."""
        return self.contract.command(self.bound(command))

    def rows(
        self, pipeline: list[Document], on: str = "$COLL", session: Any = None
    ) -> list[Document]:
        """Run `pipeline` and return every row."""
        collection = self.names.get(on, on)
        command = {"aggregate": collection, "pipeline": self.bound(pipeline), "cursor": {}}
        cursor = self.contract.command(command, session)["cursor"]
        rows = list(cursor["firstBatch"])
        while cursor["id"]:
            more = {"getMore": cursor["id"], "collection": collection}
            cursor = self.contract.command(more, session)["cursor"]
            rows += cursor["nextBatch"]
        return rows

    def listed(self) -> list[Document]:
        """Return what $listSearchIndexes says."""
        return self.rows([{"$listSearchIndexes": {}}])

    def wait(self, wanted: Document) -> None:
        """Poll the list until the index shows all that is wanted."""

        def difference() -> str:
            found = [entry for entry in self.listed() if entry["name"] == wanted["index"]]
            shown = dict(found[0]) if found else {}
            shown["version"] = shown.get("latestDefinitionVersion", {}).get("version")
            missing = {k: v for k, v in wanted.items() if k != "index" and shown.get(k) != v}
            return f"index {wanted['index']} has not reached {missing}" if missing else ""

        self.contract.eventually(difference)

    def clear(self) -> None:
        """Drop the collections; on a real cluster wait first until the indexes are gone."""
        for name in self.names.values():
            if self.contract.real:
                for entry in self.rows([{"$listSearchIndexes": {}}], name):
                    self._drop(name, entry["name"])
                self.contract.eventually(
                    lambda name=name: (  # type: ignore[misc] # bound now, called now
                        f"{name} keeps its indexes"
                        if self.rows([{"$listSearchIndexes": {}}], name)
                        else ""
                    )
                )
            self.contract.database.drop_collection(name)

    def _drop(self, collection: str, index: str) -> None:
        try:
            self.contract.database.command({"dropSearchIndex": collection, "name": index})
        except OperationFailure as error:
            # 20 and 27: it is being dropped, or is gone.
            if error.code not in (20, 27):
                raise


class Contract:
    """The cluster under test, and how patient to be with it."""

    def __init__(self, uri: str, *, real: bool) -> None:
        self.real = real
        self.client: MongoClient[Document] = MongoClient(
            uri, retryReads=False, retryWrites=False, tz_aware=True
        )
        self.database = self.client.get_default_database(f"contract_{secrets.token_hex(4)}")
        self.poll, self.patience = (5.0, 300.0) if real else (0.05, 30.0)
        self._place: tuple[str, Place] | None = None

    def command(self, command: Document, session: Any = None) -> Document:
        """Run `command` and return the reply, decoded as the client's other answers are."""
        options = self.database.codec_options
        return self.database.command(command, session=session, codec_options=options)

    def fresh(self) -> str:
        """Return a collection name that was never used."""
        return f"c_{secrets.token_hex(12)}"

    def place(self, case: Document) -> Place:
        """Return the place of `case`: that of the case before when both may share it."""
        key = place_key(case)
        if self._place and self._place[0] == key:
            return self._place[1]
        self.leave()
        decoded = json_util.loads(json.dumps(case["setup"]), json_options=OPTIONS)
        place = Place(self, decoded)
        self._place = key, place
        return place

    def leave(self) -> None:
        """Clear the place in use."""
        if self._place:
            self._place[1].clear()
        self._place = None

    def eventually(self, difference: Callable[[], str]) -> None:
        """Poll until `difference` returns nothing; fail with its last answer."""
        deadline = time.monotonic() + self.patience
        while last := difference():
            if time.monotonic() > deadline:
                pytest.fail(f"after {self.patience:.0f} s: {last}")
            time.sleep(self.poll)

    def wording(self, case: Document) -> bool:
        """Whether the text of this case's errors is to be compared here."""
        return not self.real or case["group"] not in COMMUNITY_WORDING

    def close(self) -> None:
        """Leave nothing behind."""
        self.leave()
        self.client.close()


@pytest.fixture(scope="session")
def contract(request: pytest.FixtureRequest) -> Iterator[Contract]:
    """The cluster in CONTRACT_URI, or an embedded Atlas."""
    uri = os.environ.get(URI)
    running = Contract(uri or request.getfixturevalue("atlas"), real=bool(uri))
    yield running
    running.close()
