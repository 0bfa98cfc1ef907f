"""A CMS on MongoDB for tests: its records, its unreliable media server, and its index."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from tests.indexing import Index
from tests.media_server import Server


@dataclass
class Cms:
    """A CMS: its records, its media server, and the index that follows it."""

    records: Collection[dict[str, Any]]
    media: Server
    index: Index
    photos: list[bytes]

    def add(self, number: int, **fields: object) -> ObjectId:
        """A published record whose picture is photo `number`, served under a name of its own."""
        path = f"/p{number}.jpg"
        self.media.files[path] = self.photos[number]
        record = {
            "_id": ObjectId(),
            "url": self.media.url(path),
            "updated_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            "status": "published",
            "mime_type": "image/jpeg",
            "title": f"Picture {number}",
            **fields,
        }
        self.records.insert_one(record)
        return record["_id"]  # type: ignore[return-value]

    def touch(self, key: ObjectId, **fields: object) -> None:
        """Change fields of a record."""
        self.records.update_one({"_id": key}, {"$set": fields})

    def item(self, key: ObjectId) -> dict[str, Any] | None:
        """The live item of a record."""
        return self.index.media().get(str(key))

    def due(self) -> None:
        """Let the time pass until every failed item's next try is due."""
        past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        self.index.db.likeness_media.update_many(
            {"next_at": {"$ne": None}}, {"$set": {"next_at": past}}
        )
