"""Where the search stages may stand in a pipeline."""

from __future__ import annotations

from typing import Any

import pytest

from localatlas.errors import CommandError
from localatlas.pipeline import check_pipeline, check_pipelines_within

SEARCH = {"$vectorSearch": {"index": "i"}}
LIST: dict[str, Any] = {"$listSearchIndexes": {}}
MATCH: dict[str, Any] = {"$match": {}}


def union(*stages: Any) -> dict[str, Any]:
    return {"$unionWith": {"coll": "c", "pipeline": list(stages)}}


def lookup(*stages: Any) -> dict[str, Any]:
    return {"$lookup": {"from": "c", "as": "x", "pipeline": list(stages)}}


def facet(*stages: Any) -> dict[str, Any]:
    return {"$facet": {"a": [MATCH], "b": list(stages)}}


@pytest.mark.parametrize(
    "pipeline",
    [
        [],
        [MATCH],
        [SEARCH],
        [SEARCH, MATCH, facet(MATCH)],
        [union(SEARCH)],
        [SEARCH, union(SEARCH), union(SEARCH, union(SEARCH))],
        [{"$unionWith": "c"}, {"$lookup": {"from": "c", "localField": "a"}}],
        [LIST, {"$count": "n"}],
        [lookup(LIST)],
        [union(LIST)],
        "no pipeline",
        [1, None],
    ],
)
def test_allowed_places(pipeline: Any) -> None:
    check_pipeline(pipeline)


@pytest.mark.parametrize(
    ("pipeline", "code", "text"),
    [
        ([MATCH, SEARCH], 40602, "first stage"),
        ([SEARCH, SEARCH], 40602, "first stage"),
        ([{"$search": {}}, SEARCH], 40602, "first stage"),
        ([union(MATCH, SEARCH)], 40602, "first stage"),
        ([union(union(MATCH, SEARCH))], 40602, "first stage"),
        ([MATCH, LIST], 40602, "first stage"),
        ([lookup(SEARCH)], 51047, "$lookup"),
        ([lookup(MATCH, SEARCH)], 51047, "$lookup"),
        ([lookup(union(SEARCH))], 51047, "$lookup"),
        ([union(lookup(SEARCH))], 51047, "$lookup"),
        ([facet(SEARCH)], 40600, "$facet"),
        ([facet(union(SEARCH))], 40600, "$facet"),
        ([facet(LIST)], 40600, "$facet"),
        ([{"$vectorSearch": 1}], 9, "must be an object"),
        ([union({"$vectorSearch": 1})], 9, "must be an object"),
        ([{"$vectorSearch": {"limit": 0}}], 7912700, "positive"),
        ([union({"$vectorSearch": {"limit": "x"}})], 8575100, "number"),
        ([{"$vectorSearch": {"filter": {"$or": []}}}], 2, "empty"),
        ([{"$listSearchIndexes": "a"}], 9, "must be an object"),
        ([{"$listSearchIndexes": {"name": "a", "id": "b"}}], 72, "both 'name' and 'id'"),
        ([{"$listSearchIndexes": {"name": 5}}], 14, "expected type 'string'"),
        ([SEARCH, {"$set": {"m": "$$SEARCH_META"}}], 6347902, "SEARCH_META"),
        ([SEARCH, {"$project": {"m": ["$$SEARCH_META.count"]}}], 6347902, "SEARCH_META"),
    ],
)
def test_forbidden_places(pipeline: Any, code: int, text: str) -> None:
    with pytest.raises(CommandError) as caught:
        check_pipeline(pipeline)

    assert caught.value.code == code
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"create": "v", "viewOn": "c", "pipeline": [SEARCH]}, 167),
        ({"collMod": "v", "viewOn": "c", "pipeline": [union(SEARCH)]}, 167),
        ({"update": "c", "updates": [{"q": {}, "u": {"$set": {}}}, {"q": {}, "u": [SEARCH]}]}, 72),
        ({"findAndModify": "c", "query": {}, "update": [SEARCH]}, 72),
        ({"bulkWrite": 1, "ops": [{"update": 0, "filter": {}, "updateMods": [LIST]}]}, 72),
    ],
)
def test_views_and_updates_have_none_of_these_stages(command: Any, code: int) -> None:
    with pytest.raises(CommandError) as caught:
        check_pipelines_within(command)

    assert caught.value.code == code


@pytest.mark.parametrize(
    "command",
    [
        {"create": "c"},
        {"update": "c", "updates": [{"q": {}, "u": {"text": "$vectorSearch"}}]},
        {"findAndModify": "c", "remove": True, "query": {"a": "$vectorSearch"}},
        {"bulkWrite": 1, "ops": [{"insert": 0, "document": {"a": "$listSearchIndexes"}}]},
    ],
)
def test_commands_that_only_mention_them_go_on(command: Any) -> None:
    check_pipelines_within(command)


def test_a_pipeline_nested_too_deep_is_refused_and_not_followed() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]

    with pytest.raises(CommandError) as caught:
        check_pipeline([{"$match": {"a": deep}}, SEARCH])

    assert (caught.value.code, caught.value.name) == (15, "Overflow")


@pytest.mark.parametrize(
    ("context", "code"),
    [
        ({"in_transaction": True}, 263),
        ({"read_concern": "majority"}, 72),
        ({"update": True}, 72),
        ({"view": True}, 167),
        ({"api_strict": True}, 323),
    ],
)
def test_forbidden_contexts(context: dict[str, Any], code: int) -> None:
    check_pipeline([MATCH], **context)
    check_pipeline([SEARCH], read_concern="local")
    with pytest.raises(CommandError) as caught:
        check_pipeline([union(SEARCH)], **context)

    assert caught.value.code == code
