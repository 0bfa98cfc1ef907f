"""What a form's text may stand for, and what JSON's own types may not."""

from __future__ import annotations

from typing import Any

import pytest

from app import forms, vectors
from app.bodies import validate
from app.routes.search import _bounded
from faces import documents
from faces.errors import InvalidRequest
from faces.records import Match
from faces.search import Found
from faces.types import Box

FACE = "00000000-0000-0000-0000-000000000000"


def search(strict: bool, **values: object) -> forms.SearchForm:
    return validate(forms.SearchForm, {"face_id": FACE, **values}, strict=strict)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("limit", "5", 5),
        ("min_similarity", "-0.5", -0.5),
        ("min_similarity", "1e-3", 0.001),
        ("exact", "true", True),
        ("exclusive", "false", False),
        ("face", "all", "all"),
        ("face", "3", 3),
    ],
)
def test_text_stands_for_a_value_in_a_form_and_only_there(
    name: str, text: str, value: object
) -> None:
    assert getattr(search(False, **{name: text}), name) == value
    assert getattr(search(True, **{name: value}), name) == value
    if name == "face" and value == "all":
        return
    with pytest.raises(InvalidRequest) as caught:
        search(True, **{name: text})
    assert [error.field for error in caught.value.errors] == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("limit", text) for text in ("", " 5", "1_0", "1.0", "٣", "5e0")),
        *(("min_similarity", text) for text in ("", "nan", "inf", "1e999", " 0", "1_0.5")),
        *(("exact", text) for text in ("", "yes", "1", "True")),
        *(("face", text) for text in ("", "-1", "1.0", "10000", "²", "first")),
    ],
)
def test_other_text_is_refused_by_the_name_of_its_field(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        search(False, **{name: text})
    assert [error.field for error in caught.value.errors] == [name]


@pytest.mark.parametrize("values", [["1"] * 3, [True] * 3, [None], {"0": 1}])
def test_a_vector_is_of_numbers_also_in_a_form(values: object) -> None:
    with pytest.raises(InvalidRequest):
        validate(forms.SearchForm, {"vector": values}, strict=False)


@pytest.mark.parametrize("fields", [{"CANARY $": "string"}, {"CANARY": "text"}, {"CANARY": 1}])
def test_a_name_that_was_sent_is_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(forms.FieldsForm, {"metadata_fields": fields}, strict=True)
    assert [error.field for error in caught.value.errors] == ["metadata_fields"]
    assert "CANARY" not in caught.value.detail


@pytest.mark.parametrize("number", [0.0, 1e30, 1e308, -1e308])
def test_a_vector_whose_norm_is_of_no_use_is_refused(number: float) -> None:
    with pytest.raises(InvalidRequest):
        vectors.unit([number] * 4, 4)


def test_a_long_vector_is_normalised() -> None:
    assert vectors.unit([1e10] * 4, 4).tolist() == [0.5] * 4


def test_all_metadata_of_a_picture_is_short_together() -> None:
    def put(texts: dict[str, str]) -> None:
        validate(forms.MediaForm, {"image_url": "http://a/", "metadata": texts}, strict=True)

    most = documents.MAX_METADATA_BYTES
    whole = {f"k{i}": "é" * 509 for i in range(8)}
    assert documents.metadata_size(whole) == most - 32
    put(whole | {"rest": "x" * 28})
    with pytest.raises(InvalidRequest) as caught:
        put(whole | {"rest": "x" * 29})
    assert str(most) in caught.value.detail
    with pytest.raises(InvalidRequest):
        documents.check_metadata(whole | {"rest": "x" * 29})


def test_an_answer_too_long_to_be_sent_is_refused_with_what_to_ask_instead() -> None:
    box = Box(0, 0, 1, 1)
    match = Match("f", "m", "i", "c", None, None, 0.9, 0.95, box, metadata={"k": "x" * 8000})
    few, many = (Found("m", ((match,) * 100,) * faces) for faces in (10, 30))
    assert _bounded(few) is few
    with pytest.raises(InvalidRequest) as caught:
        _bounded(many)
    assert "ask for fewer" in caught.value.detail


def test_an_unknown_field_is_told_the_known_ones_and_an_object_is_called_one() -> None:
    with pytest.raises(InvalidRequest) as caught:
        search(True, top_k=5)
    assert "min_similarity" in caught.value.detail
    assert "top_k" not in caught.value.detail
    with pytest.raises(InvalidRequest) as caught:
        validate(forms.CompareForm, {"source": "x", "target": {}}, strict=True)
    assert caught.value.detail == "source: must be an object"
