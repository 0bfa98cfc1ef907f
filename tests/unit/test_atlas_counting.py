"""`$count` as the group that it stands for."""

from __future__ import annotations

from typing import Any

import pytest

from localatlas.counting import counted

GROUP: list[Any] = [{"$group": {"_id": None, "n": {"$sum": 1}}}, {"$project": {"_id": 0}}]
COUNT = {"$count": "n"}
MATCH: dict[str, Any] = {"$match": {}}


@pytest.mark.parametrize(
    ("pipeline", "made"),
    [
        ([COUNT], GROUP),
        ([MATCH, COUNT, MATCH], [MATCH, *GROUP, MATCH]),
        ([{"$facet": {"a": [COUNT], "b": [MATCH]}}], [{"$facet": {"a": GROUP, "b": [MATCH]}}]),
        (
            [{"$unionWith": {"coll": "c", "pipeline": [{"$facet": {"a": [COUNT]}}]}}],
            [{"$unionWith": {"coll": "c", "pipeline": [{"$facet": {"a": GROUP}}]}}],
        ),
        (
            [{"$lookup": {"from": "c", "as": "x", "pipeline": [MATCH, COUNT]}}],
            [{"$lookup": {"from": "c", "as": "x", "pipeline": [MATCH, *GROUP]}}],
        ),
    ],
)
def test_a_count_becomes_a_group(pipeline: list[Any], made: list[Any]) -> None:
    assert counted(pipeline) == made


@pytest.mark.parametrize(
    "pipeline",
    [
        [MATCH],
        [{"$group": {"_id": None, "n": {"$count": {}}}}],
        [{"$match": {"$count": "n"}}],
        *([{"$count": name}] for name in ("", "$n", "a.b", "_id", "a\0b", 5, None)),
        "no pipeline",
        [5],
        None,
    ],
)
def test_everything_else_stays(pipeline: Any) -> None:
    assert counted(pipeline) is pipeline
