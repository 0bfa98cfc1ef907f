"""Index definitions: what is accepted, what is refused in which words, what counts as the same."""

from __future__ import annotations

from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from localatlas.definition import Definition, FilterField, StoredSource, parse_definition
from localatlas.errors import CommandError

CREATE = "userCommand.indexes[0]"
VECTOR = {"type": "vector", "path": "v", "numDimensions": 8, "similarity": "cosine"}
FILTER = {"type": "filter", "path": "a"}


def parsed(*fields: Any, where: str = CREATE, **rest: Any) -> Definition:
    return parse_definition({"fields": list(fields), **rest}, where=where)


def refused(definition: Any, where: str = CREATE) -> CommandError:
    with pytest.raises(CommandError) as caught:
        parse_definition(definition, where=where)
    return caught.value


@pytest.mark.parametrize("dimensions", [1, 8192, 4.0, Int64(16)])
def test_whole_dimensions_within_bounds_are_accepted(dimensions: Any) -> None:
    assert parsed({**VECTOR, "numDimensions": dimensions}).vectors[0].dimensions == dimensions


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"numDimensions": 0}, '"numDimensions" must be within bounds [1..8192]'),
        ({"numDimensions": 8193}, '"numDimensions" must be within bounds [1..8192]'),
        ({"numDimensions": -1}, '"numDimensions" must be within bounds [1..8192]'),
        ({"numDimensions": 2.5}, '"numDimensions" must be an integer'),
        ({"numDimensions": float("nan")}, '"numDimensions" must be an integer'),
        ({"numDimensions": "8"}, '"numDimensions" must be a integer'),
        ({"numDimensions": True}, '"numDimensions" must be a integer'),
        ({"numDimensions": Decimal128("8")}, '"numDimensions" must be a integer'),
        ({"numDimensions": 2**40}, '"numDimensions" overflowed'),
        ({"numDimensions": None}, '"numDimensions" is required'),
        ({"similarity": None}, '"similarity" is required'),
        ({"similarity": "Cosine"}, '"similarity" must be one of [cosine, dotProduct, euclidean]'),
        ({"similarity": "dotproduct"}, "must be one of [cosine, dotProduct, euclidean]"),
        ({"similarity": 1}, '"similarity" must be a string'),
        ({"quantization": "int8"}, '"quantization" must be one of [binary, none, scalar]'),
        ({"quantization": True}, '"quantization" must be a string'),
        ({"numDimensions": 9, "quantization": "binary"}, "must be a multiple of 8"),
        ({"hnswOptions": {"maxEdges": 15}}, '"maxEdges" must be within bounds [16..64]'),
        ({"hnswOptions": {"maxEdges": 65}}, "maxEdges"),
        ({"hnswOptions": {"numEdgeCandidates": 99}}, "must be within bounds [100..3200]"),
        ({"hnswOptions": {"numEdgeCandidates": 3201}}, "numEdgeCandidates"),
        ({"hnswOptions": {"efSearch": 1}}, 'unrecognized field "efSearch"'),
        ({"hnswOptions": 5}, '"hnswOptions" must be a document'),
        ({"hnswOptions": {}, "indexingMethod": "flat"}, "hnswOptions is only supported"),
        ({"indexingMethod": "ivf"}, '"indexingMethod" must be one of [flat, hnsw]'),
        ({"foo": 1}, 'unrecognized field "foo"'),
        ({"foo": 1, "bar": 2}, 'unrecognized fields ["foo", "bar"]'),
        ({"path": None}, '"path" is required'),
        ({"path": 5}, '"path" must be a string'),
        ({"type": None}, '"type" is required'),
        ({"type": "knnVector"}, '"type" must be one of [autoEmbed, embeddedDocuments, filter,'),
    ],
)
def test_a_wrong_field_is_named_with_its_path(field: dict[str, Any], message: str) -> None:
    merged = {key: value for key, value in {**VECTOR, **field}.items() if value is not None}
    error = refused({"fields": [FILTER, merged]})

    assert error.code == 8
    assert error.message.startswith(f'"{CREATE}.fields[1]')
    # A null is a missing value.
    assert refused({"fields": [FILTER, {**VECTOR, **field}]}).message == error.message
    quoted = message.removeprefix('"')
    assert quoted in error.message


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({}, f'"{CREATE}.fields" is required'),
        ({"fields": None}, f'"{CREATE}.fields" is required'),
        ({"fields": {}}, f'"{CREATE}.fields" must be a array'),
        ({"fields": []}, f'"{CREATE}.fields" cannot be empty'),
        ({"fields": [1]}, f'"{CREATE}.fields[0]" must be a document'),
        ({"fields": [FILTER]}, 'at least one field of type "vector"'),
        ({"fields": [VECTOR, {**VECTOR, "numDimensions": 3}]}, "distinct paths"),
        ({"fields": [VECTOR, {"type": "filter", "path": "v"}]}, "distinct paths"),
        ({"fields": [VECTOR, FILTER, FILTER]}, "distinct paths"),
        ({"fields": [VECTOR, {**FILTER, "numDimensions": 2}]}, 'field "numDimensions"'),
        ({"fields": [VECTOR, {**FILTER, "similarity": "cosine"}]}, 'field "similarity"'),
        ({"fields": [VECTOR], "numPartitions": 3}, "numPartitions 3 must be"),
        ({"fields": [VECTOR], "numPartitions": 0}, "numPartitions 0 must be"),
        ({"fields": [VECTOR], "storedSource": True}, "storedSource: true is not supported"),
        ({"fields": [VECTOR], "storedSource": 1}, '.storedSource" must be a boolean or document'),
        ({"fields": [VECTOR], "storedSource": {}}, "one of [include, exclude] must be present"),
        (
            {"fields": [VECTOR], "storedSource": {"include": ["a"], "exclude": ["b"]}},
            "only one of [include, exclude] may be present",
        ),
        ({"fields": [VECTOR], "storedSource": {"include": []}}, 'include" cannot be empty'),
        ({"fields": [VECTOR], "storedSource": {"include": [5]}}, "must be a string"),
        ({"fields": [VECTOR], "storedSource": {"include": ["a"], "x": 1}}, 'field "x"'),
    ],
)
def test_a_wrong_definition_is_refused(definition: Any, message: str) -> None:
    error = refused(definition)

    assert message in error.message
    assert (error.code, error.name) == (8, "UnknownError")


def test_a_definition_update_has_short_paths_and_its_own_code() -> None:
    error = refused({"fields": [{**VECTOR, "numDimensions": 0}]}, where="")

    assert (error.code, error.name) == (125, "CommandFailed")
    assert error.message == '"fields[0].numDimensions" must be within bounds [1..8192]'


def test_an_unknown_key_at_the_top_is_refused_on_update_only() -> None:
    assert parsed(VECTOR, foo=1) == parsed(VECTOR)
    assert 'unrecognized field "foo"' in refused({"fields": [VECTOR], "foo": 1}, "").message


def test_mappings_are_no_vector_definition() -> None:
    assert "fields" in refused({"mappings": {"dynamic": True}}, "").message


def test_defaults_are_filled_in() -> None:
    field = parsed(VECTOR).vectors[0]

    assert (field.quantization, field.indexing_method) == ("none", "hnsw")
    assert (field.max_edges, field.edge_candidates) == (16, 100)


def test_several_vector_fields_and_filters_are_kept_in_order() -> None:
    other = {**VECTOR, "path": "w", "similarity": "dotProduct", "numDimensions": 3}
    definition = parsed(FILTER, VECTOR, other)

    assert definition.fields[0] == FilterField("a")
    assert [field.path for field in definition.vectors] == ["v", "w"]
    assert definition.filters == ("a",)
    assert definition.vector("w") is definition.vectors[1]
    assert definition.vector("a") is None


def test_the_same_index_again_is_told_from_another() -> None:
    base = parsed(VECTOR, FILTER)
    same = [
        parsed({**VECTOR, "quantization": "none", "indexingMethod": "hnsw"}, FILTER),
        parsed({**VECTOR, "hnswOptions": {"maxEdges": 16}, "numDimensions": 8.0}, FILTER),
        parsed(VECTOR, FILTER, numPartitions=1, storedSource=False),
        parsed(VECTOR, FILTER, storedSource={"include": ["x"]}),
    ]
    other = [
        parsed(FILTER, VECTOR),
        parsed(VECTOR),
        parsed({**VECTOR, "similarity": "euclidean"}, FILTER),
        parsed({**VECTOR, "quantization": "scalar"}, FILTER),
        parsed({**VECTOR, "hnswOptions": {"maxEdges": 17}}, FILTER),
        parsed({**VECTOR, "indexingMethod": "flat"}, FILTER),
        parsed(VECTOR, FILTER, numPartitions=2),
    ]

    assert all(base.equivalent(each) for each in same)
    assert not any(base.equivalent(each) for each in other)


def test_the_normalised_definition_leaves_out_what_is_default() -> None:
    definition = parsed(
        {**VECTOR, "quantization": "none", "hnswOptions": {"maxEdges": 16}},
        {**VECTOR, "path": "w", "quantization": "scalar", "indexingMethod": "flat"},
        FILTER,
        numPartitions=4,
        storedSource={"exclude": ["z", "b"]},
    )

    assert definition.stored_source == StoredSource(False, ("z", "b"))
    assert definition.normalised() == {
        "fields": [
            VECTOR,
            {**VECTOR, "path": "w", "quantization": "scalar", "indexingMethod": "flat"},
            FILTER,
        ],
        "numPartitions": 4,
        "storedSource": {"exclude": ["b", "z"]},
    }
    assert parse_definition(definition.normalised(), where="").equivalent(definition)


def test_a_nested_root_outside_every_field_is_refused_by_the_engines_rule() -> None:
    error = refused({"fields": [VECTOR], "nestedRoot": "other"})

    assert error.code == 125
    assert "does not match any vector field path" in error.message


@pytest.mark.parametrize(
    ("definition", "feature"),
    [
        ({"fields": [VECTOR, {"type": "autoEmbed", "path": "t"}]}, "autoEmbed"),
        ({"fields": [VECTOR, {"type": "text", "path": "t"}]}, "text"),
        ({"fields": [VECTOR, {"type": "embeddedDocuments", "path": "t"}]}, "embeddedDocuments"),
    ],
)
def test_what_is_left_out_is_refused_by_name(definition: Any, feature: str) -> None:
    error = refused(definition)

    assert (error.code, error.name) == (115, "CommandNotSupported")
    assert "localatlas does not support index fields of type" in error.message
    assert feature in error.message
