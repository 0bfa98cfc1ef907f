"""The search indexes that exist: which collection, which definition, which version. On disk.

The file is small and is written whole: to a temporary file, synced, renamed. A definition that was
acknowledged is therefore there after any crash.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bson
from bson.binary import Binary
from bson.timestamp import Timestamp

from localatlas import wire
from localatlas.definition import Definition, parse_definition
from localatlas.startup import StartError

FORMAT = 1
CATALOG = "catalog.bson"


@dataclass(frozen=True, slots=True)
class Entry:
    """One search index. `document` is its definition as the user wrote it.

    `uuid` names the collection's incarnation; None after a rename until the new one is seen (some
    backends give a renamed collection a new one). `former` are those it had before: changes made
    under them may be read again after a crash.
    """

    id: str
    name: str
    database: str
    collection: str
    uuid: bytes | None
    document: Mapping[str, Any]
    version: int
    created_at: datetime.datetime
    former: tuple[bytes, ...] = ()

    @property
    def namespace(self) -> tuple[str, str]:
        return self.database, self.collection

    @property
    def definition(self) -> Definition:
        return parse_definition(self.document, where="definition")

    def updated(self, document: Mapping[str, Any]) -> Entry:
        """The entry with another definition: the same id and name, the next version."""
        return replace(self, document=document, version=self.version + 1, created_at=_now())


def new_id() -> str:
    """A fresh index id: 24 hex digits."""
    return secrets.token_hex(12)


def entry(namespace: tuple[str, str], uuid: bytes, name: str, document: Mapping[str, Any]) -> Entry:
    """A new index's first version."""
    return Entry(new_id(), name, *namespace, uuid, document, 0, _now())


class Catalog:
    """All entries. Every change is on disk when its call returns; OSError when it cannot be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._seen: Timestamp | None = None

    def load(self) -> None:
        """Reads the file, if there is one; StartError when it is not a catalog."""
        try:
            document = bson.decode(self._path.read_bytes(), wire.EXACT)
        except FileNotFoundError:
            return
        except (OSError, bson.InvalidBSON) as error:
            raise StartError(
                f"The list of search indexes, {self._path}, cannot be read. "
                "Delete it to start without search indexes; the data itself is not touched."
            ) from error
        self._seen = document.get("seen")
        for one in document["indexes"]:
            uuid = bytes(one["uuid"]) if one["uuid"] else None
            former = tuple(bytes(uuid) for uuid in one.get("former", ()))
            found = Entry(**{**one, "uuid": uuid, "former": former})
            self._entries[found.id] = found

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, index_id: str) -> Entry | None:
        return self._entries.get(index_id)

    def of(self, namespace: tuple[str, str], uuid: bytes) -> list[Entry]:
        """The indexes of this incarnation of a collection, in order of creation."""
        return [
            one
            for one in self
            if one.uuid == uuid or (one.uuid is None and one.namespace == namespace)
        ]

    def put(self, *changed: Entry) -> None:
        """Adds or replaces entries, all of them or none."""
        self._store(self._entries | {one.id: one for one in changed})

    def remove(self, *gone: Entry) -> None:
        """Removes entries, all of them or none."""
        ids = {one.id for one in gone}
        self._store({key: one for key, one in self._entries.items() if key not in ids})

    def first_time(self, event_time: Timestamp) -> bool:
        """Whether a drop or rename at that time is new; it is not when events are read again.

        It is remembered with the change that it brings about.
        """
        if not self.is_new(event_time):
            return False
        self._seen = event_time
        return True

    def is_new(self, event_time: Timestamp) -> bool:
        """Whether an event came after the last drop or rename that was taken up."""
        return self._seen is None or event_time > self._seen

    def _store(self, entries: dict[str, Entry]) -> None:
        documents = [
            {
                "id": one.id,
                "name": one.name,
                "database": one.database,
                "collection": one.collection,
                "uuid": Binary(one.uuid) if one.uuid else None,
                "document": one.document,
                "version": one.version,
                "created_at": one.created_at,
                "former": [Binary(uuid) for uuid in one.former],
            }
            for one in entries.values()
        ]
        write_durably(
            self._path, bson.encode({"format": FORMAT, "seen": self._seen, "indexes": documents})
        )
        self._entries = entries


def write_durably(path: Path, data: bytes) -> None:
    """Replaces the file at `path`, whole or not at all, and returns when it is on the disk."""
    temporary = path.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _now() -> datetime.datetime:
    now = datetime.datetime.now(datetime.UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
