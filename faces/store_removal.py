"""Removing items and faces, with the tombstones that keep them from coming back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from pymongo import UpdateOne

from faces import documents, identity, item_rules, tombstones
from faces.database import (
    FACES,
    MEDIA,
    TOMBSTONES,
    Document,
    Raced,
    Session,
    in_transaction,
)
from faces.errors import Conflict, NotFound
from faces.item_plan import DELETED, FacePlan
from faces.item_writes import ItemWrites
from faces.leases import Fence, Guard, check_fence
from faces.records import API_SOURCE
from faces.store_links import taken
from faces.types import MediaRef

_INFO = ("url", "title", "taken_at", "metadata", "hidden", "etag")
_PERSONAL = (*_INFO, "sha256", "image_id", "width", "height", "unindexed", "error", "next_at")


class RemovalStore(ItemWrites):
    """Deletes items and faces; `Store` is its public face."""

    def delete(
        self,
        collection: str,
        media_id: str,
        *,
        source: str,
        tombstone: bool,
        fence: Fence | None,
        buried: bool = False,
    ) -> int:
        """Removes an item with its faces and crops, and says how many faces; see `Store`.

        With `buried` only one that its tombstone forbids; raises NotFound for another.
        """

        def work(session: Session) -> int:
            check_fence(self._db, fence, session)
            old = self._find(collection, media_id, session)
            if old is None or old["state"] == "gone":
                if old is not None and old["gone_at"] == stamp and old["rev"] in made:
                    return made[old["rev"]]  # an attempt before came through after all
                raise NotFound("There is no such item.")
            if source not in (API_SOURCE, old["source"]):
                raise Conflict("Another source owns this item.")
            item_rules.check_epoch(old, fence)
            if buried and not self._forbidden(collection, media_id, session):
                raise NotFound("The item has no tombstone.")
            ref = MediaRef(collection, media_id, old["source"], documents.source_key(old))
            ids = tuple(face["_id"] for face in self._faces(ref, session, fields={"_id": 1}))
            self._write_faces(FacePlan(deletes=ids), session)
            if tombstone:
                tombstones.write(self._db, [tombstones.of_item(collection, media_id, now)], session)
            rev = old["rev"] + 1
            made[rev] = len(ids)
            changed = self._db[MEDIA].update_one(
                {"_id": old["_id"], "rev": old["rev"]},
                {
                    "$set": {
                        "state": "gone",
                        "rev": rev,
                        "deleted_rev": rev,
                        "gone_at": stamp,
                        "updated_at": stamp,
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

        made: dict[int, int] = {}
        now = dt.datetime.now(dt.UTC)
        stamp = documents.millis(now)
        return in_transaction(self._db, work)

    def _forbidden(self, collection: str, media_id: str, session: Session) -> bool:
        stones = tombstones.of(self._db, collection, media_id, session)
        return any(stone["kind"] == "item" for stone in stones)

    def remove_faces(
        self,
        collection: str,
        media_id: str,
        ids: Sequence[str],
        *,
        reason: str,
        receipt_id: str | None = None,
        guard: Guard = lambda session: None,
    ) -> int:
        """Removes some faces of an item, each leaving a tombstone, and says how many there were."""
        faces = {media_id: ids}
        return self.remove_together(
            collection, faces, reason=reason, receipt_id=receipt_id, guard=guard
        )

    def remove_together(
        self,
        collection: str,
        faces: Mapping[str, Sequence[str]],
        *,
        reason: str,
        receipt_id: str | None = None,
        guard: Guard = lambda session: None,
        of_nobody: bool = False,
    ) -> int:
        """`remove_faces` of several items, by their media ids, in one transaction.

        With `of_nobody` a face that is a subject's by then stays.
        """

        def work(session: Session) -> int:
            guard(session)
            keys = [identity.media_key(collection, media_id) for media_id in faces]
            items = list(self._db[MEDIA].find({"_id": {"$in": keys}}, session=session))
            query = {
                "_id": {"$in": [face_id for ids in faces.values() for face_id in ids]},
                "collection": collection,
                "media_id": {"$in": list(faces)},
            }
            found = list(self._db[FACES].find(query, documents.FACE_FIELDS, session=session))
            if of_nobody:
                kept = taken(self._db, collection, found, session)
                found = [face for face in found if face["subject_id"] not in kept]
            if not found:
                return 0
            stones = [tombstones.of_face(face, now, receipt_id=receipt_id) for face in found]
            tombstones.write(self._db, stones, session)
            self._write_faces(FacePlan(deletes=tuple(face["_id"] for face in found)), session)
            writes = [
                write for old in items if (write := _without(old, found, reason, now)) is not None
            ]
            if writes:
                done = self._db[MEDIA].bulk_write(writes, ordered=False, session=session)
                if done.matched_count < len(writes):
                    raise Raced
            return len(found)

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def forget_picture(self, collection: str, media_id: str) -> None:
        """Drops the tombstones of an item's deleted faces, and forgets how it was indexed.

        The next time that its picture comes, it is worked on again.
        """

        def work(session: Session) -> None:
            old = self._find(collection, media_id, session)
            item = {"collection": collection, "media_id": media_id, "kind": "face"}
            self._db[TOMBSTONES].delete_many(item, session=session)
            if old is None or old["state"] == "gone":
                return
            kept = [e for e in old.get("unindexed") or [] if e["reason"] != DELETED]
            changed = self._db[MEDIA].update_one(
                {"_id": old["_id"], "rev": old["rev"]},
                {"$set": {"unindexed": kept, "pipeline_version": "", "rev": old["rev"] + 1}},
                session=session,
            )
            if not changed.matched_count:
                raise Raced

        in_transaction(self._db, work)


def _without(
    item: Document, found: Sequence[Document], reason: str, now: dt.datetime
) -> UpdateOne | None:
    """The write that takes the item's own of these faces off it; None where none is."""
    own = [face for face in found if face["media_id"] == item["media_id"]]
    if not own:
        return None
    left = max(0, item.get("face_count", 0) - len(own))
    return UpdateOne(
        {"_id": item["_id"], "rev": item["rev"]},
        {
            "$set": {
                "face_count": left,
                "state": "no_face" if item["state"] == "done" and left == 0 else item["state"],
                "rev": item["rev"] + 1,
                "updated_at": documents.millis(now),
            },
            "$push": {
                "unindexed": {"$each": [{"box": face["box"], "reason": reason} for face in own]}
            },
        },
    )
