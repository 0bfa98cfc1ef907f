"""Looks for contradictions in what is stored, and mends them when asked to.

Two passes by pages, items and then faces, each page with the few reads that it needs. What belongs
to a source is mended by forgetting what it looked like, so that its next reconcile makes it anew.
Others write meanwhile: what looks wrong is looked at again, all of it at one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo import DeleteOne, UpdateOne
from pymongo.errors import DuplicateKeyError

from faces import documents, identity
from faces.canary import COLLECTION as CANARIES
from faces.database import (
    BULK,
    CROPS,
    FACES,
    MEDIA,
    SUBJECTS,
    TOMBSTONES,
    Db,
    Document,
    Raced,
    Session,
    in_transaction,
    translate,
)
from faces.errors import NotFound
from faces.models.cards import CARDS
from faces.records import API_SOURCE, ActiveModel
from faces.store_removal import RemovalStore
from faces.types import PIPELINE_VERSION, Box

EXAMPLES = 5
NAMES = (
    "orphan_faces",
    "media_without_faces",
    "stale_model",
    "stale_pipeline",
    "dangling_subjects",
    "tombstone_violations",
    "wrong_vectors",
)
_DELETES = ("orphan_faces", "tombstone_violations")
"""A face of which this is found goes, with its crop."""
_MENDED = (*_DELETES, "dangling_subjects", "wrong_vectors")
"""What is found of a face and changes the face itself."""
_AT_ONCE = 50
"""So many faces are mended in one transaction."""


@dataclass(slots=True)
class Finding:
    """One kind of contradiction: how often, the ids of the first few, and how many were mended."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    fixed: int = 0

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"count": self.count, "examples": self.examples, "fixed": self.fixed}


class Audit:
    """One audit of a collection, or of all of them when it is None."""

    def __init__(self, db: Db, active: ActiveModel, *, collection: str | None, fix: bool) -> None:
        self._db = db
        self._active = active
        canary: Document = {"$ne": CANARIES}
        self._scope: Document = {"collection": canary if collection is None else collection}
        self._fix = fix
        self.findings = {name: Finding() for name in NAMES}

    def total(self) -> int:
        """How many documents an audit looks at."""
        with translate():
            return self._db[FACES].count_documents(self._scope) + self._db[MEDIA].count_documents(
                self._scope
            )

    def run(self, progress: Callable[[int], None]) -> dict[str, Finding]:
        """The findings; `progress` is told after each page how many documents were looked at."""
        done = 0
        for check, collection in ((self._media, MEDIA), (self._faces, FACES)):
            for page in self._pages(collection):
                with translate():
                    check(page)
                done += len(page)
                progress(done)
        return self.findings

    def _pages(self, collection: str) -> Iterator[list[Document]]:
        after: Any = None
        while True:
            query = dict(self._scope) | ({} if after is None else {"_id": {"$gt": after}})
            with translate():
                page = list(self._db[collection].find(query).sort("_id", 1).limit(BULK))
            if page:
                yield page
            if len(page) < BULK:
                return
            after = page[-1]["_id"]

    def _faces(self, page: Sequence[Document]) -> None:
        found, owners = self._judge(page, None)
        again = set()
        doubtful = []
        for face, key, name in found:
            if name in _MENDED:
                doubtful.append(face["_id"])
                continue
            self.findings[name].add(face["_id"])
            if owners[key] != API_SOURCE:
                again.add(key)
                self.findings[name].fixed += self._fix
        for start in range(0, len(doubtful), _AT_ONCE):
            again |= self._confirm(doubtful[start : start + _AT_ONCE])
        self._forget(again)

    def _judge(
        self, faces: Sequence[Document], session: Session | None
    ) -> tuple[list[tuple[Document, str, str]], dict[str, str]]:
        """Each face with a contradiction, its item and what it is; and the items' sources."""
        keys = {identity.media_key(f["collection"], f["media_id"]) for f in faces}
        live = {"_id": {"$in": sorted(keys)}, "state": {"$ne": "gone"}}
        owners = {
            row["_id"]: row["source"]
            for row in self._db[MEDIA].find(live, {"source": 1}, session=session)
        }
        stones = self._stones(faces, session)
        subjects = self._subjects(faces, session)
        found = []
        for face in faces:
            key = identity.media_key(face["collection"], face["media_id"])
            name = self._face(face, key, owners, subjects, stones)
            if name is not None:
                found.append((face, key, name))
        return found, owners

    def _confirm(self, ids: Sequence[str]) -> set[str]:
        """Looks at faces again and mends them; the items that are to be made anew.

        In one transaction: a face that was deleted, or put again, since the page was read is not
        taken for a contradiction, and nothing that is written now goes by mistake.
        """

        def work(session: Session) -> tuple[list[tuple[Document, str, str]], dict[str, str]]:
            faces = list(self._db[FACES].find({"_id": {"$in": list(ids)}}, session=session))
            found, owners = self._judge(faces, session) if faces else ([], {})
            if self._fix:
                self._mend(found, owners, session)
            return found, owners

        found, owners = in_transaction(self._db, work)
        again = set()
        for face, key, name in found:
            if name in _MENDED:
                self.findings[name].add(face["_id"])
                self.findings[name].fixed += self._fix
                if name == "wrong_vectors" and owners[key] != API_SOURCE:
                    again.add(key)
        return again

    def _mend(
        self,
        found: Sequence[tuple[Document, str, str]],
        owners: dict[str, str],
        session: Session,
    ) -> None:
        writes: list[DeleteOne | UpdateOne] = []
        going: list[DeleteOne] = []
        items: list[UpdateOne] = []
        for face, key, name in found:
            one = {"_id": face["_id"]}
            if name in _DELETES:
                going.append(DeleteOne(one))
                if key in owners:
                    items.append(UpdateOne({"_id": key}, {"$inc": {"face_count": -1, "rev": 1}}))
            elif name == "dangling_subjects":
                self._hold_back(face["collection"], face["subject_id"], session)
                writes.append(UpdateOne(one, {"$set": {"subject_id": None}}))
            elif name == "wrong_vectors":
                # Without it the face lacks the model's vector, which indexing or reembed supply.
                paths = [f"{part}.{m}" for m in _unfit(face) for part in ("embeddings", "builds")]
                writes.append(UpdateOne(one, {"$unset": dict.fromkeys(paths, "")}))
                items.append(UpdateOne({"_id": key}, {"$inc": {"rev": 1}}))
        for where, ops in ((CROPS, going), (FACES, [*going, *writes]), (MEDIA, items)):
            if ops:
                self._db[where].bulk_write(ops, ordered=False, session=session)

    def _hold_back(self, collection: str, subject_id: str, session: Session) -> None:
        """Lets nobody create this subject at this very moment; Raced where somebody has."""
        key = {"_id": identity.subject_key(collection, subject_id)}
        try:
            self._db[SUBJECTS].insert_one(
                {**key, "collection": collection, "subject_id": subject_id}, session=session
            )
        except DuplicateKeyError as error:
            raise Raced from error
        self._db[SUBJECTS].delete_one(key, session=session)

    def _face(
        self,
        face: Document,
        key: str,
        owners: dict[str, str],
        subjects: dict[str, str],
        stones: dict[str, list[Box]],
    ) -> str | None:
        """The first contradiction about one face, none while it waits for its erasure."""
        subject = face["subject_id"]
        person = subject and identity.subject_key(face["collection"], subject)
        if subjects.get(person) == "erasing":
            return None
        if key not in owners:
            return "orphan_faces"
        if identity.overlaps(documents.relative_box(face), stones.get(key, [])):
            return "tombstone_violations"
        if subject is not None and person not in subjects:
            return "dangling_subjects"
        if _unfit(face):
            return "wrong_vectors"
        if (face.get("builds") or {}).get(self._active.key) != self._active.build:
            return "stale_model"
        return None

    def _media(self, page: Sequence[Document]) -> None:
        live = [row for row in page if row["state"] != "gone"]
        counts = self._face_counts(live)
        stones = {
            row["_id"].removeprefix("item/")
            for row in self._db[TOMBSTONES].find(
                {"_id": {"$in": [f"item/{row['_id']}" for row in live]}}, {"_id": 1}
            )
        }
        again: set[str] = set()
        wrong = [
            row
            for row in live
            if row["_id"] in stones
            or (row["state"] == "done" and counts.get(row["_id"], 0) != row["face_count"])
        ]
        steady = self._steady(wrong)
        for row in live:
            if row["_id"] in steady and row["_id"] in stones:
                self.findings["tombstone_violations"].add(row["_id"])
                self.findings["tombstone_violations"].fixed += self._bury(row)
            elif row["_id"] in steady:
                self._found_item("media_without_faces", row, again)
            elif (
                row["state"] in ("done", "no_face")
                and row.get("pipeline_version") != PIPELINE_VERSION
            ):
                self._found_item("stale_pipeline", row, again)
        self._forget(again)

    def _steady(self, rows: Sequence[Document]) -> set[str]:
        """Those of the items that nobody has changed since they were read."""
        if not rows:
            return set()
        as_read = {row["_id"]: row["rev"] for row in rows}
        now = self._db[MEDIA].find({"_id": {"$in": sorted(as_read)}}, {"rev": 1})
        return {row["_id"] for row in now if row["rev"] == as_read[row["_id"]]}

    def _found_item(self, name: str, row: Document, again: set[str]) -> None:
        self.findings[name].add(row["_id"])
        if row["source"] != API_SOURCE:
            again.add(row["_id"])
            self.findings[name].fixed += self._fix

    def _face_counts(self, live: Sequence[Document]) -> dict[str, int]:
        pairs = [{"collection": row["collection"], "media_id": row["media_id"]} for row in live]
        if not pairs:
            return {}
        by = {"collection": "$collection", "media_id": "$media_id"}
        media = {pair["media_id"] for pair in pairs}
        names = {pair["collection"] for pair in pairs}
        rows = self._db[FACES].aggregate(
            [
                {
                    "$match": {
                        "collection": {"$in": sorted(names)},
                        "media_id": {"$in": sorted(media)},
                    }
                },
                {"$group": {"_id": by, "count": {"$sum": 1}}},
            ]
        )
        return {
            identity.media_key(row["_id"]["collection"], row["_id"]["media_id"]): row["count"]
            for row in rows
        }

    def _subjects(self, page: Sequence[Document], session: Session | None) -> dict[str, str]:
        """The states of the subjects of these faces."""
        keys = {
            identity.subject_key(f["collection"], f["subject_id"])
            for f in page
            if f["subject_id"] is not None
        }
        of_faces = {"_id": {"$in": sorted(keys)}}
        found = self._db[SUBJECTS].find(of_faces, {"state": 1}, session=session)
        return {row["_id"]: row["state"] for row in found} if keys else {}

    def _stones(self, page: Sequence[Document], session: Session | None) -> dict[str, list[Box]]:
        """The relative boxes that may hold no face, by item."""
        query = {
            "collection": {"$in": sorted({f["collection"] for f in page})},
            "media_id": {"$in": sorted({f["media_id"] for f in page})},
            "kind": {"$in": ["face", "person"]},
        }
        stones: dict[str, list[Box]] = {}
        for row in self._db[TOMBSTONES].find(query, session=session):
            key = identity.media_key(row["collection"], row["media_id"])
            stones.setdefault(key, []).append(Box(*row["box"]))
        return stones

    def _bury(self, row: Document) -> int:
        """Delete an item that a tombstone forbids, with its faces; how many items went."""
        if not self._fix:
            return 0
        try:
            RemovalStore(self._db).delete(
                row["collection"],
                row["media_id"],
                source=API_SOURCE,
                tombstone=True,
                fence=None,
                buried=True,
            )
        except NotFound:
            return 0  # deleted meanwhile, or put again, which lifted the tombstone
        return 1

    def _forget(self, keys: set[str]) -> None:
        """Let the next reconcile of these items' source read and look at them again."""
        if not self._fix:
            return
        ids = sorted(keys)
        for start in range(0, len(ids), BULK):
            self._db[MEDIA].bulk_write(
                [
                    UpdateOne(
                        {"_id": key, "source": {"$ne": API_SOURCE}},  # by now perhaps the API's
                        {"$unset": {"etag": "", "sha256": ""}, "$inc": {"rev": 1}},
                    )
                    for key in ids[start : start + BULK]
                ],
                ordered=False,
            )


def states(db: Db, source: str, collection: str) -> dict[str, int]:
    """How many items of a source are in each state, failed ones by their class."""
    of_source = {"source": source, "collection": collection}
    key = {"$cond": [{"$eq": ["$state", "failed"]}, "$error.class", "$state"]}
    with translate():
        rows = db[MEDIA].aggregate(
            [
                {"$match": of_source},
                {"$group": {"_id": {"state": "$state", "what": key}, "count": {"$sum": 1}}},
            ]
        )
        return {
            f"failed: {row['_id'].get('what')}"
            if row["_id"]["state"] == "failed"
            else row["_id"]["state"]: row["count"]
            for row in rows
        }


def _unfit(face: Document) -> list[str]:
    """The models, of those that this release knows, whose vector has another size or length."""
    return [
        model
        for model, stored in (face.get("embeddings") or {}).items()
        if model in CARDS and not _fits(stored, CARDS[model].dimensions)
    ]


def _fits(stored: Any, dimensions: int) -> bool:
    try:
        vector = documents.unpack_vector(stored)
    except (ValueError, TypeError):
        return False
    return vector.shape == (dimensions,) and abs(float((vector * vector).sum()) - 1.0) < 0.01
