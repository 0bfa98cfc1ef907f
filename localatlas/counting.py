"""Makes `$count` count as a server does: of no documents there is no count.

The embedded engine answers with a count of zero there.
"""

from __future__ import annotations

from typing import Any

from localatlas.pipeline import sub_pipelines

COUNT = "$count"


def counted(pipeline: Any) -> Any:
    """Return the pipeline with every `$count`, in sub-pipelines too, as the group it stands for.

    A malformed one stays for the backend to refuse; without any, the pipeline is returned itself.
    """
    if not isinstance(pipeline, list) or not any(map(_counts, pipeline)):
        return pipeline
    return [made for stage in pipeline for made in _stages(stage)]


def _counts(stage: Any) -> bool:
    return isinstance(stage, dict) and (
        _is_name(stage.get(COUNT))
        or any(isinstance(inner, list) and any(map(_counts, inner)) for inner in _inner(stage))
    )


def _inner(stage: dict[str, Any]) -> list[Any]:
    return [pipeline for _, pipeline in sub_pipelines(stage)]


def _stages(stage: Any) -> list[Any]:
    if not _counts(stage) or len(stage) != 1:
        return [stage]
    name, value = next(iter(stage.items()))
    if name == COUNT:
        return [{"$group": {"_id": None, value: {"$sum": 1}}}, {"$project": {"_id": 0}}]
    if name == "$facet":
        return [{name: {key: counted(inner) for key, inner in value.items()}}]
    return [{name: {**value, "pipeline": counted(value["pipeline"])}}]


def _is_name(value: Any) -> bool:
    """Whether a server takes this as the name of a count."""
    if not isinstance(value, str) or value.startswith("$"):
        return False
    return value not in ("", "_id") and "." not in value and "\0" not in value
