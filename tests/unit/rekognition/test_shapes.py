"""Limits of members, and that our table is the service's published model."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import botocore.session
import pytest
from botocore.model import Shape as Described
from hypothesis import given
from hypothesis import strategies as st

from app.rekognition import shapes
from app.rekognition.faults import InvalidParameter, Serialization
from app.rekognition.model import OPERATIONS
from faces.errors import ImageTooLarge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return botocore.session.Session().get_service_model("rekognition")


def same(described: Described, ours: Any, at: str) -> None:
    """Fails where a limit of ours is not the model's."""
    limits = described.metadata
    match ours:
        case shapes.Record():
            assert set(ours.members) == set(described.members), at
            assert ours.required == set(described.required_members), at
            for name, member in ours.members.items():
                same(described.members[name], member, f"{at}.{name}")
        case shapes.Text():
            if not ours.pattern:
                assert (ours.least, ours.most) == (limits.get("min", 0), limits["max"]), at
            assert described.type_name == "string", at
            assert ("pattern" in limits) == bool(ours.letter or ours.pattern), at
        case shapes.Choice():
            assert list(ours.words) == limits["enum"], at
        case shapes.Whole():
            assert (ours.least, ours.most) == (limits["min"], limits.get("max")), at
        case shapes.Percent():
            assert (limits["min"], limits["max"]) == (0, 100), at
        case shapes.Blob():
            assert (described.type_name, ours.most) == ("blob", limits["max"]), at
        case shapes.ListOf():
            assert (ours.least, ours.most) == (limits.get("min", 0), limits.get("max")), at
            same(described.member, ours.item, f"{at}[]")
        case shapes.MapOf():
            assert ours.most == limits["max"], at
            same(described.key, ours.key, f"{at} key")
            same(described.value, ours.value, f"{at} value")
        case _:
            pytest.fail(f"{at} is of an unknown kind")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_limit_is_the_published_one(name: str, model: Any) -> None:
    same(model.operation_model(name).input_shape, OPERATIONS[name].input, name)


@given(st.sampled_from(sorted(OPERATIONS)), JSON)
def test_any_json_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    with contextlib.suppress(InvalidParameter, Serialization, ImageTooLarge):
        assert isinstance(OPERATIONS[name].input.check(value, ""), dict)


def test_defaults_are_filled_in_and_unknown_members_dropped() -> None:
    given_ = {"CollectionId": "c", "FaceId": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "More": 1}
    assert OPERATIONS["SearchFaces"].input.check(given_, "") == {
        "CollectionId": "c",
        "FaceId": given_["FaceId"],
        "MaxFaces": 80,
        "FaceMatchThreshold": 80.0,
    }


def test_null_is_as_good_as_absent() -> None:
    checked = OPERATIONS["ListCollections"].input.check({"NextToken": None}, "")
    assert checked == {"MaxResults": 1000}


@given(st.binary(min_size=1, max_size=64))
def test_a_blob_is_base64(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert shapes.Blob(64).check(text, "Bytes") == data
    with pytest.raises(ImageTooLarge, match=f"at most {len(data) - 1} bytes; it has {len(data)}"):
        shapes.Blob(len(data) - 1).check(text, "Bytes")


def test_no_text_that_was_sent_is_repeated() -> None:
    for name, member in (("CollectionId", "Ada Lovelace"), ("UserId", "Ada Lovelace")):
        with pytest.raises(InvalidParameter) as error:
            OPERATIONS["CreateUser"].input.check(
                {"CollectionId": "c", "UserId": "u", name: member}, ""
            )
        assert name in error.value.detail
        assert "Lovelace" not in error.value.detail
