"""Index definitions: what counts as drift, which command mends it, what Atlas's refusals say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from faces.models.cards import CARDS
from faces.records import ActiveModel
from faces.search import FILTER_FIELDS, index_definition, index_name
from faces.watch import IndexState, explain
from localatlas.definition import parse_definition
from migrations import indexes, refusals

CODE = index_definition("facenet128", 128)
ACTIVE = ActiveModel("facenet128", "b", index_name("facenet128"))


def state(status: str = "READY", definition: dict[str, Any] | None = None) -> IndexState:
    return IndexState(ACTIVE.index, status, status == "READY", definition or CODE)


@pytest.mark.parametrize("key", sorted(CARDS))
@pytest.mark.parametrize("quantization", ["none", "scalar", "binary"])
def test_every_models_definition_is_one_that_atlas_takes(key: str, quantization: str) -> None:
    definition = index_definition(key, CARDS[key].dimensions, quantization)
    parse_definition(definition, where="definition")
    paths = [field["path"] for field in definition["fields"]]
    assert paths == [f"embeddings.{key}", *FILTER_FIELDS]


def test_index_names_carry_model_and_version() -> None:
    names = {index_name(key, version) for key in CARDS for version in (1, 2)}
    assert len(names) == 2 * len(CARDS)
    assert index_name("facenet128-int8", 3) == "faces_facenet128_int8_v3"


@given(st.permutations(CODE["fields"]))
def test_the_order_of_fields_is_no_drift(fields: list[dict[str, Any]]) -> None:
    assert indexes.differences(CODE, {"fields": fields}) == ()


@pytest.mark.parametrize(
    "spelled_out",
    [
        {"quantization": "none"},
        {"indexingMethod": "hnsw"},
        {"hnswOptions": {"maxEdges": 16, "numEdgeCandidates": 100}},
        {"numDimensions": 128.0},
    ],
)
def test_defaults_that_are_spelled_out_are_no_drift(spelled_out: dict[str, Any]) -> None:
    vector, *rest = CODE["fields"]
    live = {"fields": [{**vector, **spelled_out}, *rest], "storedSource": False, "numPartitions": 1}
    assert indexes.differences(CODE, live) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"numDimensions": 512},
        {"similarity": "euclidean"},
        {"quantization": "binary"},
        {"path": "embeddings.other"},
        {"hnswOptions": {"maxEdges": 32}},
    ],
)
def test_a_changed_vector_field_is_drift(change: dict[str, Any]) -> None:
    vector, *rest = CODE["fields"]
    removed, added = indexes.differences(CODE, {"fields": [{**vector, **change}, *rest]})
    assert removed.startswith("- ")
    assert added.startswith("+ ")


def test_a_missing_filter_and_a_foreign_option_are_drift() -> None:
    assert len(indexes.differences(CODE, {"fields": CODE["fields"][:-1]})) == 1
    assert len(indexes.differences(CODE, {**CODE, "numPartitions": 4})) == 1


@pytest.mark.parametrize(
    ("live", "command"),
    [
        (None, "createSearchIndexes"),
        (state("DELETING"), "createSearchIndexes"),
        (state(), None),
        (state("BUILDING"), None),
        (state("STALE"), None),
        (state("FAILED"), "updateSearchIndex"),
        (state("READY", {"fields": CODE["fields"][:-1]}), "updateSearchIndex"),
    ],
)
def test_the_command_that_mends(live: IndexState | None, command: str | None) -> None:
    found = {} if live is None else {live.name: live}
    actions = indexes.actions(indexes.wanted(ACTIVE), found)
    assert [next(iter(action.command)) for action in actions] == ([command] if command else [])


def test_a_switch_wants_both_indexes() -> None:
    upcoming = ActiveModel("sface", "b", index_name("sface"))
    both = ActiveModel("facenet128", "b", index_name("facenet128"), next=upcoming)
    assert [index.name for index in indexes.wanted(both)] == [
        "faces_facenet128_v1",
        "faces_sface_v1",
    ]
    assert indexes.wanted(None) == []


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (
            8,
            "The maximum number of FTS indexes has been reached for this instance size.",
            "3 on M0",
        ),
        (8000, "you are over your space quota", "no room"),
        (13, "not authorized on db to execute command", "MIGRATIONS_MONGODB_URI"),
        (59, "no such command: 'createSearchIndexes'", "by hand"),
        (31082, "requires additional configuration", "by hand"),
        (68, "already exists with a different definition", "run this again"),
    ],
)
def test_refusals_of_atlas_become_a_sentence(code: int, text: str, said: str) -> None:
    command = indexes.create(indexes.wanted(ACTIVE)[0])
    error = refusals.explain(OperationFailure(text, code), command)
    assert error is not None
    assert said in error.detail
    if "by hand" in said:
        assert '"numDimensions": 128' in error.detail


def test_other_errors_are_not_explained_away() -> None:
    command = indexes.create(indexes.wanted(ACTIVE)[0])
    assert refusals.explain(OperationFailure("interrupted", 11600), command) is None


@pytest.mark.parametrize("status", ["PENDING", "BUILDING", "STALE", "FAILED", "DELETING", "NEW"])
def test_every_state_of_an_index_is_explained(status: str) -> None:
    assert ACTIVE.index in explain(ACTIVE.index, state(status))
