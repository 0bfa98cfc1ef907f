"""Items and their faces: every change to one item is one transaction that compares and sets `rev`.

A deleted item stays as `gone` for 30 days with its rev, so that a writer that began before the
delete is told so and writes nothing.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping, Sequence

from faces import documents, identity, item_rules
from faces.database import (
    FACES,
    MEDIA,
    TOMBSTONES,
    Document,
    Session,
    in_transaction,
    translate,
)
from faces.errors import OtherPicture, Tombstoned
from faces.item_before import Before
from faces.item_plan import FacePlan, after, plan_faces, plan_info
from faces.item_writes import ItemWrites, media_write
from faces.leases import Fence, check_fence
from faces.records import API_SOURCE, Item, KnownItem, PutResult
from faces.store_models import check_covered
from faces.types import Analysis, MediaInfo, MediaRef

MAX_ATTEMPT = 1_000_000


class MediaStore(ItemWrites):
    """Writes items; `Store` is its public face."""

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
        before: Before | None,
        keep_other: bool = False,
    ) -> PutResult:
        """Makes the stored item what the analyses say; see `Store.put_item`."""
        attempts = itertools.count()

        def work(session: Session) -> PutResult:
            # What a page's reads said may be stale: then `rev` differs, and the next attempt reads.
            first = next(attempts) == 0
            known = before.of(ref) if first and before is not None else None
            check_fence(self._db, fence, session)
            declared = self._declared(ref.collection, session)
            documents.check_metadata(info.metadata, declared if ref.source == API_SOURCE else None)
            old = known.media if known else self._find(ref.collection, ref.media_id, session)
            item_rules.check_began(old, began_rev)
            item_rules.check_owner(old, ref)
            item_rules.check_epoch(old, fence)
            live = old is not None and old["state"] != "gone"
            if keep_other and live and old is not None and old.get("sha256") not in (None, content):
                raise OtherPicture
            if known:
                stones, stored = known.stones, known.faces if live else ()
                if not live and any(stone["kind"] == "item" for stone in stones):
                    raise Tombstoned
            else:
                stones = self._stones(ref, session, lift=not live)
                stored = self._faces(ref, session) if live else ()
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
            media = self._write(ref, plan, crops, old, fields, fence, session, first=first, now=now)
            item = documents.item_record(media, [*map(documents.face_record, after(plan, stored))])
            return PutResult(
                item=item,
                faces=item.faces,
                created=not live,
                unchanged=same,
                unindexed=item.unindexed,
            )

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def _write(
        self,
        ref: MediaRef,
        plan: FacePlan,
        crops: Mapping[int, bytes],
        old: Document | None,
        fields: Document,
        fence: Fence | None,
        session: Session,
        *,
        first: bool,
        now: dt.datetime,
    ) -> Document:
        """The item's document after all writes: in one command where the server can.

        A second attempt writes step by step, which tells one kind of conflict from another.
        """
        changed = bool(plan.inserts or plan.updates or plan.deletes)
        if first and self._one_command():
            namespace = f"{self._db.name}.{MEDIA}"
            media, write = media_write(
                ref, old, fields, fence, changed=changed, now=now, namespace=namespace
            )
            self._write_all(ref, plan, crops, write, session)
            return media
        self._write_faces(plan, session)
        self._write_crops(ref, plan, crops, session)
        return self._write_media(ref, old, fields, fence, session, changed=changed, now=now)

    def before(self, collection: str, media_ids: Sequence[str]) -> Before:
        """What is stored of a page's items, read at once; see `Store.before`."""
        keys = [identity.media_key(collection, media_id) for media_id in media_ids]
        items = {"collection": collection, "media_id": {"$in": list(media_ids)}}
        with translate():
            media = {row["_id"]: row for row in self._db[MEDIA].find({"_id": {"$in": keys}})}
            faces = self._db[FACES].find(items, documents.FACE_FIELDS).sort([("_id", 1)])
            return Before.of_rows(keys, media, faces, self._db[TOMBSTONES].find(items))

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
            if ref.source == API_SOURCE:
                # What is there already may be older than the declaration and stays.
                new = item_rules.changed_metadata(old, info)
                documents.check_metadata(new, declared)
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
