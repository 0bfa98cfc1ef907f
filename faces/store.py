"""The repository: what the web process and the worker do with the database, in one place.

Everything it raises is of `faces.errors`. Lists give `Page`s; see `faces.records` for the rest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence

from faces.aliases import Aliases
from faces.database import Db
from faces.item_before import Before
from faces.item_put import Again, Put, Rules
from faces.jobs import Jobs
from faces.leases import Fence, Leases
from faces.presence import Presence
from faces.records import (
    ActiveModel,
    CollectionInfo,
    FieldType,
    Item,
    KnownItem,
    Page,
    PutResult,
    StoredFace,
)
from faces.store_collections import CollectionStore
from faces.store_links import CHUNK
from faces.store_lists import ListStore
from faces.store_media import MediaStore, Told
from faces.store_models import ModelStore
from faces.store_removal import RemovalStore
from faces.store_subjects import SubjectStore
from faces.types import Analysis, MediaInfo, MediaRef


class Store:
    """The database of one service. It holds no state of its own and is safe to share by threads."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self.jobs = Jobs(db)
        self.leases = Leases(db)
        self.presence = Presence(db)
        self.aliases = Aliases(db)
        self._collections = CollectionStore(db, self.jobs)
        self._lists = ListStore(db)
        self._media = MediaStore(db)
        self._removal = RemovalStore(db)
        self._models = ModelStore(db)
        self.subjects = SubjectStore(db, self.jobs, self._lists)

    def now(self) -> dt.datetime:
        """The database server's time."""
        return self._lists.now()

    # Collections

    def create_collection(
        self, name: str, metadata_fields: Mapping[str, FieldType] | None = None
    ) -> CollectionInfo:
        """A new collection. Raises Conflict when it is there, InvalidRequest for bad names."""
        return self._collections.create(name, metadata_fields or {})

    def ensure_collection(self, name: str) -> CollectionInfo:
        """The collection, made when it is not there: what a configured source may do."""
        return self._collections.ensure(name)

    def collection(self, name: str, *, counts: bool = False) -> CollectionInfo:
        """One collection. Raises NotFound."""
        return self._collections.get(name, counts=counts)

    def collections(
        self,
        limit: int = 100,
        cursor: str | None = None,
        within: Collection[str] | None = None,
    ) -> Page[CollectionInfo]:
        """Collections by name, or those of them that are among `within`."""
        return self._collections.page(limit, cursor, within)

    def redeclare(self, name: str, metadata_fields: Mapping[str, FieldType]) -> str:
        """Replaces the declared metadata fields; the id of the job that rewrites the facets."""
        return self._collections.redeclare(name, metadata_fields)

    def delete_collection(self, name: str) -> str:
        """Hides the collection at once; the id of the job that deletes all that it holds.

        Raises NotFound, and Conflict for `default`.
        """
        return self._collections.delete(name)

    # Items and faces

    def put_item(
        self,
        ref: MediaRef,
        info: MediaInfo,
        analysis: Analysis,
        *,
        content: str,
        min_quality: float = 0.0,
        pipeline_version: str = "1",
        fence: Fence | None = None,
        began_rev: int | None = None,
        also: Sequence[Analysis] = (),
        crops: Mapping[int, bytes] | None = None,
        before: Before | None = None,
        keep_other: bool = False,
        again: Again | None = None,
        since: dt.datetime | None = None,
    ) -> PutResult:
        """Indexes one picture in one transaction, safe to repeat.

        `content` is the SHA-256 of its bytes. Stored faces that overlap a found one keep their id,
        subject and labels; the rest are minted or removed. Faces without embedding or below
        `min_quality`, and those that a tombstone covers, are listed as `unindexed`. `also` holds
        the vectors of other models for the same faces in the same order. `crops` are kept JPEGs by
        position in `analysis.faces`. `began_rev` is `rev()` from before the work: a delete since
        then wins. With `keep_other` an item with another picture is left alone: OtherPicture is
        raised, and one with this picture loses no face. Of one with this picture `again` makes what
        is stored in place of `info`. `since` is when the collection was made: one that was deleted
        and made anew meanwhile does not get it.
        Raises NotFound (collection), Conflict (another owner, or deleted meanwhile),
        Tombstoned (a source brings back what the API deleted), LeaseLost, InvalidRequest.
        """
        put = Put(
            ref, info, (analysis, *also), content, began_rev, before, keep_other, again, since
        )
        return self._media.put(put, Rules(min_quality, pipeline_version, fence), crops or {})

    def put_together(self, puts: Sequence[Put], rules: Rules) -> list[int | None]:
        """How many faces each picture has now, all stored in one transaction, or nothing of them.

        None stands for a picture that has to be stored by itself, with `put_item`. Raises Busy when
        the models changed meanwhile, NotFound (collection), LeaseLost.
        """
        return self._media.put_together(puts, rules)

    def before(self, collection: str, media_ids: Sequence[str]) -> Before:
        """What is stored of a page's items: given to `put_item`, it need not read each by itself.

        It may be stale; `put_item` notices and reads again.
        """
        return self._media.before(collection, media_ids)

    def unchanged(
        self, ref: MediaRef, sha256: str, pipeline_version: str, model: str
    ) -> PutResult | None:
        """The stored outcome when these bytes are indexed already by this pipeline and model.

        None when there is work to do. What the source says may still differ: `update_info`.
        """
        return self._media.unchanged(ref, sha256, pipeline_version, model)

    def update_info(self, ref: MediaRef, told: Told, fence: Fence | None = None) -> Item:
        """Stores what the source says of an item whose pixels are the same. Raises NotFound.

        A function is given the item as it is then, and may be called again.
        """
        return self._media.update_info(ref, told, fence)

    def record_failure(
        self,
        ref: MediaRef,
        info: MediaInfo,
        error_class: str,
        permanent: bool,
        fence: Fence | None = None,
        next_at: dt.datetime | None = None,
    ) -> KnownItem:
        """Notes that an item could not be indexed; what it has of faces stays.

        `attempts` counts the failures of one class in a row for one etag.
        """
        return self._media.record_failure(
            ref, info, error_class, permanent=permanent, next_at=next_at, fence=fence
        )

    def delete_item(
        self,
        collection: str,
        media_id: str,
        *,
        source: str,
        tombstone: bool,
        fence: Fence | None = None,
    ) -> int:
        """Removes an item with all its faces; how many faces there were.

        With `tombstone` no source brings it back. Raises NotFound; Conflict when `source` is
        neither the owner nor `api`.
        """
        self._lists.check_collection(collection)
        return self._removal.delete(
            collection, media_id, source=source, tombstone=tombstone, fence=fence
        )

    def item(self, collection: str, media_id: str) -> Item:
        """One item with its faces. Raises NotFound."""
        return self._lists.item(collection, media_id)

    def rev(self, collection: str, media_id: str) -> int:
        """The item's revision, 0 when it was never there: give it to `put_item` as `began_rev`."""
        return self._lists.rev(collection, media_id)

    def items(self, collection: str, limit: int = 100, cursor: str | None = None) -> Page[Item]:
        """The items of a collection by media id, without faces."""
        return self._lists.items(collection, limit, cursor)

    def known_items(self, source: str, collection: str) -> Iterator[KnownItem]:
        """What is stored of a source's items, in no order."""
        return self._lists.known(source, collection)

    def known_by_ids(
        self, source: str, collection: str, media_ids: Sequence[str]
    ) -> dict[str, KnownItem]:
        """What is stored of these items of a source, by media id."""
        return self._lists.known_by_ids(source, collection, media_ids)

    def item_of_source(self, source: str, key: str) -> Item | None:
        """The item that a source calls `key`, without faces; None when it is not stored."""
        return self._lists.item_of_source(source, key)

    def due_items(self, source: str, collection: str, limit: int = 500) -> list[KnownItem]:
        """Failed items that may be tried again now."""
        return self._lists.due(source, collection, limit)

    def missing(self, source: str, collection: str) -> tuple[int, int]:
        """How many of a source's indexed pictures answered 404 when last looked for, and of how
        many items."""
        return self._lists.missing(source, collection)

    def tombstoned(self, collection: str, media_ids: Sequence[str]) -> set[str]:
        """Those of the ids that were deleted through the API."""
        return self._lists.tombstoned(collection, media_ids)

    def faces(
        self,
        collection: str,
        *,
        media_id: str | None = None,
        subject_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[StoredFace]:
        """Faces of a collection, of an item, or of a subject. Raises NotFound (collection)."""
        return self._lists.faces(
            collection, media_id=media_id, subject_id=subject_id, limit=limit, cursor=cursor
        )

    def face(self, face_id: str, collections: Sequence[str] | None = None) -> StoredFace:
        """One face. Raises NotFound, also when it is in none of `collections`."""
        return self._lists.face(face_id, collections)

    def faces_by_id(self, collection: str, face_ids: Sequence[str]) -> dict[str, StoredFace]:
        """Those of the faces that are in the collection, by id. Raises NotFound (collection)."""
        return self._lists.faces_by_id(collection, face_ids)

    def shown(self, collection: str, faces: Sequence[StoredFace]) -> Sequence[StoredFace]:
        """Those of an item's faces that may be shown: not of a person who is being erased."""
        return self._lists.shown(collection, faces)

    def delete_faces(self, collection: str, faces: Sequence[StoredFace]) -> None:
        """Removes faces of nobody as `delete_face` does, a hundred in a transaction.

        One that was given to a subject meanwhile stays.
        """
        for start in range(0, len(faces), CHUNK):
            by_item: dict[str, list[str]] = {}
            for face in faces[start : start + CHUNK]:
                by_item.setdefault(face.media_id, []).append(face.face_id)
            self._removal.remove_together(collection, by_item, reason="deleted", of_nobody=True)

    def forget_picture(self, collection: str, media_id: str) -> None:
        """Lets `put_item` work on an item's picture again, though it may be the same.

        Faces that were deleted (not those of erased people) can then be indexed again.
        """
        self._removal.forget_picture(collection, media_id)

    def delete_face(self, face_id: str, collections: Sequence[str] | None = None) -> None:
        """Removes one face and leaves a tombstone with its box. Raises NotFound."""
        face = self._lists.face(face_id, collections)
        self._removal.remove_faces(face.collection, face.media_id, [face_id], reason="deleted")

    def picture(self, collection: str, image_id: str) -> tuple[Item, bytes | None]:
        """The item that holds a picture and the largest kept crop of it. Raises NotFound."""
        return self._lists.picture(collection, image_id)

    # Models

    def active_model(self) -> ActiveModel | None:
        """The model whose vectors are searched, or None on a new database."""
        return self._models.active()

    def choose_model(self, key: str, build: str) -> ActiveModel:
        """The active model, which `key` becomes only on a database without one."""
        return self._models.choose(key, build)
