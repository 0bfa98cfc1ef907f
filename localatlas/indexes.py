"""The search indexes as they stand: what serves queries, what is built, what the list says."""

from __future__ import annotations

import contextlib
import datetime
import enum
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
from bson.timestamp import Timestamp

from localatlas.catalog import Catalog, Entry
from localatlas.definition import Definition
from localatlas.errors import QueryError
from localatlas.index import VectorIndex
from localatlas.keeping import vector_file
from localatlas.stage import VectorQuery

log = logging.getLogger(__name__)


class State(enum.Enum):
    """How far a build has come; `engine` is what an error about it says."""

    PENDING = "NOT_STARTED"
    BUILDING = "INITIAL_SYNC"
    READY = "STEADY"
    FAILED = "FAILED"

    @property
    def engine(self) -> str:
        return self.value


def key_of(identity: Any) -> bytes:
    """A hashable name for any `_id`, equal for equal values of one type."""
    return bson.encode({"": identity})


class Build:
    """The vectors of one version of one index.

    While it is being built, documents that events have already brought up to date (`touched`) are
    not overwritten by older ones from the scan.
    """

    def __init__(self, entry: Entry, index: VectorIndex | None = None) -> None:
        self.version = entry.version
        self.created_at = entry.created_at
        self.definition: Definition = entry.definition
        self.document = entry.document
        self.index = index or VectorIndex(self.definition)
        self.state = State.PENDING if index is None else State.BUILDING
        self._lock = threading.Lock()
        self.touched: set[bytes] | None = set() if index is None else None
        self.ready_at: Timestamp | None = None  # ready once everything up to here is applied
        self.abandoned = False
        self.unsaved = 0 if index is not None else 1  # changes that its file does not hold
        self.saved_at = time.monotonic()

    def apply(self, identity: Any, document: Mapping[str, Any] | None) -> None:
        """Takes up a document's present state; None: it is gone."""
        with self._lock:
            if self.touched is not None:
                self.touched.add(key_of(identity))
            self._put(identity, document)
            self.unsaved += 1

    def scanned(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Takes up documents that a scan has read, unless events know them better."""
        with self._lock:
            touched = self.touched or ()
            for document in documents:
                if not touched or key_of(document["_id"]) not in touched:
                    self._put(document["_id"], document)

    def _put(self, identity: Any, document: Mapping[str, Any] | None) -> None:
        if document is None:
            self.index.remove(identity)
        else:
            self.index.put(document)

    @property
    def small(self) -> bool:
        """Whether a search takes no longer than handing it to another thread would."""
        return self.index.rows <= _SMALL

    def search(self, query: VectorQuery) -> list[tuple[Any, float]]:
        """The best ids with their scores; QueryError when the index cannot answer the query."""
        return self.index.search(query)


@dataclass(slots=True)
class Live:
    """One index: its entry, the build that serves and the build that will replace it."""

    entry: Entry
    serving: Build | None = None
    staged: Build | None = None

    @property
    def builds(self) -> list[Build]:
        return [build for build in (self.serving, self.staged) if build is not None]

    @property
    def queryable(self) -> bool:
        return self.serving is not None

    @property
    def status(self) -> str:
        if self.staged is None:
            return "READY"
        if self.staged.state is State.FAILED:
            return "FAILED"
        return "BUILDING" if self.serving else self.staged.state.name

    def build_for_queries(self) -> Build:
        """The build that serves; QueryError while there is none."""
        if self.serving is not None:
            return self.serving
        state = self.staged.state.engine if self.staged else State.PENDING.engine
        name = self.entry.name
        raise QueryError(f"cannot query vector index {name} while in state {state}")


class Indexes:
    """All live indexes over the catalog. Safe to call from any thread.

    `request_build` is called with every build that has to be made.
    """

    def __init__(
        self, catalog: Catalog, folder: Path, request_build: Callable[[Live, Build], None]
    ) -> None:
        self._catalog = catalog
        self._folder = folder
        self._request_build = request_build
        self._lock = threading.RLock()
        self._live: dict[str, Live] = {}
        self._by_uuid: dict[bytes, list[Live]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def all(self) -> list[Live]:
        with self._lock:
            return list(self._live.values())

    def of(self, namespace: tuple[str, str], uuid: bytes) -> list[Live]:
        """The indexes of this incarnation of a collection, in order of creation."""
        with self._lock:
            found = self._catalog.of(namespace, uuid)
            for entry in found:
                if entry.uuid is None:
                    self._adopt(self._live[entry.id], uuid)
            return [self._live[entry.id] for entry in found]

    def named(self, namespace: tuple[str, str], uuid: bytes, name: str) -> Live | None:
        return next((one for one in self.of(namespace, uuid) if one.entry.name == name), None)

    def likely(self, namespace: tuple[str, str], name: str) -> Build | None:
        """The build that serves an index by these names, if its collection is still the same."""
        with self._lock:
            for live in self._live.values():
                if live.entry.namespace == namespace and live.entry.name == name:
                    return live.serving
            return None

    def restore(self, entry: Entry, build: Build | None) -> None:
        """Takes up an entry of the catalog at the start, with the build read from disk if any."""
        with self._lock:
            live = Live(entry, staged=build or Build(entry))
            self._enter(live)
            if build is None and live.staged is not None:
                self._request_build(live, live.staged)

    def create(self, entries: list[Entry]) -> None:
        """Adds indexes and has them built; OSError when they cannot be recorded."""
        with self._lock:
            self._catalog.put(*entries)
            for entry in entries:
                live = Live(entry, staged=Build(entry))
                self._enter(live)
                if live.staged is not None:
                    self._request_build(live, live.staged)

    def update(self, live: Live, document: Mapping[str, Any]) -> None:
        """Gives an index its next version; the old build serves until the new one is ready."""
        with self._lock:
            entry = live.entry.updated(document)
            self._catalog.put(entry)
            live.entry = entry
            self._stage(live)

    def rebuild(self, live: Live) -> None:
        """Has the vectors of an index read anew; what serves goes on serving."""
        with self._lock:
            if live.entry.id in self._live:
                self._stage(live)

    def _stage(self, live: Live) -> None:
        if live.staged is not None:
            live.staged.abandoned = True
        live.staged = Build(live.entry)
        self._request_build(live, live.staged)

    def drop(self, *gone: Live) -> None:
        """Removes indexes and their vectors."""
        if not gone:
            return
        with self._lock:
            self._catalog.remove(*(live.entry for live in gone))
            for live in gone:
                for build in live.builds:
                    build.abandoned = True
                    with contextlib.suppress(OSError):
                        self.file(live, build).unlink(missing_ok=True)
                del self._live[live.entry.id]
            self._index_by_uuid()

    def ready(self, live: Live, build: Build) -> None:
        """Lets a finished build serve, if it is still the one that is wanted."""
        with self._lock:
            if live.staged is not build:
                return
            old, live.serving, live.staged = live.serving, build, None
            build.touched = None
            build.state = State.READY
            if old is not None and old.version != build.version:
                with contextlib.suppress(OSError):
                    self.file(live, old).unlink(missing_ok=True)

    def file(self, live: Live, build: Build) -> Path:
        """Where the vectors of a build are kept."""
        return vector_file(self._folder, live.entry, build.version)

    def followed(self, uuid: bytes, namespace: tuple[str, str], at: Timestamp) -> list[Live]:
        """The indexes that an event of this collection concerns."""
        with self._lock:
            found = self._by_uuid.get(uuid, [])
            # A renamed collection's first event tells its new uuid, unless it is an old event that
            # is read again: then another collection had the name.
            if not found and self._by_uuid.get(b"") and self._catalog.is_new(at):
                waiting = [one for one in self._by_uuid[b""] if one.entry.namespace == namespace]
                for live in waiting:
                    self._adopt(live, uuid)
                return waiting
            return list(found)

    def dropped(self, uuid: bytes, namespace: tuple[str, str], at: Timestamp) -> None:
        """A collection is gone, and its indexes with it."""
        with self._lock:
            gone = self.followed(uuid, namespace, at)
            if self._catalog.first_time(at):
                self.drop(*gone)

    def renamed(
        self,
        uuid: bytes,
        source: tuple[str, str],
        target: tuple[str, str],
        at: Timestamp,
        wall: datetime.datetime,
    ) -> None:
        """A collection has another name: its indexes go with it, the target's own are gone."""
        with self._lock:
            moved = self.followed(uuid, source, at)
            if not self._catalog.first_time(at):
                return
            self.drop(
                *(
                    live
                    for live in self._live.values()
                    if live.entry.namespace == target
                    and live not in moved
                    and live.entry.created_at < wall
                )
            )
            for live in moved:
                known = () if live.entry.uuid is None else (live.entry.uuid,)
                former = (*live.entry.former, *known)[-_FORMER:]
                database, collection = target
                self._change(
                    live, database=database, collection=collection, uuid=None, former=former
                )

    def missing(self, present: Mapping[bytes, tuple[str, str]]) -> list[Live]:
        """The indexes whose collection is not among those present, by uuid.

        One that is there by another name was renamed while nobody followed: they go with it.
        """
        by_name = {namespace: uuid for uuid, namespace in present.items()}
        with self._lock:
            gone = []
            for live in self.all():
                if live.entry.uuid is None and live.entry.namespace in by_name:
                    self._adopt(live, by_name[live.entry.namespace])
                elif live.entry.uuid is None or live.entry.uuid not in present:
                    gone.append(live)
                elif live.entry.namespace != present[live.entry.uuid]:
                    database, collection = present[live.entry.uuid]
                    self._change(live, database=database, collection=collection)
            return gone

    def _adopt(self, live: Live, uuid: bytes) -> None:
        self._change(live, uuid=uuid)

    def _change(self, live: Live, **changes: Any) -> None:
        entry = Entry(**({key: getattr(live.entry, key) for key in _FIELDS} | changes))
        self._catalog.put(entry)
        live.entry = entry
        self._index_by_uuid()

    def _enter(self, live: Live) -> None:
        self._live[live.entry.id] = live
        self._index_by_uuid()

    def _index_by_uuid(self) -> None:
        self._by_uuid = {}
        for live in self._live.values():
            for uuid in {live.entry.uuid or b"", *live.entry.former}:
                self._by_uuid.setdefault(uuid, []).append(live)


_SMALL = 500  # documents, nested ones too
_FORMER = 1000  # renames that a crash may make it read again
_FIELDS = tuple(Entry.__dataclass_fields__)


def described(live: Live, host: str) -> dict[str, Any]:
    """The index as `$listSearchIndexes` shows it."""
    entry = live.entry
    detail: dict[str, Any] = {
        "hostname": host,
        "status": live.status,
        "queryable": live.queryable,
    }
    main = live.serving or live.staged
    if main is not None:
        detail["mainIndex"] = _build_detail(
            main, "READY" if live.serving else live.status, live.queryable
        )
    if live.serving is not None and live.staged is not None:
        detail["stagedIndex"] = _build_detail(live.staged, live.staged.state.name, False)
    return {
        "id": entry.id,
        "name": entry.name,
        "type": "vectorSearch",
        "status": live.status,
        "queryable": live.queryable,
        "latestDefinitionVersion": _version(entry.version, entry.created_at),
        "latestDefinition": dict(entry.document),
        "statusDetail": [detail],
    }


def _build_detail(build: Build, status: str, queryable: bool) -> dict[str, Any]:
    return {
        "status": status,
        "queryable": queryable,
        "definitionVersion": _version(build.version, build.created_at),
        "definition": build.definition.normalised(),
    }


def _version(number: int, created_at: datetime.datetime) -> dict[str, Any]:
    return {"version": number, "createdAt": created_at}
