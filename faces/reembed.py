"""Gives every face a vector of another model, beside those that it has: a job.

The stored box and landmarks say where each face is; nothing is detected again. The pixels come from
the original or, where that is gone or changed, from the kept crop. Ids, subjects and metadata stay.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pymongo import UpdateOne

from faces import documents
from faces.crops import in_crop
from faces.database import CROPS, FACES, MEDIA, Db, Document, translate
from faces.errors import ConfigError, ImageError, InvalidRequest
from faces.job_run import Handler, JobRun
from faces.records import Item
from faces.settings import Settings
from faces.store_models import ModelStore, missing_query
from faces.types import Analysis, Detection

PASSES = 3
PAGE = 100
PAUSE_SHARE = 0.1
"""Of the time spent on an item, slept after it, so that requests get their turn."""


class Embedder(Protocol):
    """What re-embedding needs of a pipeline."""

    @property
    def model(self) -> str:
        """The key of the model."""

    @property
    def build(self) -> str:
        """The encoder's build."""

    def embed_known(self, data: bytes, detections: Sequence[Detection]) -> Analysis:
        """All the named faces with embeddings, in order."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the job works with; `close` ends it."""

    pipeline: Embedder
    read: Callable[[Item], bytes | None]
    close: Callable[[], None]


def handler(settings: Settings) -> Handler:
    """The handler of the kind `reembed`: for the next model, or for the active one's gaps."""
    return lambda run: reembed(run, lambda key: _tools(settings, key))


def reembed(run: JobRun, tools: Callable[[str], Tools]) -> dict[str, Any]:
    """Embeds what lacks a vector of the job's model; what could not be is named as failures.

    Goes over the items again until nothing new is missing, as others are indexed meanwhile.
    """
    models = ModelStore(run.store.db)
    active = models.active()
    if active is None:
        raise ConfigError("The database has no active model: run `python -m migrations up`.")
    key: str = run.params.get("model") or (active.next or active).key
    before = models.missing(key)
    done = int(run.state.get("done", 0))
    if run.params.get("dry_run"):
        return {"model": key, "missing": before, "embedded": 0}
    run.progress(done=done, total=done + before, flush=True)
    missing = before
    if before:
        kit = tools(key)
        try:
            work = _Work(run, kit, key, done, limit=run.params.get("limit"))
            for _ in range(PASSES):
                work.go_over()
                missing = models.missing(key)
                if missing <= len(work.failed) or work.full:
                    break
            done = work.done
        finally:
            kit.close()
    if key == active.key:
        models.settle(key, missing)
    return {"model": key, "embedded": done, "missing": missing}


class _Work:
    def __init__(
        self, run: JobRun, tools: Tools, key: str, done: int, *, limit: int | None
    ) -> None:
        self._run = run
        self._tools = tools
        self._key = key
        self._limit = limit
        self.done = done
        self.failed: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether as many faces were embedded as were asked for."""
        return self._limit is not None and self.done >= self._limit

    def go_over(self) -> None:
        """One pass over the items by key, from where an interrupted attempt was."""
        for media in self._items():
            began = time.monotonic()
            self._item(media)
            self._run.state["done"] = self.done
            # Faces that came meanwhile were not counted at the beginning.
            total = max(self.done, self._run.counters["total"] or 0)
            self._run.progress(
                done=self.done,
                total=total,
                faces=self.done,
                failed=len(self.failed),
                cursor=media["_id"],
            )
            if self.full:
                return
            time.sleep(min(1.0, PAUSE_SHARE * (time.monotonic() - began)))
        self._run.cursor = None

    def _items(self) -> Iterator[Document]:
        after = self._run.cursor
        while True:
            query: Document = {"face_count": {"$gt": 0}}
            if after is not None:
                query["_id"] = {"$gt": after}
            with translate():
                rows = list(self._db[MEDIA].find(query).sort([("_id", 1)]).limit(PAGE))
                keys = [(row["collection"], row["media_id"]) for row in rows]
                lacking = self._lacking(keys)
            for row in rows:
                if (row["collection"], row["media_id"]) in lacking:
                    yield row
            if len(rows) < PAGE:
                return
            after = rows[-1]["_id"]

    def _lacking(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the items that have a face without the vector."""
        by_collection: dict[str, list[str]] = {}
        for collection, media_id in keys:
            by_collection.setdefault(collection, []).append(media_id)
        found = set()
        for collection, ids in by_collection.items():
            query = {
                **missing_query(self._key),
                "collection": collection,
                "media_id": {"$in": ids},
            }
            for row in self._db[FACES].find(query, {"media_id": 1}):
                found.add((collection, row["media_id"]))
        return found

    @property
    def _db(self) -> Db:
        return self._run.store.db

    def _item(self, media: Document) -> None:
        query = {
            **missing_query(self._key),
            "collection": media["collection"],
            "media_id": media["media_id"],
        }
        with translate():
            found = self._db[FACES].find(query, documents.FACE_FIELDS)
            faces = [row for row in found.sort([("_id", 1)]) if row["_id"] not in self.failed]
        if not faces:
            return
        data = self._tools.read(documents.item_record(media))
        whole = data is not None and hashlib.sha256(data).hexdigest() == media.get("sha256")
        if data is not None and whole and self._embed(faces, data, faces):
            return
        for face in faces:
            with translate():
                crop = self._db[CROPS].find_one({"_id": face["_id"]})
            if crop is not None and self._embed([face], bytes(crop["jpeg"]), [in_crop(face, crop)]):
                continue
            self.failed.add(face["_id"])
            if data is None:
                detail = "The original cannot be read, and no crop of the face is kept."
            elif not whole:
                detail = "The original has changed: index it again."
            else:
                detail = "Neither the original nor a kept crop could be embedded."
            self._run.failure(face["_id"], "no_pixels", detail)

    def _embed(
        self, faces: Sequence[Document], data: bytes, placed: Sequence[Document | None]
    ) -> bool:
        """Whether all the faces, which lie in `data` as `placed` says, now have their vector."""
        detections = []
        for place in placed:
            if place is None:
                return False
            record = documents.face_detection(place)
            detections.append(record)
        try:
            analysis = self._tools.pipeline.embed_known(data, detections)
        except (ImageError, InvalidRequest):
            return False
        writes = [
            # A picture that was replaced meanwhile keeps what its own indexing gave it.
            UpdateOne(
                {"_id": face["_id"], "image_id": face["image_id"]},
                {
                    "$set": {
                        f"embeddings.{self._key}": documents.pack_vector(found.embedding),
                        f"builds.{self._key}": analysis.build,
                    }
                },
            )
            for face, found in zip(faces, analysis.faces, strict=True)
            if found.embedding is not None
        ]
        if len(writes) != len(faces):
            return False
        with translate():
            self._db[FACES].bulk_write(writes, ordered=False)
        self.done += len(writes)
        return True


def _tools(settings: Settings, key: str) -> Tools:
    from faces.addresses import media_origins
    from faces.fetch import Fetcher
    from faces.loading import load_pipeline
    from faces.originals import Originals, folders_of

    pipeline = load_pipeline(settings, key)
    fetcher = Fetcher(media_origins(settings))
    originals = Originals(folders_of(settings), fetcher)

    def close() -> None:
        pipeline.close()
        fetcher.close()

    def read(item: Item) -> bytes | None:
        return originals.read(item, max_bytes=settings.max_upload_bytes)

    return Tools(pipeline, read, close)
