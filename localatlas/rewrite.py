"""The aggregate that the backend runs in place of one with our stages. Pure.

`$vectorSearch` becomes: match the best ids, give each its rank, sort by it, drop it. Where a later
stage reads `{$meta: "vectorSearchScore"}`, the score travels in a hidden field up to the last such
stage and is removed there, so that no client sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from localatlas.errors import CommandError, failure
from localatlas.pipeline import LIST_INDEXES, VECTOR_SEARCH, sub_pipelines

Document = dict[str, Any]
Pipeline = list[Document]
Hit = tuple[Any, float]

SCORE = "__localatlas_score"
RANK = "__localatlas_rank"
# What `{$meta: …}` gives behind a vector search: its score; nothing, where the server does not look
# beforehand whether it is there; an error, with the server's name for it, where it does.
SCORES = {"vectorSearchScore": "$vectorSearch distance", "score": "score"}
MISSING = frozenset(
    {
        "geoNearDistance",
        "geoNearPoint",
        "indexKey",
        "recordId",
        "searchHighlights",
        "searchScoreDetails",
        "searchSequenceToken",
    }
)
NOT_AVAILABLE = {
    "scoreDetails": "scoreDetails",
    "searchScore": "$search score",
    "textScore": "text score",
}

KNOWN = SCORES.keys() | MISSING | NOT_AVAILABLE.keys() | {"sortKey", "randVal"}

META_UNKNOWN = 17308
META_NOT_AVAILABLE = 40218

# Documents of these stages are new ones: what was known about their sources ends here.
_FORGETTING = ("$group", "$bucket", "$bucketAuto", "$sortByCount", "$count", "$facet")
# Up to so many documents are found at once and then put in order; giving each its score as well is
# dearer than to look them up one by one (20 documents: 3.0 against 1.9 ms).
_LIST_UP_TO = 24
_LIST_SCORED_UP_TO = 4


def ours(stage: Mapping[str, Any]) -> bool:
    """Whether the front has to answer this stage."""
    return VECTOR_SEARCH in stage or LIST_INDEXES in stage


def mentions(pipeline: Any) -> bool:
    """Whether any stage of the pipeline or of its sub-pipelines is ours, wherever it stands."""
    return isinstance(pipeline, list) and any(
        isinstance(stage, dict)
        and (ours(stage) or any(mentions(inner) for _, inner in sub_pipelines(stage)))
        for stage in pipeline
    )


def searched(
    hits: Sequence[Hit], collection: str, rest: Pipeline, *, keep_score: bool = False
) -> Pipeline:
    """The pipeline for the backend: `hits` of `collection`, best first, then the stages `rest`.

    With `keep_score` the hidden field stays, for an outer pipeline that reads it.
    """
    rest = [_without_other_meta(stage) for stage in rest]
    last = len(rest) - 1 if keep_score else _last_reader(rest)
    out = _ranked(hits, collection, score=keep_score or last >= 0)
    for position, stage in enumerate(rest):
        if position < last or (keep_score and position == last):
            out += _carrying(stage)
        elif position == last:
            out += _last_carrying(stage)
        else:
            out.append(stage)
    return out


def reads_score(rest: Pipeline) -> bool:
    """Whether any of the stages reads the score of the documents that reach it."""
    return any(_reads_score(stage) for stage in rest)


def check_scores(pipeline: Any, *, searched: bool = False) -> None:
    """Raise CommandError where a stage reads a score that no search before it gives.

    `searched` says that the documents that reach the pipeline come from a search.
    """
    if not isinstance(pipeline, list):
        return
    for position, stage in enumerate(pipeline):
        if not isinstance(stage, dict):
            continue
        searched = searched or (not position and VECTOR_SEARCH in stage)
        if not searched and "vectorSearchScore" in _metas(stage):
            raise _no_meta(SCORES["vectorSearchScore"])
        for name, inner in sub_pipelines(stage):
            check_scores(inner, searched=searched and name == "$facet")


def _no_meta(what: str) -> CommandError:
    return failure(META_NOT_AVAILABLE, f"query requires {what} metadata, but it is not available")


def _last_reader(rest: Pipeline) -> int:
    """The position of the last stage that reads the score, or -1.

    Behind a stage that forgets it, the server refuses `score`, and finds `vectorSearchScore`
    missing as the hidden field then is.
    """
    last, forgotten = -1, False
    for position, stage in enumerate(rest):
        if _reads_score(stage):
            if forgotten and "score" in _metas(stage):
                raise _no_meta(SCORES["score"])
            last = position
        forgotten = forgotten or any(name in _FORGETTING for name in stage)
    return last


def _ranked(hits: Sequence[Hit], collection: str, *, score: bool) -> Pipeline:
    ids = [identity for identity, _ in hits]
    if len(hits) > (_LIST_SCORED_UP_TO if score else _LIST_UP_TO) or any(map(_is_odd, ids)):
        return _fetched(hits, collection, score=score)
    stages: Pipeline = [{"$match": {"_id": {"$in": ids}}}]
    if len(ids) < 2 and not score:
        return stages
    rank = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
    stages += [{"$set": {RANK: rank}}, {"$sort": {RANK: 1}}]
    if score:
        values = [value for _, value in hits]
        stages.append({"$set": {SCORE: {"$arrayElemAt": [{"$literal": values}, f"${RANK}"]}}})
    return [*stages, {"$unset": RANK}]


def _is_odd(identity: Any) -> bool:
    """Whether the engine does not find this `_id` in a list, or takes another for it."""
    return isinstance(identity, bool) or identity != identity


def _fetched(hits: Sequence[Hit], collection: str, *, score: bool) -> Pipeline:
    """Fetches the documents in order, one by one: looking each up in a list grows with its square.

    An id whose document is gone falls out.
    """
    wanted = [{"id": identity, "score": value} for identity, value in hits]
    document: Any = {"$mergeObjects": ["$_", {SCORE: "$score"}]} if score else "$_"
    lookup = {"from": collection, "localField": "id", "foreignField": "_id", "as": "_"}
    rest: Pipeline = [
        {"$lookup": lookup},
        {"$unwind": "$_"},
        {"$replaceRoot": {"newRoot": document}},
    ]
    return listed(wanted, rest)


def is_meta(value: Any) -> bool:
    """Whether this is the score, wanted."""
    return _meta_name(value) in SCORES


def _meta_name(value: Any) -> str | None:
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("$meta"), str):
        return str(value["$meta"])
    return None


def _reads_score(value: Any) -> bool:
    return any(name in SCORES for name in _metas(value))


def _metas(value: Any) -> Iterator[str]:
    """Yield what a stage or an expression wants of the documents' metadata."""
    name = _meta_name(value)
    if name is not None:
        yield name
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key != "$literal":
                yield from _metas(_outer_part(inner) if _own_context(key) else inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _metas(inner)


def _without_other_meta(stage: Document) -> Document:
    """`stage` with what no search gives made missing; CommandError where the server refuses it."""
    names = set(_metas(stage))
    for name in sorted(names & NOT_AVAILABLE.keys()):
        raise _no_meta(NOT_AVAILABLE[name])
    if unknown := names - KNOWN:
        raise failure(META_UNKNOWN, f"Unsupported argument to $meta: {min(unknown)}")
    return _mapped(stage, _missing) if names & MISSING else stage


def _missing(value: Any) -> Any:
    return "$$REMOVE" if _meta_name(value) in MISSING else None


def _own_context(name: str) -> bool:
    # Their sub-pipelines have documents, and scores, of their own.
    return name in ("$lookup", "$unionWith", "$graphLookup")


def _outer_part(joined: Any) -> Document:
    """What of the value of a stage with a context of its own is about the documents before it."""
    if not isinstance(joined, dict):
        return {}
    return {key: joined[key] for key in ("let", "startWith") if key in joined}


def _carrying(stage: Document) -> Pipeline:
    """`stage` with the score replaced by the hidden field, which it also lets through."""
    if len(stage) != 1:
        return [stage]
    name, value = next(iter(stage.items()))
    if name == "$sort" and isinstance(value, dict):
        keys = ((SCORE, -1) if is_meta(order) else (key, order) for key, order in value.items())
        return [{name: dict(keys)}]
    if name == "$facet" and isinstance(value, dict):
        return [{name: {key: _facet(sub) for key, sub in value.items()}}]
    if name == "$project" and isinstance(value, dict):
        return _projection(value)
    replaced = _replaced(value)
    if name in ("$replaceRoot", "$replaceWith"):
        root = replaced.get("newRoot") if name == "$replaceRoot" else replaced
        merged = {"$mergeObjects": [root, {SCORE: f"${SCORE}"}]}
        return [{name: {"newRoot": merged} if name == "$replaceRoot" else merged}]
    return [{name: replaced}]


def _last_carrying(stage: Document) -> Pipeline:
    """Like `_carrying`, but the hidden field ends here."""
    carried = _carrying(stage)
    name = next(iter(stage), "")
    if name == "$project" and isinstance(carried[-1][name], dict):
        projection = dict(carried[-1][name])
        if projection.pop(SCORE, None):
            return [{name: projection}]
    return carried if name in _FORGETTING else [*carried, {"$unset": SCORE}]


def _facet(pipeline: Any) -> Any:
    if not isinstance(pipeline, list):
        return pipeline
    return [*each(pipeline, _carrying), {"$unset": SCORE}]


def _projection(value: Document) -> Pipeline:
    scores = {key: f"${SCORE}" for key, inner in value.items() if is_meta(inner)}
    others = {key: inner for key, inner in value.items() if key not in scores}
    if value.keys() == {"_id"} and _excludes(value["_id"]):
        return [{"$project": value}]  # alone it leaves out `_id` and nothing else
    if any(_excludes(inner) for key, inner in others.items() if key != "_id"):
        # A projection cannot remove some fields and compute others: two stages can.
        return [*([{"$set": scores}] if scores else []), {"$project": others}]
    kept = {key: scores.get(key) or _replaced(inner) for key, inner in value.items()}
    return [{"$project": {**kept, SCORE: 1}}]


def _excludes(value: Any) -> bool:
    if isinstance(value, dict):
        return not any(key.startswith("$") for key in value) and any(map(_excludes, value.values()))
    return isinstance(value, bool | int | float) and not value


def _replaced(value: Any) -> Any:
    return _mapped(value, _hidden)


def _hidden(value: Any) -> Any:
    if is_meta(value):
        return f"${SCORE}"
    return _without_score() if value == "$$ROOT" or value == "$$CURRENT" else None


def _mapped(value: Any, replace: Callable[[Any], Any]) -> Any:
    """`value` with each part in its place of which `replace` makes anything but None."""
    made = replace(value)
    if made is not None:
        return made
    if isinstance(value, dict):
        return {name: _mapped_at(name, inner, replace) for name, inner in value.items()}
    return [_mapped(inner, replace) for inner in value] if isinstance(value, list) else value


def _mapped_at(name: str, value: Any, replace: Callable[[Any], Any]) -> Any:
    if name == "$literal":
        return value
    if _own_context(name):
        outer = _mapped(_outer_part(value), replace)
        return {**value, **outer} if outer else value
    return _mapped(value, replace)


def _without_score() -> Document:
    return {
        "$arrayToObject": {
            "$filter": {
                "input": {"$objectToArray": "$$ROOT"},
                "as": "pair",
                "cond": {"$ne": ["$$pair.k", SCORE]},
            }
        }
    }


def listed(documents: Sequence[Document], rest: Pipeline) -> Pipeline:
    """The pipeline that yields `documents`, whatever its collection holds, then `rest`.

    A facet has one document even of nothing; nothing is matched, since the engine would read the
    whole collection before it applied a limit.
    """
    return [
        {"$match": {"_id": {"$in": []}}},
        {"$facet": {"_": [{"$limit": 1}]}},
        {"$project": {"_": {"$literal": list(documents)}}},
        {"$unwind": "$_"},
        {"$replaceRoot": {"newRoot": "$_"}},
        *rest,
    ]


def each(pipeline: Pipeline, replace: Callable[[Document], Pipeline]) -> Pipeline:
    """`pipeline` with every stage replaced by what `replace` makes of it."""
    return [made for stage in pipeline for made in replace(stage)]
