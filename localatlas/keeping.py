"""What outlives a run: the vectors of each index, and the place in the change stream they are at.

Vector files are large and written rarely; the small file of the place is written often and names
the vector files that have been up to date there. A file that it does not name is up to date at the
place that the file itself tells, and the changes since then are applied again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson

from localatlas.catalog import Catalog, Entry, write_durably
from localatlas.index import VectorIndex
from localatlas.vectorfile import StaleFileError

log = logging.getLogger(__name__)

Token = Mapping[str, Any]
PLACE = "place.bson"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a new run takes up: every entry, its vectors where they were kept, and the place."""

    entries: Sequence[tuple[Entry, VectorIndex | None]]
    token: Token | None


def vector_file(folder: Path, entry: Entry, version: int) -> Path:
    """Where the vectors of a version of an index are kept."""
    return folder / f"{entry.id}-{version}.vectors"


def read(catalog: Catalog, folder: Path) -> Kept:
    """Reads what was kept for the catalog's entries and deletes what belongs to none of them."""
    place = _place(folder)
    # Where to go on is the oldest of all places: applying a change again does no harm.
    places = [] if place is None else [(int(place["saved_at"]), place["token"])]
    entries: list[tuple[Entry, VectorIndex | None]] = []
    good = set()
    for entry in catalog:
        path = vector_file(folder, entry, entry.version)
        try:
            index, about = VectorIndex.load(path, entry.definition)
        except (OSError, StaleFileError) as error:
            log.info("vectors are read anew: %s", type(error).__name__)
            entries.append((entry, None))
            continue
        good.add(path.name)
        entries.append((entry, index))
        if place is None or path.name not in place["clean"]:
            places.append((about["saved_at"], about["token"]))
    for path in folder.glob("*.vectors*"):
        if path.name not in good:
            path.unlink(missing_ok=True)
    oldest = min(places, key=lambda one: one[0], default=None)
    return Kept(entries, oldest[1] if oldest and entries else None)


def save(path: Path, index: VectorIndex, token: Token) -> bool:
    """Keeps the vectors, which are up to date at `token`; whether that could be done."""
    try:
        index.save(path, {"token": token, "saved_at": time.time_ns()})
    except OSError as error:
        log.warning(
            "vectors could not be kept on disk (%s); the next start reads them anew",
            error.strerror,
        )
        return False
    return True


def save_place(folder: Path, token: Token, clean: Sequence[str]) -> None:
    """Keeps the place, and the names of the vector files that are up to date there."""
    document = {"token": token, "saved_at": time.time_ns(), "clean": list(clean)}
    try:
        write_durably(folder / PLACE, bson.encode(document))
    except OSError as error:
        log.info("the place in the change stream could not be kept: %s", error.strerror)


def _place(folder: Path) -> dict[str, Any] | None:
    try:
        found = bson.decode((folder / PLACE).read_bytes())
    except (OSError, bson.InvalidBSON):
        return None
    return found if {"token", "saved_at", "clean"} <= found.keys() else None
