"""Index and collection agree again after anything: random writes, kills and index changes.

After every step a plain model computes what each search has to answer, and the server has to come
to the same within a few seconds, with nobody's help.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.stateful
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from pymongo import MongoClient, ReplaceOne
from pymongo.errors import PyMongoError
from pymongo.operations import SearchIndexModel

PATIENCE_S = 60.0
# Raise both for a long hunt.
EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "2"))
STEPS = int(os.environ.get("AGREEMENT_STEPS", "25"))
COLLECTIONS = ("a", "b")
INDEXES = ("one", "two")
DIMENSIONS = 3
numbers = st.integers(-4, 4)
vectors = st.one_of(
    st.lists(numbers, min_size=DIMENSIONS, max_size=DIMENSIONS),
    st.lists(numbers, min_size=1, max_size=DIMENSIONS + 1),
    st.none(),
)
ids = st.integers(0, 12)
tags = st.sampled_from(["x", "y", None])


def definition(similarity: str) -> dict[str, Any]:
    return {
        "fields": [
            {
                "type": "vector",
                "path": "v",
                "numDimensions": DIMENSIONS,
                "similarity": similarity,
            },
            {"type": "filter", "path": "t"},
        ]
    }


def score(similarity: str, left: list[int], right: list[int]) -> float | None:
    """The score of two vectors, written out; None where the left one is not indexed."""
    if len(left) != DIMENSIONS:
        return None
    dot = sum(x * y for x, y in zip(left, right, strict=True))
    if similarity == "euclidean":
        return 1 / (1 + sum((x - y) ** 2 for x, y in zip(left, right, strict=True)))
    if similarity == "dotProduct":
        return max(0.0, (1 + dot) / 2)
    norms = (sum(x * x for x in left) * sum(y * y for y in right)) ** 0.5
    return (1 + dot / norms) / 2 if norms else None


class Agreement(RuleBasedStateMachine):
    """One server, two collections with up to two indexes each, and a model of them in dicts."""

    serve: Callable[..., Any]  # given by the test

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="agreement-"))
        self.server = self.serve(self.folder / "atlas")
        self.client = self._connect()
        self.documents: dict[str, dict[int, dict[str, Any]]] = {}
        self.indexes: dict[str, dict[str, str]] = {}

    def _connect(self) -> MongoClient[dict[str, Any]]:
        return self.server.client(retryWrites=True)

    def teardown(self) -> None:
        self.client.close()
        self.server.stop()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        for name in COLLECTIONS:
            self._create(name)

    def _create(self, name: str) -> None:
        self.client.db.create_collection(name)
        self.documents[name] = {}
        self.indexes[name] = {}

    def _known(self, name: str) -> bool:
        if name in self.documents:
            return True
        self._create(name)
        return False

    @rule(name=st.sampled_from(COLLECTIONS), _id=ids, v=vectors, t=tags)
    def put(self, name: str, _id: int, v: Any, t: Any) -> None:
        self._known(name)
        document = {"_id": _id, "v": v, "t": t}
        self.client.db[name].replace_one({"_id": _id}, document, upsert=True)
        self.documents[name][_id] = document

    @rule(name=st.sampled_from(COLLECTIONS), rows=st.lists(st.tuples(ids, vectors, tags)))
    def put_many(self, name: str, rows: list[tuple[int, Any, Any]]) -> None:
        self._known(name)
        if rows:
            documents = [{"_id": _id, "v": v, "t": t} for _id, v, t in rows]
            self.client.db[name].bulk_write(
                [ReplaceOne({"_id": one["_id"]}, one, upsert=True) for one in documents]
            )
            self.documents[name].update({one["_id"]: one for one in documents})

    @rule(name=st.sampled_from(COLLECTIONS), _id=ids, t=tags)
    def change_in_a_transaction(self, name: str, _id: int, t: Any) -> None:
        self._known(name)
        collection = self.client.db[name]
        with self.client.start_session() as session:
            session.with_transaction(
                lambda inside: collection.update_one(
                    {"_id": _id}, {"$set": {"t": t}}, session=inside
                )
            )
        if _id in self.documents[name]:
            self.documents[name][_id] = self.documents[name][_id] | {"t": t}

    @rule(name=st.sampled_from(COLLECTIONS), t=tags)
    def delete(self, name: str, t: Any) -> None:
        self._known(name)
        self.client.db[name].delete_many({"t": t})
        kept = self.documents[name].items()
        self.documents[name] = {_id: one for _id, one in kept if one["t"] != t}

    @rule(name=st.sampled_from(COLLECTIONS))
    def drop_collection(self, name: str) -> None:
        self.client.db.drop_collection(name)
        self.documents.pop(name, None)
        self.indexes.pop(name, None)

    @rule()
    def swap_names(self) -> None:
        if set(COLLECTIONS) <= set(self.documents):
            first, second = COLLECTIONS
            for old, new in ((first, "aside"), (second, first), ("aside", second)):
                self.client.db[old].rename(new)
            for model in (self.documents, self.indexes):
                model[first], model[second] = model[second], model[first]

    @rule(
        name=st.sampled_from(COLLECTIONS),
        index=st.sampled_from(INDEXES),
        similarity=st.sampled_from(["euclidean", "cosine", "dotProduct"]),
    )
    def set_index(self, name: str, index: str, similarity: str) -> None:
        self._known(name)
        collection = self.client.db[name]
        if index in self.indexes[name]:
            collection.update_search_index(index, definition(similarity))
        else:
            collection.create_search_index(
                SearchIndexModel(name=index, type="vectorSearch", definition=definition(similarity))
            )
        self.indexes[name][index] = similarity

    @rule(name=st.sampled_from(COLLECTIONS), index=st.sampled_from(INDEXES))
    def drop_index(self, name: str, index: str) -> None:
        if index in self.indexes.get(name, {}):
            self.client.db[name].drop_search_index(index)
            del self.indexes[name][index]

    @rule(victims=st.sampled_from(["front", "engine", "both", "nobody"]))
    def crash(self, victims: str) -> None:
        engine, front = self.server.engine_pid, self.server.front_pid
        match victims:
            case "engine":
                self.server.kill(engine)  # it comes back behind the same front
                self._until(lambda: self.client.admin.command("ping"))
                return
            case "nobody":
                self.server.stop()
            case "front":
                self.server.kill(front)
            case "both":
                self.server.kill(engine, front)
        self.client.close()
        self.server.start()
        self.client = self._connect()

    @rule(query=st.lists(numbers, min_size=DIMENSIONS, max_size=DIMENSIONS), t=tags)
    def compare(self, query: list[int], t: Any) -> None:
        for name in COLLECTIONS:
            listed = self.indexes.get(name, {})
            self._agree(lambda name=name: self._names(name), sorted(listed), name)
            for index, similarity in listed.items():
                if similarity == "cosine" and not any(query):
                    continue
                for condition in (None, {"t": t}):
                    expected = self._expected(name, similarity, query, condition)
                    self._agree(
                        lambda name=name, index=index, condition=condition: self._found(
                            name, index, query, condition
                        ),
                        expected,
                        f"{name}.{index} {condition}",
                    )

    def _expected(
        self, name: str, similarity: str, query: list[int], condition: dict[str, Any] | None
    ) -> list[tuple[int, float]]:
        found = []
        for _id, document in self.documents[name].items():
            if condition is not None and document["t"] != condition["t"]:
                continue
            value = score(similarity, document["v"] or [], query)
            if value is not None:
                found.append((_id, round(value, 5)))
        return sorted(found)

    def _found(
        self, name: str, index: str, query: list[int], condition: dict[str, Any] | None
    ) -> list[tuple[int, float]]:
        stage: dict[str, Any] = {
            "index": index,
            "path": "v",
            "queryVector": query,
            "limit": 100,
            "exact": True,
        }
        if condition is not None:
            stage["filter"] = condition
        pipeline = [{"$vectorSearch": stage}, {"$set": {"s": {"$meta": "vectorSearchScore"}}}]
        rows = list(self.client.db[name].aggregate(pipeline))
        values = [row["s"] for row in rows]
        assert values == sorted(values, reverse=True)
        return sorted((row["_id"], round(row["s"], 5)) for row in rows)

    def _names(self, name: str) -> list[str]:
        return sorted(one["name"] for one in self.client.db[name].list_search_indexes())

    def _agree(self, ask: Callable[[], Any], expected: Any, what: str) -> None:
        last: Any = None

        def same() -> bool:
            nonlocal last
            last = ask()
            return bool(last == expected)

        self._until(same, lambda: f"{what}: {last} instead of {expected}")

    def _until(self, holds: Callable[[], Any], otherwise: Callable[[], str] = str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        for attempt in itertools.count():
            try:
                if holds():
                    return
            except PyMongoError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(otherwise()) from error
            assert time.monotonic() < deadline, otherwise()
            time.sleep(min(0.01 * 2**attempt, 0.2))


@pytest.mark.parametrize("delays", [(), ("--lag", "150", "--build-delay", "300")])
def test_collections_and_indexes_agree_after_anything(
    server_on: Callable[..., Any], delays: tuple[str, ...]
) -> None:
    machine = type(
        "Machine",
        (Agreement,),
        {"serve": staticmethod(lambda folder: server_on(folder, *delays))},
    )
    hypothesis.stateful.run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # Shrinking would run hundreds of servers.
            phases=[hypothesis.Phase.reuse, hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
