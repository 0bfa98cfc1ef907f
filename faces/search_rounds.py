"""The rounds of one search: asked again where documents have moved on since the index was told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo.errors import OperationFailure

from faces import documents, search
from faces.database import FACES, Db, Document, translate
from faces.errors import IndexNotReady, InvalidRequest, NotFound
from faces.records import ActiveModel, Match
from faces.search import SearchRequest
from faces.types import Vector

_SLACK = 3
"""Rows fetched beyond the limit, as some are dropped by what their documents say now.

Where more are dropped another round makes up for it."""


class SearchRounds:
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
            exhausted = not search.reaches(last, request.min_similarity) or (
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
        return [match for match in found if search.reaches(match.similarity, least)]

    def _beyond(self, groups: Sequence[Match], exclude: list[Document]) -> list[Document]:
        """The clauses that keep the groups found so far out of the next round."""
        own = [self._own] if "subject_id" in self._own else []
        name = "media_id" if self._request.group_by == "media" else "subject_id"
        seen = sorted({value for match in groups if (value := getattr(match, name))})
        # The index takes no empty list: everything that it gave may be gone already.
        return [*own, {name: {"$nin": seen}}] if seen else own

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
