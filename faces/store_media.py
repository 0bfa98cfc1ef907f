"""Items and their faces: every change to one item is one transaction that compares and sets `rev`.

A deleted item stays as `gone` for 30 days with its rev, so that a writer that began before the
delete is told so and writes nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pymongo import UpdateOne

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
from faces.errors import Conflict, InvalidRequest
from faces.item_before import Before, ItemBefore
from faces.item_plan import after, plan_info
from faces.item_put import Again, ItemPlan, Put, Rules, check_put, is_live, plan_put
from faces.item_writes import ItemWrites, Together, Write, media_write
from faces.leases import Fence, check_fence
from faces.records import API_SOURCE, Item, KnownItem, PutResult
from faces.store_models import check_covered
from faces.types import MediaInfo, MediaRef

MAX_ATTEMPT = 1_000_000
Told: TypeAlias = MediaInfo | Again
"""What a source says of an item, or what it makes of what is stored by then."""


class MediaStore(ItemWrites):
    """Writes items; `Store` is its public face."""

    def put(self, given: Put, rules: Rules, crops: Mapping[int, bytes]) -> PutResult:
        """Makes the stored item what the analyses say; see `Store.put_item`."""
        attempts = itertools.count()

        def work(session: Session) -> PutResult:
            put = given
            # What a page's reads said may be stale: then `rev` differs, and the next attempt reads.
            first = next(attempts) == 0
            ref = put.ref
            known = put.before.of(ref) if first and put.before is not None else None
            check_fence(self._db, rules.fence, session)
            declared = self._declared(ref.collection, session, put.since)
            own = declared if ref.source == API_SOURCE else None
            documents.check_metadata(put.info.metadata, own)
            old = known.media if known else self._find(ref.collection, ref.media_id, session)
            check_put(put, old, rules.fence)
            if put.again and old and is_live(old) and old.get("sha256") == put.content:
                put = dataclasses.replace(put, info=put.again(documents.item_record(old)))
            if known is None:
                live = is_live(old)
                stones = self._stones(ref, session, lift=not live)
                known = ItemBefore(old, self._faces(ref, session) if live else (), stones)
            plan = plan_put(put, known, declared, rules, now=now)
            if plan.faces.order:
                check_covered(self._db, [analysis.model for analysis in put.analyses], session)
            media = self._write(put, plan, crops, old, rules.fence, session, first=first, now=now)
            faces = map(documents.face_record, after(plan.faces, plan.stored))
            item = documents.item_record(media, [*faces])
            return PutResult(
                item=item,
                faces=item.faces,
                created=not plan.live,
                unchanged=plan.same,
                unindexed=item.unindexed,
            )

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def _write(
        self,
        put: Put,
        plan: ItemPlan,
        crops: Mapping[int, bytes],
        old: Document | None,
        fence: Fence | None,
        session: Session,
        *,
        first: bool,
        now: dt.datetime,
    ) -> Document:
        """The item's document after all writes: in one command where the server can.

        A second attempt writes step by step, which tells one kind of conflict from another.
        """
        if first and self._one_command():
            media, writes = self._writes_of(put, plan, crops, old, fence, now=now)
            self._write_all(writes, session)
            return media
        self._write_faces(plan.faces, session)
        self._write_crops(put.ref, plan.faces, crops, session)
        return self._write_media(
            put.ref, old, plan.fields, fence, session, changed=plan.changed, now=now
        )

    def put_together(self, puts: Sequence[Put], rules: Rules) -> list[int | None]:
        """How many faces each of the pictures has, stored in one transaction.

        None stands for a picture that has to be stored by itself, by `put`: what was known of its
        item (`Put.before`) does not allow the write or is not known, or the server does not take
        changes of several collections at once, or the transaction met another writer; then nothing
        at all was written. Raises as `put` does for what concerns all of them.
        """
        attempts = itertools.count()

        def work(session: Session) -> list[int | None]:
            if next(attempts):
                return [None] * len(puts)  # what was known is stale: each reads for itself
            check_fence(self._db, rules.fence, session)
            declared = {
                name: self._declared(name, session) for name in {put.ref.collection for put in puts}
            }
            counts: list[int | None] = []
            models: set[tuple[str, ...]] = set()
            made = Together()
            for put in puts:
                known = put.before.of(put.ref) if put.before is not None else None
                if known is None:
                    counts.append(None)
                    continue
                try:
                    documents.check_metadata(put.info.metadata)
                    check_put(put, known.media, rules.fence)
                    plan = plan_put(put, known, declared[put.ref.collection], rules, now=now)
                except (Conflict, InvalidRequest):
                    counts.append(None)
                    continue
                counts.append(len(plan.faces.order))
                if plan.faces.order:
                    models.add(tuple(analysis.model for analysis in put.analyses))
                self._add(made, put, plan, known.media, rules.fence, now=now)
            if (made.changes or made.items) and not self._one_command():
                return [None] * len(puts)
            for brought in models:
                check_covered(self._db, brought, session)
            self._write_together(made, session)
            return counts

        now = dt.datetime.now(dt.UTC)
        return in_transaction(self._db, work)

    def _add(
        self,
        made: Together,
        put: Put,
        plan: ItemPlan,
        old: Document | None,
        fence: Fence | None,
        *,
        now: dt.datetime,
    ) -> None:
        """Adds one item's writes to `made`."""
        namespace = f"{self._db.name}.{MEDIA}"
        media, write = media_write(
            put.ref, old, plan.fields, fence, changed=plan.changed, now=now, namespace=namespace
        )
        made.faces += plan.faces.inserts
        made.changes += self._item_writes(
            put.ref, dataclasses.replace(plan.faces, inserts=()), {}, None
        )
        if isinstance(write, UpdateOne):
            made.items.append(write)
        elif write is not None:
            made.media.append(media)

    def _writes_of(
        self,
        put: Put,
        plan: ItemPlan,
        crops: Mapping[int, bytes],
        old: Document | None,
        fence: Fence | None,
        *,
        now: dt.datetime,
    ) -> tuple[Document, list[Write]]:
        """The item's document after all its writes, and these."""
        namespace = f"{self._db.name}.{MEDIA}"
        media, write = media_write(
            put.ref, old, plan.fields, fence, changed=plan.changed, now=now, namespace=namespace
        )
        return media, self._item_writes(put.ref, plan.faces, crops, write)

    def before(self, collection: str, media_ids: Sequence[str]) -> Before:
        """What is stored of a page's items, read at once; see `Store.before`."""
        keys = [identity.media_key(collection, media_id) for media_id in media_ids]
        items = {"collection": collection, "media_id": {"$in": list(media_ids)}}
        with translate():
            media = {row["_id"]: row for row in self._db[MEDIA].find({"_id": {"$in": keys}})}
            stones = self._db[TOMBSTONES].find(items)
            there = [row["media_id"] for row in media.values() if is_live(row)]
            faces: list[Document] = []
            if there:  # what is not there has no faces
                found = {"collection": collection, "media_id": {"$in": there}}
                faces = list(self._db[FACES].find(found, documents.FACE_FIELDS).sort([("_id", 1)]))
            return Before.of_rows(keys, media, faces, stones)

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

    def update_info(self, ref: MediaRef, told: Told, fence: Fence | None) -> Item:
        """Stores what the source now says about an item whose pixels are the same."""

        def work(session: Session) -> Item:
            check_fence(self._db, fence, session)
            declared = self._declared(ref.collection, session)
            old = self._live(ref.collection, ref.media_id, session)
            item_rules.check_owner(old, ref)
            item_rules.check_epoch(old, fence)
            info = told if isinstance(told, MediaInfo) else told(documents.item_record(old))
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
