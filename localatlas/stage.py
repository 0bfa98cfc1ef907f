"""Parses the arguments of a $vectorSearch stage in the engine's order, one error at a time.

`check_by_server` is what mongod itself looks at before it asks the engine; `parse_stage` is the
engine's own parse. `pipeline.py` checks where the stage stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bson.decimal128 import Decimal128

from localatlas.bsonvectors import Vector, VectorError, parse_vector
from localatlas.errors import (
    FAILED_TO_PARSE,
    LIMIT_NOT_A_NUMBER,
    LIMIT_NOT_POSITIVE,
    QueryError,
    failure,
)
from localatlas.filters import Expression, parse_filter
from localatlas.mql import check_match
from localatlas.reader import MalformedError, Reader, bson_type, is_number

MAX_CANDIDATES = 10_000
SCORE_MODES = ("max", "avg")


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """A parsed stage.

    `vector` is None when the query is a text to embed, which no index here takes; `candidates`
    is None for an exact search, `score_mode` without nested options.
    """

    index: str
    path: str
    vector: Vector | None
    limit: int
    candidates: int | None = None
    filter: Expression | None = None
    parent_filter: Expression | None = None
    stored_source: bool = False
    score_mode: str | None = None
    traced: bool = False


def check_by_server(spec: object) -> None:
    """Raise CommandError for what mongod refuses before it looks at collection or index."""
    if not isinstance(spec, Mapping):
        raise failure(
            FAILED_TO_PARSE, f"$vectorSearch value must be an object. Found: {server_type(spec)}"
        )
    if "limit" in spec:
        limit = spec["limit"]
        if not is_number(limit) and not isinstance(limit, Decimal128):
            raise failure(
                LIMIT_NOT_A_NUMBER,
                f"Expected $vectorSearch limit to be a number, but found {server_type(limit)}",
            )
        if _whole(limit) <= 0:
            raise failure(LIMIT_NOT_POSITIVE, "Expected $vectorSearch limit to be positive")
    for key in ("filter", "parentFilter"):
        if isinstance(spec.get(key), Mapping):
            check_match(spec[key])


def parse_stage(spec: Mapping[str, Any], *, explained: bool = False) -> VectorQuery:
    """Return the query of a stage that `check_by_server` has let pass, or raise QueryError.

    `explained` says that the command is an explain, in which `explainOptions` are at their place.
    """
    try:
        query = _parse(Reader(spec))
        return replace(query, traced=False) if explained else query
    except (MalformedError, VectorError) as error:
        raise QueryError(str(error)) from error


def _parse(reader: Reader) -> VectorQuery:
    index = reader.string("index", empty=False)
    if index is None:
        raise reader.fail("is required", "index")
    path = reader.string("path")
    if path is None:
        raise reader.fail("is required", "path")
    exact = reader.boolean("exact", False)
    candidates = reader.integer("numCandidates", bounds=(1, MAX_CANDIDATES))
    if exact and candidates is not None:
        raise MalformedError('"numCandidates" must be omitted when "exact" is set to true')
    if not exact and candidates is None:
        raise MalformedError("numCandidates is required for approximate vector search")
    limit = reader.integer("limit")
    if limit is None:
        raise reader.fail("is required", "limit")
    if limit <= 0:
        raise reader.fail("must be positive", "limit")
    if candidates is not None and limit > candidates:
        raise MalformedError("limit should be less than or equal to numCandidates")
    vector = _vector(reader)
    condition = reader.value("filter")
    parent = reader.value("parentFilter")
    parsed = None if condition is None else parse_filter(condition, "filter")
    parsed_parent = None if parent is None else parse_filter(parent, "parentFilter")
    traced = not exact and _explain_options(reader)
    score_mode = _score_mode(reader)
    stored = reader.boolean("returnStoredSource", False)
    preference = reader.document("searchNodePreference")
    if preference and preference.string("key", empty=False) is None:
        raise preference.fail("is required", "key")
    return VectorQuery(
        index, path, vector, limit, candidates, parsed, parsed_parent, stored, score_mode, traced
    )


def _vector(reader: Reader) -> Vector | None:
    given, query = reader.value("queryVector"), reader.value("query")
    if (given is None) == (query is None):
        if given is None and reader.value("model") is not None:
            raise MalformedError(_MODEL_ALONE)
        raise MalformedError("Exactly one and only one of query and queryVector can be present")
    vector = None
    if given is not None:
        vector = parse_vector(given)
        position = vector.non_finite()
        if position is not None:
            raise MalformedError(
                "'queryVector' contains a non-finite value (Infinity or NaN) at position "
                f'[{position}]. All values in "queryVector" must be finite.'
            )
    model = reader.string("model", empty=False)
    if query is None:
        if model is not None:
            raise MalformedError(_MODEL_ALONE)
    elif isinstance(query, Mapping):
        text = Reader(query, "query")
        text.string("text")
        text.finish()
    elif not isinstance(query, str):
        raise MalformedError(f"query must be a string or document, but got {bson_type(query)}")
    return vector


_MODEL_ALONE = (
    "model can only be specified when using 'query' for auto-embedding, not with 'queryVector'"
)


def _explain_options(reader: Reader) -> bool:
    options = reader.document("explainOptions")
    if options is None:
        return False
    traced = options.value("traceDocumentIds")
    if traced is not None:
        if not isinstance(traced, list | tuple):
            raise options.fail("must be a array", "traceDocumentIds")
        if not traced:
            raise options.fail("cannot be empty", "traceDocumentIds")
    options.finish()
    return True


def _score_mode(reader: Reader) -> str | None:
    options = reader.document("nestedOptions")
    if options is None:
        return None
    mode = options.string("scoreMode")
    if mode is not None and mode not in SCORE_MODES:
        raise MalformedError(
            f'scoreMode: "{mode}" is not supported. Accepted values are "max" or "avg"'
        )
    options.finish()
    return mode or "max"


def _whole(limit: Any) -> int:
    """Return `limit` cut to a whole number as mongod does: not-a-number is 0, infinity stays."""
    number = float(limit.to_decimal()) if isinstance(limit, Decimal128) else limit
    if number != number:
        return 0
    return int(math.copysign(2**63, number)) if math.isinf(number) else int(number)


SERVER_TYPES = {
    "BOOLEAN": "bool",
    "INT32": "int",
    "INT64": "long",
    "DOUBLE": "double",
    "STRING": "string",
    "DOCUMENT": "object",
    "ARRAY": "array",
    "BINARY": "binData",
    "OBJECT_ID": "objectId",
    "DATE_TIME": "date",
    "DECIMAL128": "decimal",
    "NULL": "null",
    "REGULAR_EXPRESSION": "regex",
    "TIMESTAMP": "timestamp",
}


def server_type(value: object) -> str:
    """Return the name that mongod's messages give the BSON type of `value`: int, objectId."""
    name = bson_type(value)
    return SERVER_TYPES.get(name, name.lower())
