"""Checks where `$vectorSearch` and `$listSearchIndexes` stand in a whole aggregation pipeline.

These are mongod's own checks: they come before the collection or any index is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from localatlas.errors import (
    API_STRICT_ERROR,
    FAILED_TO_PARSE,
    IDL_UNKNOWN_FIELD,
    INVALID_OPTIONS,
    NOT_ALLOWED_IN_FACET,
    NOT_ALLOWED_IN_LOOKUP,
    NOT_FIRST_STAGE,
    OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
    OPTION_NOT_SUPPORTED_ON_VIEW,
    OVERFLOW,
    SEARCH_META_UNAVAILABLE,
    STAGE_NOT_OF_ONE_KEY,
    TYPE_MISMATCH,
    failure,
)
from localatlas.stage import check_by_server, server_type

VECTOR_SEARCH = "$vectorSearch"
LIST_INDEXES = "$listSearchIndexes"
OURS = (VECTOR_SEARCH, LIST_INDEXES)
# Full-text search is refused by the backend, but no pipeline has two first stages.
FIRST = (*OURS, "$search", "$searchMeta")
# How deep the server lets a command be nested, which also keeps recursion here within bounds.
MAX_DEPTH = 200
CONTAINERS = (dict, list, tuple)  # not Mapping: to ask that of every value takes ten times as long


def check_pipeline(
    pipeline: object,
    *,
    in_transaction: bool = False,
    read_concern: str | None = None,
    update: bool = False,
    view: bool = False,
    api_strict: bool = False,
) -> None:
    """Raise CommandError when a stage of ours has a wrong value or stands where it may not.

    `read_concern` is the level the command asks for; `update` and `view` say that the pipeline is
    that of an update or defines a view. Anything that is not a pipeline is left to the server to
    refuse.
    """
    _check_depth(pipeline)
    used = {name for name, _ in _stages(pipeline) if name in OURS}
    if not used:
        return
    _check_one_key_each(pipeline)
    name = VECTOR_SEARCH if VECTOR_SEARCH in used else LIST_INDEXES
    if api_strict:
        raise failure(
            API_STRICT_ERROR, f"stage {name} is not allowed with 'apiStrict: true' in API Version 1"
        )
    if view:
        raise failure(OPTION_NOT_SUPPORTED_ON_VIEW, f"{name} cannot be used in a view definition")
    if update:
        raise failure(INVALID_OPTIONS, f"{name} is not allowed to be used within an update")
    if in_transaction:
        raise failure(
            OPERATION_NOT_SUPPORTED_IN_TRANSACTION,
            f"Operation not permitted in transaction :: caused by :: Aggregation stage {name} "
            "cannot run within a multi-document transaction",
        )
    if read_concern not in (None, "local"):
        raise failure(
            INVALID_OPTIONS,
            f"Aggregation stage {name} cannot run with a readConcern other than 'local', "
            f"or in a multi-document transaction. Current readConcern: {read_concern}",
        )
    for stage, value in _stages(pipeline):
        if stage == VECTOR_SEARCH:
            check_by_server(value)
        elif stage == LIST_INDEXES:
            check_list_stage(value)
    _check_places(pipeline, lookup=False, facet=False)


def check_pipelines_within(command: Mapping[str, Any]) -> None:
    """Raise CommandError when a command that defines a view or updates has a stage of ours."""
    check_pipeline(command.get("pipeline"), view=True)
    updates = [command.get("update")]
    for key, inner in (("updates", "u"), ("ops", "updateMods")):
        each = command.get(key)
        if isinstance(each, list):
            updates += [one.get(inner) for one in each if isinstance(one, Mapping)]
    for update in updates:
        if isinstance(update, list):
            check_pipeline(update, update=True)


def check_list_stage(spec: object) -> None:
    """Raise CommandError for what mongod refuses in the value of a $listSearchIndexes stage."""
    if not isinstance(spec, Mapping):
        raise failure(
            FAILED_TO_PARSE,
            f"The {LIST_INDEXES} stage specification must be an object. Found: {server_type(spec)}",
        )
    for key in spec:
        if key not in ("name", "id"):
            raise failure(
                IDL_UNKNOWN_FIELD, f"BSON field '{LIST_INDEXES}.{key}' is an unknown field."
            )
        if not isinstance(spec[key], str):
            raise failure(
                TYPE_MISMATCH,
                f"BSON field '{LIST_INDEXES}.{key}' is the wrong type '{server_type(spec[key])}', "
                "expected type 'string'",
            )
    if "name" in spec and "id" in spec:
        raise failure(INVALID_OPTIONS, f"Cannot set both 'name' and 'id' for {LIST_INDEXES}.")


def sub_pipelines(stage: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield each pipeline inside a stage ($facet, $lookup, $unionWith) with the stage's name."""
    for name, value in stage.items():
        if not isinstance(value, dict):
            continue
        if name == "$facet":
            for pipeline in value.values():
                yield name, pipeline
        elif name in ("$lookup", "$unionWith") and "pipeline" in value:
            yield name, value["pipeline"]


def _check_depth(pipeline: object) -> None:
    layer = [pipeline] if isinstance(pipeline, CONTAINERS) else []
    depth = 1
    while layer:
        if depth > MAX_DEPTH:
            raise failure(OVERFLOW, f"BSONObj exceeds maximum nested object depth: {MAX_DEPTH}")
        inside = (each.values() if isinstance(each, dict) else each for each in layer)
        layer = [each for some in inside for each in some if isinstance(each, CONTAINERS)]
        depth += 1


def _check_one_key_each(pipeline: object) -> None:
    for stage in pipeline if isinstance(pipeline, list | tuple) else ():
        if not isinstance(stage, dict):
            raise failure(TYPE_MISMATCH, "Each element of the 'pipeline' array must be an object")
        if len(stage) != 1:
            raise failure(
                STAGE_NOT_OF_ONE_KEY,
                "A pipeline stage specification object must contain exactly one field.",
            )
        for _, inner in sub_pipelines(stage):
            _check_one_key_each(inner)


def _stages(pipeline: object) -> Iterator[tuple[str, object]]:
    """Yield name and value of every stage at any depth, in the order of the text."""
    for stage in _mappings(pipeline):
        yield from stage.items()
        for _, inner in sub_pipelines(stage):
            yield from _stages(inner)


def _check_places(pipeline: object, *, lookup: bool, facet: bool) -> None:
    searched = False
    for position, stage in enumerate(_mappings(pipeline)):
        for name in FIRST:
            if name in stage and (name in OURS or position):
                _check_place(name, position, lookup=lookup, facet=facet)
        if searched and _reads_search_meta(stage):
            raise failure(
                SEARCH_META_UNAVAILABLE,
                f"Can't access $$SEARCH_META after a {VECTOR_SEARCH} stage",
            )
        searched = searched or VECTOR_SEARCH in stage
        for name, inner in sub_pipelines(stage):
            _check_places(
                inner, lookup=lookup or name == "$lookup", facet=facet or name == "$facet"
            )


def _check_place(name: str, position: int, *, lookup: bool, facet: bool) -> None:
    if facet:
        raise failure(
            NOT_ALLOWED_IN_FACET, f"{name} is not allowed to be used within a $facet stage"
        )
    if lookup and name == VECTOR_SEARCH:
        raise failure(
            NOT_ALLOWED_IN_LOOKUP, f"{name} is not allowed within a $lookup's sub-pipeline"
        )
    if position:
        raise failure(NOT_FIRST_STAGE, f"{name} is only valid as the first stage in a pipeline")


def _reads_search_meta(value: object) -> bool:
    if isinstance(value, str):
        return value == "$$SEARCH_META" or value.startswith("$$SEARCH_META.")
    if isinstance(value, dict):
        return any(
            name not in ("$literal", "$unionWith", "$lookup") and _reads_search_meta(inner)
            for name, inner in value.items()
        )
    return isinstance(value, list) and any(_reads_search_meta(inner) for inner in value)


def _mappings(pipeline: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(pipeline, list | tuple):
        return ()
    return [stage for stage in pipeline if isinstance(stage, dict)]
