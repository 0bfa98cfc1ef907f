"""The searches themselves: by vectors, by a stored face, by a subject."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pymongo
from pymongo.errors import OperationFailure

from faces import documents, identity, search
from faces.database import (
    FACES,
    MEDIA,
    SEARCH_TIMEOUT_S,
    SUBJECTS,
    Db,
    Document,
    translate,
)
from faces.errors import Conflict, IndexNotReady, InvalidRequest, NotFound
from faces.records import ActiveModel, Match, MediaSummary
from faces.search import Found, SearchRequest
from faces.store_lists import ListStore
from faces.types import Vector
from faces.watch import Watch

SUBJECT_FACES = 5
"""A subject is searched by so many of its faces, the best in quality."""
_SIZE_FOR_S = 10.0
_SLACK = 3
"""Rows fetched beyond the limit, as some are dropped by what their documents say now.

Where more are dropped another round makes up for it."""


class Finder:
    """Answers searches. One per process; safe to share by threads."""

    def __init__(self, db: Db, watch: Watch) -> None:
        self._db = db
        self._watch = watch
        self._lists = ListStore(db)
        self._sizes: dict[str, tuple[float, int]] = {}

    def vectors(
        self, request: SearchRequest, vectors: Sequence[Vector], active: ActiveModel | None = None
    ) -> Found:
        """The matches of each vector, which is of the active model and of unit length.

        `active` is the model with which the caller began; a search never mixes two. Raises
        NotFound (collection), IndexNotReady, InvalidRequest (length), DatabaseUnavailable.
        """
        active = active or self._watch.require_active()
        if not vectors:
            self._lists.check_collection(request.collection)
        return self._search(request, [[vector] for vector in vectors], active)

    def by_face(
        self, request: SearchRequest, face_id: str, active: ActiveModel | None = None
    ) -> Found:
        """What looks like a stored face. Raises NotFound; Conflict when it lacks the vector."""
        active = active or self._watch.require_active()
        path = search.vector_path(active.key)
        with translate():
            face = self._db[FACES].find_one(
                {"_id": face_id, "collection": request.collection},
                {path: 1, "subject_id": 1, "hidden": 1},
            )
        if face is None:
            raise NotFound("There is no such face.")
        stored = (face.get("embeddings") or {}).get(active.key)
        if stored is None or face["hidden"]:
            self._lists.face(face_id)  # one that is being erased is not there
            raise Conflict("This face has no vector of the active model: index its picture again.")
        # The face's own row is dropped afterwards: an id is no filter of the index.
        own = {} if request.include_own else {"_id": {"$ne": face_id}}
        vector = documents.unpack_vector(stored)
        return self._search(request, [[vector]], active, own=own, asker=face["subject_id"])

    def by_subject(
        self, request: SearchRequest, subject_id: str, active: ActiveModel | None = None
    ) -> Found:
        """What looks like a person, by up to five of their faces, merged by the best similarity.

        Raises NotFound; InvalidRequest when the subject has no face to search by.
        """
        active = active or self._watch.require_active()
        self._lists.check_collection(request.collection)
        key = identity.subject_key(request.collection, subject_id)
        with translate():
            subject = self._db[SUBJECTS].find_one({"_id": key}, {"state": 1, "rejected": 1})
        if subject is None or subject["state"] != "active":
            raise NotFound("There is no such subject.")
        rows = self._vectors_of(
            {"collection": request.collection, "subject_id": subject_id}, active, SUBJECT_FACES
        )
        if not rows:
            raise InvalidRequest.field("subject_id", "has no face of the active model yet")
        own: Document = {}
        if not request.include_own:
            own = {"subject_id": {"$ne": subject_id}}
        rejected = frozenset(subject.get("rejected") or ())
        vectors = [[vector for _, vector in rows]]
        return self._search(request, vectors, active, own=own, rejected=rejected)

    def stored(
        self,
        collection: str,
        active: ActiveModel,
        *,
        face_ids: Sequence[str] | None = None,
        subject_id: str | None = None,
        limit: int = SUBJECT_FACES,
    ) -> dict[str, Vector]:
        """The stored vectors of some faces, or of a subject's best faces, by face id."""
        query: Document = {"collection": collection}
        if face_ids is not None:
            query["_id"] = {"$in": list(face_ids)}
        if subject_id is not None:
            query["subject_id"] = subject_id
        return dict(self._vectors_of(query, active, limit))

    def _vectors_of(
        self, query: Document, active: ActiveModel, limit: int
    ) -> list[tuple[str, Vector]]:
        path = search.vector_path(active.key)
        with translate():
            found = self._db[FACES].find(
                {**query, "hidden": False, path: {"$exists": True}}, {path: 1}
            )
            rows = list(found.sort([("quality", -1), ("_id", 1)]).limit(limit))
        return [
            (row["_id"], documents.unpack_vector(row["embeddings"][active.key])) for row in rows
        ]

    def _search(
        self,
        request: SearchRequest,
        queries: Sequence[Sequence[Vector]],
        active: ActiveModel,
        own: Mapping[str, Any] | None = None,
        rejected: frozenset[str] = frozenset(),
        asker: str | None = None,
    ) -> Found:
        """`asker` is the subject of the stored face that is searched by."""
        self._watch.ensure_queryable(active.index)
        size = self._size(request.collection)
        one = _OneSearch(
            self._db,
            request,
            active,
            own=dict(own or {}),
            rejected=rejected,
            exact=request.exact or size <= search.EXACT_UP_TO,
            size=size,
        )
        faces: list[list[Match]] = []
        complete = True
        with pymongo.timeout(SEARCH_TIMEOUT_S):
            for vectors in queries:
                lists = []
                for vector in vectors:
                    matches, whole = one.run(vector)
                    lists.append(matches)
                    complete &= whole
                merged = search.best_of_groups(search.merge(lists), request.group_by)
                faces.append(merged[: request.limit])
            if one.silent_since is not None:
                # An index that was dropped or is being built anew answers nothing, without error.
                self._watch.recheck(active.index, since=one.silent_since)
            if asker in one.erasing:
                raise NotFound("There is no such face.")
            named = self._named(faces, one.deleting)
        if request.exclusive and len(named) > 1:
            named = search.claim_once(named)
        return Found(active.key, tuple(tuple(matches) for matches in named), complete)

    def _size(self, collection: str) -> int:
        """How many faces a collection has, one more than EXACT_UP_TO at most; seconds old."""
        now = time.monotonic()
        at, size = self._sizes.get(collection, (-1e9, 0))
        if now - at > _SIZE_FOR_S:
            with translate():
                size = self._db[FACES].count_documents(
                    {"collection": collection}, limit=search.EXACT_UP_TO + 1
                )
            if len(self._sizes) > 1000:
                self._sizes.clear()
            self._sizes[collection] = (now, size)
        return size

    def _named(
        self, faces: Sequence[Sequence[Match]], deleting: frozenset[str]
    ) -> tuple[tuple[Match, ...], ...]:
        """The matches with what their pictures and subjects are called."""
        every = [match for matches in faces for match in matches]
        if not every:
            return tuple(tuple(matches) for matches in faces)
        media = {identity.media_key(m.collection, m.media_id) for m in every}
        subjects = {identity.subject_key(m.collection, m.subject_id) for m in every if m.subject_id}
        pictures, names = self._titles(sorted(media), sorted(subjects))

        def named(match: Match) -> Match:
            subject = None if match.subject_id in deleting else match.subject_id
            return replace(
                match,
                subject_id=subject,
                subject=names.get(identity.subject_key(match.collection, subject))
                if subject
                else None,
                media=pictures.get(
                    identity.media_key(match.collection, match.media_id), MediaSummary()
                ),
            )

        return tuple(tuple(named(match) for match in matches) for matches in faces)

    def _titles(
        self, media: Sequence[str], subjects: Sequence[str]
    ) -> tuple[dict[str, MediaSummary], dict[str, str | None]]:
        """What pictures and subjects are called, by key, read by one command."""
        stages: list[Document] = [
            {"$match": {"_id": {"$in": media}}},
            {"$project": {"url": 1, "title": 1, "taken_at": 1}},
        ]
        if subjects:
            people: list[Document] = [
                {"$match": {"_id": {"$in": subjects}, "state": "active"}},
                {"$project": {"name": 1, "subject": {"$literal": True}}},
            ]
            stages.append({"$unionWith": {"coll": SUBJECTS, "pipeline": people}})
        pictures, names = {}, {}
        with translate():
            for row in self._db[MEDIA].aggregate(stages):
                if row.get("subject"):
                    names[row["_id"]] = row.get("name")
                else:
                    pictures[row["_id"]] = MediaSummary(
                        row.get("url"), row.get("title"), row.get("taken_at")
                    )
        return pictures, names


class _OneSearch:
    """The rounds of one query vector."""

    def __init__(
        self,
        db: Db,
        request: SearchRequest,
        active: ActiveModel,
        *,
        own: Document,
        rejected: frozenset[str],
        exact: bool,
        size: int,
    ) -> None:
        self._db = db
        self._request = request
        self._active = active
        self._own = own
        self._rejected = rejected
        self._exact = exact
        self._size = size
        self.erasing: frozenset[str] = frozenset()
        self.deleting: frozenset[str] = frozenset()
        """The subjects that are being erased, and deleted, as of the latest round."""
        self.silent_since: float | None = None
        """When the latest round began in which the index gave no row at all."""

    def run(self, vector: Vector) -> tuple[list[Match], bool]:
        """Matches at or above the least similarity, and whether no group can be missing."""
        request = self._request
        grouped = request.group_by != "face"
        slack = _SLACK + len(self._rejected)
        most = max(search.MAX_ROWS, request.limit + slack)
        fetch = min(most, request.limit * (10 if grouped else 1) + slack)
        # A subject's own faces can be many: they are excluded in the index, not afterwards.
        exclude: list[Document] = [self._own] if "subject_id" in self._own else []
        found: list[Match] = []
        rounds = 1 + search.MORE_ROUNDS
        for number in range(rounds):
            rows, returned, last = self._round(vector, fetch, exclude)
            found = search.merge([found, rows])
            groups = search.best_of_groups(found, request.group_by)
            exhausted = last < request.min_similarity or (
                # Documents that are gone already may have taken up the places of others: once
                # more with room for both, where the collection holds more than was returned.
                returned < fetch and (number > 0 or returned >= self._size)
            )
            if exhausted or len(groups) >= request.limit:
                return self._kept(found), True
            if number == rounds - 1:
                break
            fetch = most
            if grouped:
                exclude = self._beyond(groups, exclude)
        return self._kept(found), False

    def _kept(self, found: Iterable[Match]) -> list[Match]:
        least = self._request.min_similarity
        return [match for match in found if match.similarity >= least]

    def _beyond(self, groups: Sequence[Match], exclude: list[Document]) -> list[Document]:
        """The clauses that keep the groups found so far out of the next round."""
        if self._request.group_by == "media":
            return [*exclude[:1], {"media_id": {"$nin": sorted({m.media_id for m in groups})}}]
        subjects = sorted({match.subject_id for match in groups if match.subject_id})
        own = [self._own] if "subject_id" in self._own else []
        return [*own, {"subject_id": {"$nin": subjects}}] if subjects else own

    def _round(
        self, vector: Vector, fetch: int, exclude: Sequence[Document]
    ) -> tuple[list[Match], int, float]:
        """Matches, how many rows the index gave, and the last row's similarity.

        Raises NotFound when the collection is not there, or no longer.
        """
        request, active = self._request, self._active
        stage = search.vector_stage(
            active.index,
            search.vector_path(active.key),
            vector,
            fetch,
            self._exact,
            search.stage_filter(request, exclude),
        )
        stages = search.pipeline(stage, request)
        began = time.monotonic()
        with translate():
            try:
                rows, scope = search.split(self._db[FACES].aggregate(stages))
            except OperationFailure as error:
                raise _index_error(error, active) from error
        if not scope.exists:
            raise NotFound("There is no such collection.")
        self.erasing, self.deleting = scope.erasing, scope.deleting
        if not rows:
            self.silent_since = began
        cosines = self._recomputed(vector, rows) if active.quantization != "none" else {}
        last = search.similarity(rows[-1]["score"]) if rows else 1.0
        matches = []
        for row in rows:
            if row["_id"] in self._rejected:
                continue
            if not search.still_fits(row, request, scope.erasing, self._own):
                continue
            match = _match(row)
            if row["_id"] in cosines:
                match = search.with_similarity(match, cosines[row["_id"]])
            matches.append(match)
        return matches, len(rows), last

    def _recomputed(self, vector: Vector, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The true cosines: a quantised index gives approximate scores."""
        path = search.vector_path(self._active.key)
        ids = [row["_id"] for row in rows]
        cosines = {}
        with translate():
            for row in self._db[FACES].find({"_id": {"$in": ids}}, {path: 1}):
                stored = (row.get("embeddings") or {}).get(self._active.key)
                if stored is not None:
                    cosine = float(documents.unpack_vector(stored) @ vector)
                    cosines[row["_id"]] = max(-1.0, min(1.0, cosine))
        return cosines


def _match(row: Mapping[str, Any]) -> Match:
    return Match(
        face_id=row["_id"],
        media_id=row["media_id"],
        image_id=row["image_id"],
        collection=row["collection"],
        subject_id=row["subject_id"],
        subject=None,
        similarity=search.similarity(row["score"]),
        score=float(row["score"]),
        box=documents.box_record(row["box"]),
        metadata=row.get("metadata") or {},
    )


def _index_error(error: OperationFailure, active: ActiveModel) -> Exception:
    text = str(error)
    if "cannot query vector index" in text or "INITIAL_SYNC" in text or "NOT_STARTED" in text:
        return IndexNotReady(f"The vector index {active.index} is being built.")
    if "dimensions but queried with" in text:
        return InvalidRequest.field(
            "vector", f"does not have the length of a vector of {active.key}"
        )
    if "is not indexed as vector" in text or "needs to be indexed" in text:
        return IndexNotReady(
            f"The vector index {active.index} is not as this version needs it: "
            "run `python -m migrations up`."
        )
    return error
