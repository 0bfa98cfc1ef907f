"""A migrated database, on the embedded Atlas or, with CONTRACT_URI, on a real one.

    CONTRACT_URI='mongodb+srv://…' python -m pytest tests/contract/store --ignore \
        tests/contract/store/test_trouble.py

Each run makes its own databases and drops them. It needs room for two search indexes at a time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern

from faces.database import COLLECTIONS, MIGRATIONS, OWN_COLLECTIONS, Db
from faces.finder import Finder
from faces.search import Found, SearchRequest
from faces.store import Store
from faces.watch import Watch
from migrations.runner import Runner
from migrations.step import discover
from tests.faces_made import MODEL

SECONDS = 300 if os.environ.get("CONTRACT_URI") else 120
"""How long an index may take to be built, or to follow."""


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> str:
    """The URI of the Atlas to test on."""
    uri: str = os.environ.get("CONTRACT_URI") or request.getfixturevalue("atlas")
    return uri


@pytest.fixture(scope="session")
def migrated(place: str) -> Iterator[Db]:
    """One database for all tests of a worker, with indexes and an active model."""
    with database(place) as made:
        yield made


@contextlib.contextmanager
def database(place: str) -> Iterator[Db]:
    """A database with indexes and an active model, dropped at the end."""
    with connected(place) as client:
        mine = client.get_database(
            f"t_{secrets.token_hex(6)}", write_concern=WriteConcern(w="majority")
        )
        runner = Runner(mine, discover(), lambda line: None)
        active = runner.up(lambda: (MODEL, "b1")).active
        assert active is not None
        runner.wait([active.index], SECONDS)
        yield mine
        client.drop_database(mine)


def connected(uri: str) -> MongoClient[dict[str, Any]]:
    """A client with the options of the service and room for many threads."""
    return MongoClient(uri, tz_aware=True, timeoutMS=20_000, w="majority", maxPoolSize=80)


@pytest.fixture
def db(migrated: Db) -> Db:
    """The database, emptied of what other tests left: no active model, the default collection."""
    for name in OWN_COLLECTIONS:
        if name != MIGRATIONS:
            migrated[name].delete_many({} if name != COLLECTIONS else {"_id": {"$ne": "default"}})
    migrated[COLLECTIONS].update_one(
        {"_id": "default"},
        {"$set": {"metadata_fields": {}, "rev": 1}, "$unset": {"pending_fields": ""}},
    )
    return migrated


@pytest.fixture
def store(db: Db) -> Store:
    """The store over an empty database whose active model is facenet128."""
    store = Store(db)
    store.choose_model(MODEL, "b1")
    return store


class Searching:
    """A store with a queryable index, and searches that wait for it to catch up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.db = store.db
        self.watch = Watch(store.db)
        self.finder = Finder(store.db, self.watch)

    def until(
        self, search: Callable[[], Found], holds: Callable[[Found], bool], seconds: float = SECONDS
    ) -> Found:
        """The first answer for which `holds`: the index follows within seconds."""
        end = time.monotonic() + seconds
        while not holds(found := search()):
            assert time.monotonic() < end, f"the index did not follow: {found}"
            time.sleep(0.05)
        return found

    def media(self, request: SearchRequest, vector: Any) -> list[str]:
        """The media ids of one vector's matches, best first."""
        return [match.media_id for match in self.finder.vectors(request, [vector]).faces[0]]


@pytest.fixture
def searching(store: Store) -> Searching:
    """A store that can be searched."""
    return Searching(store)


def end_ann(store: Store, kind: str, face_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the person `ann` with one face, and asks that a job of `kind` ends her."""
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [face_id])
    if kind == "erase":
        store.subjects.erase("default", "ann")
    else:
        monkeypatch.setattr("faces.store_subjects.BULK", 0)  # however few, a job does it
        store.subjects.delete("default", "ann")
        monkeypatch.undo()
