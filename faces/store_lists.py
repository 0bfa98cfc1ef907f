"""Reads: one object, pages of them, and what a reconciler needs to know.

Pages go on after the last key of the page before, in the order of an index, so that they neither
skip nor repeat an object that stays while others come and go.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

from faces import cursors, documents, identity
from faces.database import (
    COLLECTIONS,
    CROPS,
    FACES,
    MEDIA,
    SUBJECTS,
    TOMBSTONES,
    Db,
    Document,
    translate,
)
from faces.errors import NotFound
from faces.records import Item, KnownItem, Page, StoredFace

_KNOWN = (
    "collection",
    "source",
    "media_id",
    "source_key",
    "etag",
    "sha256",
    "state",
    "pipeline_version",
    "attempts",
    "next_at",
    "error",
    "hidden",
    "updated_at",
    "rev",
    "url",
)
_HAS_KEY = {"$type": "string"}
"""A query by source has to say this: the index of source keys holds such items only."""
_BATCH = 1000
_LOOKUPS = 50
"""Ids looked up by one command; the embedded engine compares each item with each of them."""


class ListStore:
    """Reads items and faces; `Store` is its public face."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def check_collection(self, name: str) -> Document:
        """The collection's document. Raises NotFound, also while it is being deleted."""
        with translate():
            document = self._db[COLLECTIONS].find_one({"_id": name})
        if document is None or document.get("deleting"):
            raise NotFound("There is no such collection.")
        return document

    def leaving(self, collection: str) -> tuple[frozenset[str], frozenset[str]]:
        """The ids of the subjects that are being erased, and of those being deleted."""
        query = {"collection": collection, "state": {"$in": ["erasing", "deleting"]}}
        with translate():
            rows = list(self._db[SUBJECTS].find(query, {"subject_id": 1, "state": 1}))
        return (
            frozenset(row["subject_id"] for row in rows if row["state"] == "erasing"),
            frozenset(row["subject_id"] for row in rows if row["state"] == "deleting"),
        )

    def item(self, collection: str, media_id: str) -> Item:
        """One item with its faces. Raises NotFound."""
        self.check_collection(collection)
        with translate():
            document = self._db[MEDIA].find_one({"_id": identity.media_key(collection, media_id)})
        if document is None or document["state"] == "gone":
            raise NotFound("There is no such item.")
        query = {"collection": collection, "media_id": media_id}
        return documents.item_record(document, self._visible(collection, query))

    def rev(self, collection: str, media_id: str) -> int:
        """The item's revision, 0 when it was never there: what a writer began with."""
        with translate():
            document = self._db[MEDIA].find_one(
                {"_id": identity.media_key(collection, media_id)}, {"rev": 1}
            )
        return document["rev"] if document else 0

    def items(self, collection: str, limit: int, cursor: str | None) -> Page[Item]:
        """The items of a collection by media id."""
        self.check_collection(collection)
        scope = ("media", collection)
        after = cursors.decode(cursor, scope, (str,))
        query: Document = {"collection": collection, "state": {"$ne": "gone"}}
        if after:
            query["media_id"] = {"$gt": after[0]}
        with translate():
            rows = list(
                self._db[MEDIA]
                .find(query, documents.ITEM_FIELDS)
                .sort([("collection", 1), ("media_id", 1)])
                .limit(limit + 1)
            )
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(
            tuple(map(documents.item_record, rows)),
            cursors.encode(scope, (rows[-1]["media_id"],)) if more else None,
        )

    def faces(
        self,
        collection: str,
        *,
        media_id: str | None,
        subject_id: str | None,
        limit: int,
        cursor: str | None,
    ) -> Page[StoredFace]:
        """The faces of a collection, or of one item or subject of it, by item and id."""
        self.check_collection(collection)
        scope = ("faces", collection, media_id, subject_id)
        after = cursors.decode(cursor, scope, (str, str))
        erasing, deleting = self.leaving(collection)
        query: Document = {"collection": collection}
        if media_id is not None:
            query["media_id"] = media_id
        if subject_id is not None:
            if subject_id in erasing | deleting:
                return Page(())
            query["subject_id"] = subject_id
        elif erasing:
            query["subject_id"] = {"$nin": sorted(erasing)}
        order = [("collection", 1), ("media_id", 1), ("_id", 1)]
        if subject_id is not None:
            order = [("collection", 1), ("subject_id", 1), ("_id", 1)]
            if after:
                query["_id"] = {"$gt": after[1]}
        elif after:
            query["$or"] = [
                {"media_id": after[0], "_id": {"$gt": after[1]}},
                {"media_id": {"$gt": after[0]}},
            ]
        with translate():
            found = self._db[FACES].find(query, documents.FACE_FIELDS)
            rows = list(found.sort(order).limit(limit + 1))
        more = len(rows) > limit
        rows = rows[:limit]
        last = rows[-1] if more else None
        return Page(
            tuple(documents.face_record(row, unassigned=deleting) for row in rows),
            cursors.encode(scope, (last["media_id"], last["_id"])) if last else None,
        )

    def faces_by_id(self, collection: str, face_ids: Sequence[str]) -> dict[str, StoredFace]:
        """Those of the faces that are in the collection, by id. Raises NotFound (collection)."""
        self.check_collection(collection)
        query: Document = {"_id": {"$in": list(face_ids)}, "collection": collection}
        return {face.face_id: face for face in self._visible(collection, query)}

    def face(self, face_id: str, collections: Sequence[str] | None = None) -> StoredFace:
        """One face. Raises NotFound, also when it is in none of `collections` or being erased."""
        with translate():
            row = self._db[FACES].find_one({"_id": face_id}, documents.FACE_FIELDS)
        if row is None or (collections is not None and row["collection"] not in collections):
            raise NotFound("There is no such face.")
        try:
            self.check_collection(row["collection"])
        except NotFound:
            raise NotFound("There is no such face.") from None
        erasing, deleting = self.leaving(row["collection"])
        if row["subject_id"] in erasing:
            raise NotFound("There is no such face.")
        return documents.face_record(row, unassigned=deleting)

    def picture(self, collection: str, image_id: str) -> tuple[Item, bytes | None]:
        """The item that holds a picture, and the largest kept crop of it when there is one.

        Raises NotFound.
        """
        self.check_collection(collection)
        with translate():
            row = self._db[MEDIA].find_one({"collection": collection, "image_id": image_id})
            if row is None or row["state"] == "gone":
                raise NotFound("There is no such picture.")
            query = {"collection": collection, "media_id": row["media_id"]}
            faces = self._visible(collection, query)
            largest = max(faces, key=lambda face: face.box.area, default=None)
            crop = largest and self._db[CROPS].find_one({"_id": largest.face_id})
        return documents.item_record(row, faces), bytes(crop["jpeg"]) if crop else None

    def known(self, source: str, collection: str) -> Iterator[KnownItem]:
        """What is stored of a source's items; gone items are left out."""
        query = {"source": source, "collection": collection, "source_key": _HAS_KEY}
        with translate():
            rows = self._db[MEDIA].find(query, dict.fromkeys(_KNOWN, 1), batch_size=_BATCH)
            yield from map(documents.known_record, rows)

    def known_by_ids(
        self, source: str, collection: str, media_ids: Sequence[str]
    ) -> dict[str, KnownItem]:
        """What is stored of these items, by media id; gone ones and others' are left out."""
        keys = [identity.media_key(collection, media_id) for media_id in media_ids]
        rows: list[Document] = []
        with translate():
            for start in range(0, len(keys), _LOOKUPS):
                wanted = {"_id": {"$in": keys[start : start + _LOOKUPS]}}
                rows += self._db[MEDIA].find(wanted, dict.fromkeys(_KNOWN, 1))
        return {
            row["media_id"]: documents.known_record(row)
            for row in rows
            if row["source"] == source and row["state"] != "gone"
        }

    def item_of_source(self, source: str, key: str) -> Item | None:
        """The item that a source calls `key`, without faces; None when it is not stored."""
        with translate():
            query = {"source": source, "source_key": {"$eq": key, **_HAS_KEY}}
            row = self._db[MEDIA].find_one(query)
        return None if row is None or row["state"] == "gone" else documents.item_record(row)

    def due(self, source: str, collection: str, limit: int) -> list[KnownItem]:
        """Failed items of a source that may be tried again now, the longest waiting first."""
        query = {
            "collection": collection,
            "state": "failed",
            "next_at": {"$lte": self.now()},
            "source": source,
        }
        with translate():
            found = self._db[MEDIA].find(query, dict.fromkeys(_KNOWN, 1))
            rows = list(found.sort([("next_at", 1)]).limit(limit))
        return list(map(documents.known_record, rows))

    def missing(self, source: str, collection: str) -> tuple[int, int]:
        """How many indexed pictures of a source were not found when last looked for, of all."""
        of_source: Document = {"source": source, "collection": collection}
        lost = {"state": "failed", "error.class": "not_found", "sha256": {"$exists": True}}
        owned = {"source_key": {"$type": "string"}}
        with translate():
            rows = self._db[MEDIA]
            return (
                rows.count_documents(of_source | lost),
                rows.count_documents(of_source | owned),
            )

    def tombstoned(self, collection: str, media_ids: Sequence[str]) -> set[str]:
        """Those of the ids that were deleted through the API and that no source may bring back."""
        ids = [f"item/{identity.media_key(collection, media_id)}" for media_id in media_ids]
        with translate():
            rows = list(self._db[TOMBSTONES].find({"_id": {"$in": ids}}, {"media_id": 1}))
        return {row["media_id"] for row in rows}

    def shown(self, collection: str, faces: Sequence[StoredFace]) -> Sequence[StoredFace]:
        """Those of the faces that are not of a person who is being erased."""
        if not any(face.subject_id for face in faces):
            return faces
        erasing, _ = self.leaving(collection)
        return tuple(face for face in faces if face.subject_id not in erasing)

    def _visible(self, collection: str, query: Document) -> list[StoredFace]:
        erasing, deleting = self.leaving(collection)
        if erasing:
            query = {**query, "subject_id": {"$nin": sorted(erasing)}}
        with translate():
            found = self._db[FACES].find(query, documents.FACE_FIELDS)
            rows = list(found.sort([("_id", 1)]))
        return [documents.face_record(row, unassigned=deleting) for row in rows]

    def now(self) -> dt.datetime:
        """The server's time."""
        with translate():
            now: dt.datetime = self._db.command("hello")["localTime"]
        return now if now.tzinfo else now.replace(tzinfo=dt.UTC)
