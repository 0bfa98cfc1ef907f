"""Pure builders of vector searches, and what is made of their rows. Nothing here does I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from faces import documents, filters
from faces.database import COLLECTIONS, SUBJECTS
from faces.records import DEFAULT_COLLECTION, Match
from faces.types import Vector

GroupBy: TypeAlias = Literal["face", "media", "subject"]
EXACT_UP_TO = 10_000
"""A collection of at most so many faces is searched exactly."""
MAX_ROWS = 1000
"""The most rows of one vector search."""
MORE_ROUNDS = 3
MAX_CANDIDATES = 10_000
FILTER_FIELDS = (
    "collection",
    "media_id",
    "subject_id",
    "image_id",
    "taken_at",
    "created_at",
    "hidden",
    "facets",
)

ROW_FIELDS = (
    "collection",
    "media_id",
    "image_id",
    "subject_id",
    "hidden",
    "box",
    "metadata",
)
"""What a search reads of a face; never its vectors."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is searched for, besides the vectors. `min_similarity` is a cosine."""

    collection: str = DEFAULT_COLLECTION
    limit: int = 10
    min_similarity: float = -1.0
    group_by: GroupBy = "face"
    filter: filters.Filter | None = None
    assigned: Literal["any", "none", "some"] = "any"
    exclusive: bool = True
    include_own: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Matches for each query face, best first. `complete` is false when groups may be missing."""

    model: str
    faces: tuple[tuple[Match, ...], ...]
    complete: bool = True


def vector_path(model: str) -> str:
    """Where a face keeps its vector of a model."""
    return f"embeddings.{model}"


def index_name(model: str, version: int = 1) -> str:
    """The name of a model's vector index: model and version of the definition."""
    return f"faces_{re.sub(r'[^A-Za-z0-9]', '_', model)}_v{version}"


def index_definition(
    model: str, dimensions: int, quantization: str = "none", similarity: str = "cosine"
) -> dict[str, Any]:
    """The vector index's definition. It never depends on user data."""
    vector: dict[str, Any] = {
        "type": "vector",
        "path": vector_path(model),
        "numDimensions": dimensions,
        "similarity": similarity,
    }
    if quantization != "none":
        vector["quantization"] = quantization
    return {"fields": [vector, *({"type": "filter", "path": path} for path in FILTER_FIELDS)]}


def candidates(fetched: int) -> int:
    """numCandidates for a search that fetches so many rows."""
    return min(MAX_CANDIDATES, max(200, 20 * fetched))


def vector_stage(
    index: str,
    path: str,
    vector: Vector,
    limit: int,
    exact: bool,
    filter: Mapping[str, Any],
) -> dict[str, Any]:
    """The $vectorSearch stage for one unit vector."""
    spec: dict[str, Any] = {
        "index": index,
        "path": path,
        "queryVector": documents.pack_vector(vector),
        "limit": limit,
        "filter": dict(filter),
    }
    if exact:
        spec["exact"] = True
    else:
        spec["numCandidates"] = candidates(limit)
    return {"$vectorSearch": spec}


def stage_filter(
    request: SearchRequest, exclude: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The stage's filter: collection, visible rows, `assigned`, `exclude` and the client's own."""
    clauses: list[dict[str, Any]] = [
        {"collection": {"$eq": request.collection}},
        {"hidden": {"$eq": False}},
    ]
    if request.assigned == "none":
        clauses.append({"subject_id": {"$eq": None}})
    if request.assigned == "some":
        clauses.append({"subject_id": {"$ne": None}})
    clauses += [dict(clause) for clause in exclude]
    if request.filter is not None and (built := filters.build(request.filter)):
        clauses.append(built)
    return {"$and": clauses}


def pipeline(stage: dict[str, Any], request: SearchRequest) -> list[dict[str, Any]]:
    """The stage, without the vectors, and then the `Scope`: what decides over its rows, read last.

    One command, as a search should cost one way to the database and back. By groups a thousand rows
    are read for a few, and 8 KB of metadata for each would fill the memory: they come without.
    """
    name = request.collection
    fields = dict.fromkeys(ROW_FIELDS, 1)
    if request.group_by != "face":
        del fields["metadata"]
    leaving = {"collection": name, "state": {"$in": ["erasing", "deleting"]}}
    return [
        stage,
        {"$project": {**fields, "score": {"$meta": "vectorSearchScore"}}},
        {
            "$unionWith": {
                "coll": COLLECTIONS,
                "pipeline": [
                    {"$match": {"_id": name}},
                    {"$project": {"_id": 0, "scope": "collection", "deleting": 1}},
                ],
            }
        },
        {
            "$unionWith": {
                "coll": SUBJECTS,
                "pipeline": [
                    {"$match": leaving},
                    {"$project": {"_id": 0, "scope": "subject", "subject_id": 1, "state": 1}},
                ],
            }
        },
    ]


@dataclass(frozen=True, slots=True)
class Scope:
    """What decides over rows besides themselves, as of the moment they were read."""

    exists: bool
    """Whether the collection is there and not being deleted."""
    erasing: frozenset[str] = frozenset()
    deleting: frozenset[str] = frozenset()


def split(answer: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Scope]:
    """The rows of an answer to `pipeline`, best first, and the scope that came behind them."""
    rows, exists = [], False
    leaving: dict[str, set[str]] = {"erasing": set(), "deleting": set()}
    for one in answer:
        match one.get("scope"):
            case None:
                rows.append(one)
            case "collection":
                exists = not one.get("deleting")
            case _:
                leaving[one["state"]].add(one["subject_id"])
    return rows, Scope(exists, frozenset(leaving["erasing"]), frozenset(leaving["deleting"]))


def still_fits(
    row: Mapping[str, Any],
    request: SearchRequest,
    erasing: Collection[str],
    own: Mapping[str, Any],
) -> bool:
    """Whether a row, as it is stored now, belongs in the answer: the index may lag behind it.

    `erasing` are the subjects being erased; `own` is `{field: {"$ne": value}}` for the query's own
    faces.
    """
    if row["hidden"] or row["collection"] != request.collection:
        return False
    subject = row["subject_id"]
    if subject is not None and (subject in erasing or request.assigned == "none"):
        return False
    if subject is None and request.assigned == "some":
        return False
    return all(row[field] != clause["$ne"] for field, clause in own.items())


def similarity(score: float) -> float:
    """The cosine behind Atlas's score, in [-1, 1]."""
    return max(-1.0, min(1.0, 2.0 * score - 1.0))


def reaches(cosine: float, least: float) -> bool:
    """Whether a cosine reaches a threshold, judged as it is told: with six decimals.

    The same picture twice is 0.9999999 as often as 1, and what was told as 0.812346 is asked for.
    """
    return round(cosine, 6) >= least


def score(cosine: float) -> float:
    """Atlas's score of a cosine, in [0, 1]."""
    return max(0.0, min(1.0, (1.0 + cosine) / 2.0))


def group_key(match: Match, group_by: GroupBy) -> str:
    """What a match is grouped under; a face without a subject is a group of its own."""
    if group_by == "media":
        return match.media_id
    if group_by == "subject" and match.subject_id is not None:
        return f"subject/{match.subject_id}"
    return f"face/{match.face_id}"


def best_of_groups(matches: Iterable[Match], group_by: GroupBy) -> list[Match]:
    """The best match of each group, best first, ties by face id."""
    best: dict[str, Match] = {}
    for match in in_order(matches):
        best.setdefault(group_key(match, group_by), match)
    return list(best.values())


def in_order(matches: Iterable[Match]) -> list[Match]:
    """Matches by falling similarity, ties by face id."""
    return sorted(matches, key=lambda match: (-match.similarity, match.face_id))


def merge(lists: Iterable[Iterable[Match]]) -> list[Match]:
    """One list of matches with the highest similarity of each face."""
    best: dict[str, Match] = {}
    for match in (match for matches in lists for match in matches):
        old = best.get(match.face_id)
        if old is None or match.similarity > old.similarity:
            best[match.face_id] = match
    return in_order(best.values())


def claim_once(faces: Sequence[Sequence[Match]]) -> tuple[tuple[Match, ...], ...]:
    """The matches of several faces of one photo, where no two faces claim one subject.

    The face with the highest similarity to a subject keeps that subject's matches; ties go to the
    face that comes first.
    """
    owner: dict[str, tuple[float, int]] = {}
    for index, matches in enumerate(faces):
        for match in matches:
            if match.subject_id is not None:
                claim = (match.similarity, -index)
                owner[match.subject_id] = max(owner.get(match.subject_id, claim), claim)
    return tuple(
        tuple(
            match
            for match in matches
            if match.subject_id is None or owner[match.subject_id][1] == -index
        )
        for index, matches in enumerate(faces)
    )


def with_similarity(match: Match, cosine: float) -> Match:
    """The match with a similarity that was recomputed from the stored vector."""
    return replace(match, similarity=cosine, score=score(cosine))
