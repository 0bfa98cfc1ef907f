"""The searches themselves: by vectors, by a stored face, by a subject."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pymongo

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
from faces.errors import Conflict, InvalidRequest, NotFound
from faces.records import ActiveModel, Match, MediaSummary
from faces.search import Found, SearchRequest
from faces.search_rounds import SearchRounds
from faces.store_lists import ListStore
from faces.types import Vector
from faces.watch import Watch

SUBJECT_FACES = 5
"""A subject is searched by so many of its faces, the best in quality."""
_SIZE_FOR_S = 10.0


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
        one = SearchRounds(
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
            if request.group_by != "face":
                faces = self._with_metadata(faces)
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

    def _with_metadata(self, faces: Sequence[Sequence[Match]]) -> list[list[Match]]:
        """The matches with their faces' metadata, which rows by groups come without."""
        ids = sorted({match.face_id for matches in faces for match in matches})
        stored: dict[str, Any] = {}
        if ids:
            with translate():
                found = self._db[FACES].find({"_id": {"$in": ids}}, {"metadata": 1})
                stored = {row["_id"]: row.get("metadata") or {} for row in found}
        return [
            [replace(match, metadata=stored.get(match.face_id, {})) for match in matches]
            for matches in faces
        ]

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
