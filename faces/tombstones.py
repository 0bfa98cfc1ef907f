"""Tombstones: what was erased and must not come back. Ids and relative boxes only.

Three kinds: `item` (the whole item; an explicit PUT lifts it), `face` (one deleted face; putting
the deleted item again lifts it), `person` (a face of an erased person; never lifted).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from pymongo import UpdateOne

from faces import documents, identity
from faces.database import BULK, TOMBSTONES, Db, Document, Session, translate
from faces.errors import ConfigError

FACE_FIELDS = ("collection", "media_id", "box", "frame")
"""What has to be read of a face to write its tombstone."""
_FIELDS = ("_id", "kind", "collection", "media_id", "box", "created_at", "receipt_id")


def of_item(collection: str, media_id: str, now: dt.datetime) -> Document:
    """The tombstone that keeps a source from bringing the item back."""
    return {
        "_id": f"item/{identity.media_key(collection, media_id)}",
        "kind": "item",
        "collection": collection,
        "media_id": media_id,
        "box": None,
        "created_at": documents.millis(now),
        "receipt_id": None,
    }


def of_face(face: Document, now: dt.datetime, *, receipt_id: str | None = None) -> Document:
    """The tombstone of one stored face; with a receipt, of an erased person's."""
    box = documents.relative_box(face)
    kind = "face" if receipt_id is None else "person"
    return {
        "_id": f"{kind}/{face['_id']}",
        "kind": kind,
        "collection": face["collection"],
        "media_id": face["media_id"],
        "box": [box.x, box.y, box.width, box.height],
        "created_at": documents.millis(now),
        "receipt_id": receipt_id,
    }


def write(db: Db, stones: Iterable[Document], session: Session | None = None) -> None:
    """Stores tombstones; one that is there stays as it is."""
    writes = [
        UpdateOne(
            {"_id": stone["_id"]},
            {"$setOnInsert": {k: v for k, v in stone.items() if k != "_id"}},
            upsert=True,
        )
        for stone in stones
    ]
    for start in range(0, len(writes), BULK):
        db[TOMBSTONES].bulk_write(writes[start : start + BULK], ordered=False, session=session)


def of(db: Db, collection: str, media_id: str, session: Session | None = None) -> list[Document]:
    """All tombstones of an item."""
    query = {"collection": collection, "media_id": media_id}
    return list(db[TOMBSTONES].find(query, session=session))


def export(db: Db) -> Iterator[dict[str, Any]]:
    """Every tombstone as JSON values, by id: ids, relative boxes and times."""
    with translate():
        for document in db[TOMBSTONES].find({}).sort("_id", 1):
            yield {**document, "created_at": document["created_at"].isoformat()}


def parse(line: Any, number: int) -> Document:
    """The tombstone in one exported value. Raises ConfigError naming the line."""
    try:
        if set(line) != set(_FIELDS) or line["kind"] not in ("item", "face", "person"):
            raise ValueError
        for name in ("_id", "collection", "media_id"):
            if not isinstance(line[name], str) or not line[name]:
                raise ValueError
        box = line["box"]
        if (box is None) != (line["kind"] == "item"):
            raise ValueError
        if box is not None:
            box = [float(side) for side in box]
            if len(box) != 4:
                raise ValueError
        receipt = line["receipt_id"]
        if receipt is not None and not isinstance(receipt, str):
            raise ValueError
        created = dt.datetime.fromisoformat(line["created_at"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"Line {number} is not an exported tombstone.") from None
    return {**line, "box": box, "created_at": documents.millis(created)}
