"""The documents of one item, read and written inside a transaction: what its stores share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bson.binary import Binary
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    ClientBulkWriteException,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)

from faces import documents, identity, item_rules, tombstones
from faces.database import (
    COLLECTIONS,
    CROPS,
    FACES,
    MEDIA,
    TOMBSTONES,
    Db,
    Document,
    Raced,
    Session,
    duplicate_of,
)
from faces.errors import Conflict, NotFound, Tombstoned
from faces.item_plan import FacePlan
from faces.leases import Fence
from faces.records import API_SOURCE
from faces.types import MediaRef

Write: TypeAlias = InsertOne[Document] | UpdateOne | DeleteOne
_NOT_TAKEN = {13, 59, 115, 8000}
"""Unauthorized, no such command, not supported, and what a shared Atlas tier answers instead."""
_DUPLICATE = 11000
_MANY_COLLECTIONS = 25
"""The wire version of MongoDB 8.0, whose bulkWrite reaches several collections."""


@dataclass(slots=True)
class Together:
    """The writes of several items, those of one kind side by side: so they cost servers least."""

    faces: list[Document] = field(default_factory=list)
    """New faces, and the new items of `media`."""
    media: list[Document] = field(default_factory=list)
    changes: list[Write] = field(default_factory=list)
    """Of faces and crops that are there, and of the `items` that are."""
    items: list[Write] = field(default_factory=list)


class ItemWrites:
    """Reads and writes of one item's documents with a transaction's session."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def _declared(self, name: str, session: Session, since: dt.datetime | None = None) -> Document:
        """The declared fields. Raises NotFound, also for a later one than that made at `since`."""
        document = self._db[COLLECTIONS].find_one({"_id": name}, session=session)
        if document is None or document.get("deleting"):
            raise NotFound("There is no such collection: create it first.")
        if since is not None and document["created_at"] != since:
            raise NotFound("The collection was deleted while this picture was worked on.")
        declared: Document = document.get("metadata_fields") or {}
        return declared

    def _find(self, collection: str, media_id: str, session: Session) -> Document | None:
        return self._db[MEDIA].find_one(
            {"_id": identity.media_key(collection, media_id)}, session=session
        )

    def _live(self, collection: str, media_id: str, session: Session) -> Document:
        document = self._find(collection, media_id, session)
        if document is None or document["state"] == "gone":
            raise NotFound("There is no such item.")
        return document

    def _faces(
        self, ref: MediaRef, session: Session | None, fields: Document | None = None
    ) -> list[Document]:
        query = {"collection": ref.collection, "media_id": ref.media_id}
        projection = documents.FACE_FIELDS if fields is None else fields
        return list(self._db[FACES].find(query, projection, session=session).sort([("_id", 1)]))

    def _stones(self, ref: MediaRef, session: Session, *, lift: bool) -> list[Document]:
        """The item's tombstones; an explicit PUT of an item that is not there lifts its own."""
        stones = tombstones.of(self._db, ref.collection, ref.media_id, session)
        if not lift:
            return stones
        if ref.source != API_SOURCE:
            if any(stone["kind"] == "item" for stone in stones):
                raise Tombstoned
            return stones
        lifted = [stone["_id"] for stone in stones if stone["kind"] != "person"]
        if lifted:
            self._db[TOMBSTONES].bulk_write(
                [DeleteOne({"_id": stone}) for stone in lifted], ordered=False, session=session
            )
        return [stone for stone in stones if stone["kind"] == "person"]

    def _in_order(self, ref: MediaRef, order: Sequence[str], session: Session) -> list[Any]:
        by_id = {face["_id"]: face for face in self._faces(ref, session)} if order else {}
        return [documents.face_record(by_id[face]) for face in order if face in by_id]

    def _write_crops(
        self, ref: MediaRef, plan: FacePlan, crops: Mapping[int, bytes], session: Session
    ) -> None:
        if writes := self._crop_writes(ref, plan, crops):
            self._db[CROPS].bulk_write(writes, ordered=False, session=session)

    def _crop_writes(
        self,
        ref: MediaRef,
        plan: FacePlan,
        crops: Mapping[int, bytes],
        namespace: str | None = None,
    ) -> list[Any]:
        writes: list[Any] = [
            UpdateOne(
                {"_id": plan.order[index]},
                {
                    "$set": {
                        "collection": ref.collection,
                        "media_id": ref.media_id,
                        "jpeg": Binary(jpeg),
                    }
                },
                upsert=True,
                namespace=namespace,
            )
            for index, position in enumerate(plan.positions)
            if (jpeg := crops.get(position)) is not None
        ]
        kept = {plan.order[i] for i, place in enumerate(plan.positions) if place in crops}
        # A crop of the picture that was there before shows other pixels.
        writes += [
            DeleteOne({"_id": face}, namespace=namespace)
            for face, changed, _ in plan.updates
            if "image_id" in changed and face not in kept
        ]
        return writes

    def _face_writes(self, plan: FacePlan, namespace: str | None = None) -> list[Any]:
        writes: list[Any] = [InsertOne(document, namespace) for document in plan.inserts]
        for face, changed, unset in plan.updates:
            update = {"$set": changed} if changed else {}
            if unset:
                update["$unset"] = unset
            writes.append(UpdateOne({"_id": face}, update, namespace=namespace))
        writes += [DeleteOne({"_id": face}, namespace=namespace) for face in plan.deletes]
        return writes

    def _write_faces(self, plan: FacePlan, session: Session) -> bool:
        writes = self._face_writes(plan)
        if writes:
            try:
                self._db[FACES].bulk_write(writes, ordered=False, session=session)
            except BulkWriteError as error:
                if any(entry.get("code") == 11000 for entry in error.details["writeErrors"]):
                    raise Raced from error
                raise
        if plan.deletes:
            self._db[CROPS].bulk_write(
                [DeleteOne({"_id": face}) for face in plan.deletes], ordered=False, session=session
            )
        return bool(writes)

    def _write_media(
        self,
        ref: MediaRef,
        old: Document | None,
        fields: Document,
        fence: Fence | None,
        session: Session,
        *,
        changed: bool,
        now: dt.datetime,
    ) -> Document:
        """The item's document after the write; no write at all when nothing differs."""
        new, write = media_write(ref, old, fields, fence, changed=changed, now=now)
        try:
            if isinstance(write, InsertOne):
                self._db[MEDIA].insert_one(new, session=session)
            elif write is not None:
                done = self._db[MEDIA].bulk_write([write], session=session)
                if not done.matched_count:
                    raise Raced
        except DuplicateKeyError as error:
            if "source_key" in duplicate_of(error):
                raise Conflict(
                    "Another item of this source has the same key, in this or another collection."
                ) from error
            raise Raced from error
        return new

    def _one_command(self) -> bool:
        """Whether the server takes writes to several collections in one command (8.0 or later)."""
        servers = self._db.client.topology_description.server_descriptions().values()
        versions = [server.max_wire_version for server in servers if server.is_writable]
        return bool(versions) and min(versions) >= _MANY_COLLECTIONS

    def _item_writes(
        self,
        ref: MediaRef,
        plan: FacePlan,
        crops: Mapping[int, bytes],
        media: UpdateOne | InsertOne[Document] | None,
    ) -> list[Write]:
        """All writes of one item, for `_write_all`."""
        faces, kept = f"{self._db.name}.{FACES}", f"{self._db.name}.{CROPS}"
        writes = self._face_writes(plan, faces) + self._crop_writes(ref, plan, crops, kept)
        writes += [DeleteOne({"_id": face}, namespace=kept) for face in plan.deletes]
        return writes if media is None else [*writes, media]

    def _write_together(self, made: Together, session: Session) -> None:
        """All of the writes, in three commands at most. Raises Raced as `_write_all` does."""
        for name, new in ((FACES, made.faces), (MEDIA, made.media)):
            if new:
                try:
                    self._db[name].insert_many(new, session=session)
                except BulkWriteError as error:
                    if any(entry["code"] == _DUPLICATE for entry in error.details["writeErrors"]):
                        raise Raced from error
                    raise
        self._write_all([*made.changes, *made.items], session)

    def _write_all(self, writes: Sequence[Write], session: Session) -> None:
        """All of the writes in one command. Raises Raced unless each did what it had to."""
        inserts = sum(isinstance(write, InsertOne) for write in writes)
        updates = sum(isinstance(write, UpdateOne) for write in writes)
        if not writes:
            return
        try:
            done = self._db.client.bulk_write(writes, session=session, ordered=True)
        except ClientBulkWriteException as error:
            raise _cause(error) from error
        if (done.inserted_count, done.matched_count + done.upserted_count) != (inserts, updates):
            raise Raced


def _cause(error: ClientBulkWriteException) -> PyMongoError:
    """What went wrong, with the labels and codes that the transaction loop looks at."""
    if isinstance(error.error, OperationFailure) and error.error.code in _NOT_TAKEN:
        return Raced()  # the next attempt writes step by step
    if isinstance(error.error, PyMongoError):
        return error.error
    entries: Any = error.write_errors or ()
    codes = [entry["code"] for entry in entries]
    if _DUPLICATE in codes:
        return Raced()
    return OperationFailure("a write was refused", codes[0]) if codes else error


def media_write(
    ref: MediaRef,
    old: Document | None,
    fields: Document,
    fence: Fence | None,
    *,
    changed: bool,
    now: dt.datetime,
    namespace: str | None = None,
) -> tuple[Document, UpdateOne | InsertOne[Document] | None]:
    """The item's document after the write that comes with it; None when nothing differs."""
    fields = {**fields, **item_rules.fence_fields(fence)}
    if old is not None and not changed and old["state"] == fields.get("state", old["state"]):
        differs = any(old.get(name) != value for name, value in fields.items())
        if not differs:
            return old, None
    stamp = documents.millis(now)
    new: Document = {**(old or {}), **fields, "updated_at": stamp}
    if old is None:
        new |= {
            "_id": identity.media_key(ref.collection, ref.media_id),
            "collection": ref.collection,
            "media_id": ref.media_id,
            "rev": 1,
            "created_at": stamp,
        }
    else:
        new["rev"] = old["rev"] + 1
        if old["state"] == "gone":
            new["created_at"] = stamp
    dropped = ["gone_at"] + ([] if new["state"] == "failed" else ["error", "next_at"])
    for name in dropped:
        new.pop(name, None)
    if old is None:
        return new, InsertOne(new, namespace)
    changes = {k: v for k, v in new.items() if k != "_id" and old.get(k) != v}
    return new, UpdateOne(
        {"_id": old["_id"], "rev": old["rev"]},
        {"$set": changes, "$unset": dict.fromkeys(dropped, "")},
        namespace=namespace,
    )
