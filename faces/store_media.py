"""Items and their faces: every change to one item is one transaction that compares and sets `rev`.

A deleted item stays as `gone` for 30 days with its rev, so that a writer that began before the
delete is told so and writes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from bson.binary import Binary
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

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
    in_transaction,
    translate,
)
from faces.errors import Conflict, NotFound, Tombstoned
from faces.item_plan import FacePlan, plan_faces, plan_info
from faces.leases import Fence, check_fence
from faces.records import API_SOURCE, Item, KnownItem, PutResult
from faces.store_models import check_covered
from faces.types import Analysis, MediaInfo, MediaRef

MAX_ATTEMPT = 1_000_000
_INFO = ("url", "title", "taken_at", "metadata", "hidden", "etag")
_PERSONAL = (*_INFO, "sha256", "image_id", "width", "height", "unindexed", "error", "next_at")


class MediaStore:
    """Writes items; `Store` is its public face."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def put(
        self,
        ref: MediaRef,
        info: MediaInfo,
        analyses: Sequence[Analysis],
        *,
        content: str,
        min_quality: float,
        pipeline_version: str,
        fence: Fence | None,
        began_rev: int | None,
        crops: Mapping[int, bytes],
    ) -> PutResult:
        """Makes the stored item what the analyses say; see `Store.put_item`."""

        def work(session: Session) -> PutResult:
            check_fence(self._db, fence, session)
            declared = self._declared(ref.collection, session)
            documents.check_metadata(info.metadata, declared if ref.source == API_SOURCE else None)
            old = self._find(ref.collection, ref.media_id, session)
            item_rules.check_began(old, began_rev)
            item_rules.check_owner(old, ref)
            item_rules.check_epoch(old, fence)
            live = old is not None and old["state"] != "gone"
            stones = self._stones(ref, session, lift=not live)
            stored = self._faces(ref, session) if live else []
            same = (
                live
                and item_rules.same_picture(old, content, pipeline_version)
                and item_rules.covered(stored, analyses)
            )
            if same and old is not None:
                plan = plan_info(ref, info, stored, declared)
                unindexed = old.get("unindexed") or []
            else:
                plan = plan_faces(
                    ref,
                    info,
                    analyses,
                    stored,
                    stones,
                    declared,
                    content=content,
                    min_quality=min_quality,
                    now=now,
                )
                unindexed = [
                    {"box": documents.box_document(entry.box), "reason": entry.reason}
                    for entry in plan.unindexed
                ]
            if plan.order:
                check_covered(self._db, [analysis.model for analysis in analyses], session)
            changed = self._write_faces(plan, session)
            self._write_crops(ref, plan, crops, session)
            picture = analyses[0].picture
            fields: Document = {
                **item_rules.info_fields(info),
                "source": ref.source,
                "source_key": item_rules.stored_key(ref),
                "state": "done" if plan.order else "no_face",
                "sha256": content,
                "image_id": identity.image_id(ref.collection, ref.media_id, content),
                "width": picture.width,
                "height": picture.height,
                "pipeline_version": pipeline_version,
                "unindexed": unindexed,
                "face_count": len(plan.order),
                "attempts": 0,
            }
            media = self._write_media(ref, old, fields, fence, session, changed=changed, now=now)
            faces = self._in_order(ref, plan.order, session)
            item = documents.item_record(media, faces)
            return PutResult(
                item=item,
                faces=item.faces,
                created=not live,
                unchanged=same,
                unindexed=item.unindexed,
            )

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def unchanged(
        self, ref: MediaRef, sha256: str, pipeline_version: str, model: str
    ) -> PutResult | None:
        """The stored outcome when there is nothing to do for these bytes; see `Store`."""
        with translate():
            old = self._db[MEDIA].find_one(
                {"_id": identity.media_key(ref.collection, ref.media_id)}
            )
            if old is None or not item_rules.same_picture(old, sha256, pipeline_version):
                return None
            item_rules.check_owner(old, ref)
            rows = self._faces(ref, None)
        if any(model not in (row.get("builds") or {}) for row in rows):
            return None
        item = documents.item_record(old, [documents.face_record(row) for row in rows])
        return PutResult(item, item.faces, False, True, item.unindexed)

    def update_info(self, ref: MediaRef, info: MediaInfo, fence: Fence | None) -> Item:
        """Stores what the source now says about an item whose pixels are the same."""

        def work(session: Session) -> Item:
            check_fence(self._db, fence, session)
            declared = self._declared(ref.collection, session)
            old = self._live(ref.collection, ref.media_id, session)
            item_rules.check_owner(old, ref)
            item_rules.check_epoch(old, fence)
            stored = self._faces(ref, session)
            changed = self._write_faces(plan_info(ref, info, stored, declared), session)
            media = self._write_media(
                ref, old, item_rules.info_fields(info), fence, session, changed=changed, now=now
            )
            return documents.item_record(media)

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def record_failure(
        self,
        ref: MediaRef,
        info: MediaInfo,
        error_class: str,
        *,
        permanent: bool,
        next_at: dt.datetime | None,
        fence: Fence | None,
    ) -> KnownItem:
        """Notes that an item could not be indexed; faces of its last good picture stay."""

        def work(session: Session) -> KnownItem:
            check_fence(self._db, fence, session)
            self._declared(ref.collection, session)
            old = self._find(ref.collection, ref.media_id, session)
            item_rules.check_owner(old, ref)
            item_rules.check_epoch(old, fence)
            live = old is not None and old["state"] != "gone"
            self._stones(ref, session, lift=not live)
            before = (old or {}).get("error") or {}
            repeated = (
                old is not None
                and old["state"] == "failed"
                and before.get("class") == error_class
                and old.get("etag") == info.etag
            )
            attempts = (old or {}).get("attempts", 0) if repeated else 0
            fields: Document = {
                "etag": info.etag,
                "source": ref.source,
                "source_key": item_rules.stored_key(ref),
                "state": "failed",
                "error": {"class": error_class, "permanent": permanent},
                "attempts": min(attempts + 1, MAX_ATTEMPT),
                "next_at": documents.millis(next_at),
            }
            if not live:
                fields = {**item_rules.info_fields(info), **fields, "face_count": 0}
            media = self._write_media(ref, old, fields, fence, session, changed=True, now=now)
            return documents.known_record(media)

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def delete(
        self,
        collection: str,
        media_id: str,
        *,
        source: str,
        tombstone: bool,
        fence: Fence | None,
    ) -> int:
        """Removes an item with its faces and crops, and says how many faces; see `Store`."""

        def work(session: Session) -> int:
            check_fence(self._db, fence, session)
            old = self._live(collection, media_id, session)
            if source not in (API_SOURCE, old["source"]):
                raise Conflict("Another source owns this item.")
            item_rules.check_epoch(old, fence)
            ref = MediaRef(collection, media_id, old["source"], documents.source_key(old))
            ids = tuple(face["_id"] for face in self._faces(ref, session, fields={"_id": 1}))
            self._write_faces(FacePlan(deletes=ids), session)
            if tombstone:
                tombstones.write(self._db, [tombstones.of_item(collection, media_id, now)], session)
            rev = old["rev"] + 1
            changed = self._db[MEDIA].update_one(
                {"_id": old["_id"], "rev": old["rev"]},
                {
                    "$set": {
                        "state": "gone",
                        "rev": rev,
                        "deleted_rev": rev,
                        "gone_at": documents.millis(now),
                        "updated_at": documents.millis(now),
                        "face_count": 0,
                        "attempts": 0,
                        **item_rules.fence_fields(fence),
                    },
                    # The key becomes free, and nothing about the picture stays.
                    "$unset": dict.fromkeys((*_PERSONAL, "source_key"), ""),
                },
                session=session,
            )
            if not changed.matched_count:
                raise Raced
            return len(ids)

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def remove_faces(
        self,
        collection: str,
        media_id: str,
        ids: Sequence[str],
        *,
        reason: str,
        receipt_id: str | None = None,
    ) -> int:
        """Removes some faces of an item, each leaving a tombstone, and says how many there were."""

        def work(session: Session) -> int:
            old = self._find(collection, media_id, session)
            query = {"_id": {"$in": list(ids)}, "collection": collection, "media_id": media_id}
            found = list(self._db[FACES].find(query, documents.FACE_FIELDS, session=session))
            if not found:
                return 0
            stones = [tombstones.of_face(face, now, receipt_id=receipt_id) for face in found]
            tombstones.write(self._db, stones, session)
            self._write_faces(FacePlan(deletes=tuple(face["_id"] for face in found)), session)
            if old is None:
                return len(found)
            entries = [{"box": face["box"], "reason": reason} for face in found]
            left = max(0, old.get("face_count", 0) - len(found))
            state = "no_face" if old["state"] == "done" and left == 0 else old["state"]
            changed = self._db[MEDIA].update_one(
                {"_id": old["_id"], "rev": old["rev"]},
                {
                    "$set": {
                        "face_count": left,
                        "state": state,
                        "rev": old["rev"] + 1,
                        "updated_at": documents.millis(now),
                    },
                    "$push": {"unindexed": {"$each": entries}},
                },
                session=session,
            )
            if not changed.matched_count:
                raise Raced
            return len(found)

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def _declared(self, name: str, session: Session) -> Document:
        document = self._db[COLLECTIONS].find_one({"_id": name}, session=session)
        if document is None or document.get("deleting"):
            raise NotFound("There is no such collection: create it first.")
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
            )
            for index, position in enumerate(plan.positions)
            if (jpeg := crops.get(position)) is not None
        ]
        kept = {plan.order[i] for i, place in enumerate(plan.positions) if place in crops}
        # A crop of the picture that was there before shows other pixels.
        writes += [
            DeleteOne({"_id": face})
            for face, changed, _ in plan.updates
            if "image_id" in changed and face not in kept
        ]
        if writes:
            self._db[CROPS].bulk_write(writes, ordered=False, session=session)

    def _write_faces(self, plan: FacePlan, session: Session) -> bool:
        writes: list[Any] = [InsertOne(document) for document in plan.inserts]
        for face, changed, unset in plan.updates:
            update = {"$set": changed} if changed else {}
            if unset:
                update["$unset"] = unset
            writes.append(UpdateOne({"_id": face}, update))
        writes += [DeleteOne({"_id": face}) for face in plan.deletes]
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
        fields = {**fields, **item_rules.fence_fields(fence)}
        if old is not None and not changed and old["state"] == fields.get("state", old["state"]):
            differs = any(old.get(name) != value for name, value in fields.items())
            if not differs:
                return old
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
        failed = new["state"] == "failed"
        dropped = ["gone_at"] + ([] if failed else ["error", "next_at"])
        for name in dropped:
            new.pop(name, None)
        try:
            if old is None:
                self._db[MEDIA].insert_one(new, session=session)
            else:
                changes = {k: v for k, v in new.items() if k != "_id" and old.get(k) != v}
                matched = (
                    self._db[MEDIA]
                    .update_one(
                        {"_id": old["_id"], "rev": old["rev"]},
                        {"$set": changes, "$unset": dict.fromkeys(dropped, "")},
                        session=session,
                    )
                    .matched_count
                )
                if not matched:
                    raise Raced
        except DuplicateKeyError as error:
            if "source_key" in duplicate_of(error):
                raise Conflict(
                    "Another item of this source has the same key, in this or another collection."
                ) from error
            raise Raced from error
        return new
