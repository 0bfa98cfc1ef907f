"""Applying tombstones to what is stored, so that a restored backup brings nobody back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from faces import documents, identity, tombstones
from faces.database import FACES, Db, Document, translate
from faces.errors import NotFound
from faces.item_plan import DELETED, ERASED
from faces.records import API_SOURCE
from faces.store_removal import RemovalStore
from faces.types import Box


@dataclass(frozen=True, slots=True)
class Applied:
    """What an import did."""

    tombstones: int
    items_deleted: int
    faces_deleted: int


def apply(db: Db, stones: Iterable[Document]) -> Applied:
    """Stores tombstones and removes the items and faces that they cover. Safe to repeat."""
    removal = RemovalStore(db)
    count = items = faces = 0
    for stone in stones:
        with translate():
            tombstones.write(db, [stone])
        count += 1
        if stone["kind"] == "item":
            try:
                removal.delete(
                    stone["collection"],
                    stone["media_id"],
                    source=API_SOURCE,
                    tombstone=True,
                    fence=None,
                )
            except NotFound:
                continue
            items += 1
        else:
            faces += _faces(db, removal, stone)
    return Applied(count, items, faces)


def _faces(db: Db, removal: RemovalStore, stone: Document) -> int:
    covered = Box(*stone["box"])
    query = {"collection": stone["collection"], "media_id": stone["media_id"]}
    with translate():
        rows = list(db[FACES].find(query, {"box": 1, "frame": 1}))
    ids = [row["_id"] for row in rows if identity.overlaps(documents.relative_box(row), [covered])]
    if not ids:
        return 0
    person = stone["kind"] == "person"
    return removal.remove_faces(
        stone["collection"],
        stone["media_id"],
        ids,
        reason=ERASED if person else DELETED,
        receipt_id=stone["receipt_id"] if person else None,
    )
