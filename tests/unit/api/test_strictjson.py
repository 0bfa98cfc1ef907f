"""JSON from strangers."""

from __future__ import annotations

import contextlib
import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import strictjson
from faces.errors import InvalidRequest, MalformedRequest

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(VALUES)
def test_honest_json_comes_through(value: object) -> None:
    assert strictjson.parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=40))
def test_any_bytes_give_a_value_or_our_own_error(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        strictjson.parse(data)


@pytest.mark.parametrize("depth", [64, 65, 900, 100_000])
def test_depth_is_bounded(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    if depth <= 64:
        strictjson.parse(data)
        return
    with pytest.raises(MalformedRequest):
        strictjson.parse(data)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400])
@pytest.mark.parametrize("shape", ["%s", "[%s]", '{"a": [1, {"b": %s}]}'])
def test_no_number_is_infinite(text: str, shape: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        strictjson.parse((shape % text).encode())
    assert not isinstance(caught.value, MalformedRequest)


def test_the_largest_numbers_are_numbers() -> None:
    assert strictjson.parse(b"1.7e308") == 1.7e308
    assert math.isfinite(float(str(strictjson.parse(b"8" * 300))))


@pytest.mark.parametrize("text", [r'"\ud800"', r'{"\udfff": 1}', r'["a\udc00b"]'])
def test_a_lone_surrogate_is_no_text(text: str) -> None:
    with pytest.raises(InvalidRequest):
        strictjson.parse(text.encode())


def test_a_pair_of_surrogates_is_text() -> None:
    assert strictjson.parse(rb'"\ud83c\udfad"') == "🎭"


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'])
def test_an_object_says_nothing_twice(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        strictjson.parse(text.encode())
    assert not isinstance(caught.value, MalformedRequest)


def test_the_names_of_a_body_are_bounded_however_they_are_spread() -> None:
    def spread(names: int) -> bytes:
        objects = [{f"n{i}": 0 for i in range(100)} for _ in range(names // 100)]
        return json.dumps(objects).encode()

    strictjson.parse(spread(strictjson.MAX_NAMES))
    with pytest.raises(InvalidRequest):
        strictjson.parse(spread(strictjson.MAX_NAMES + 100))


@pytest.mark.parametrize("piece", ["[]", "{}", "1.5", '"a"', '{"a":1}', "[[1]]"])
def test_the_weight_of_a_body_covers_what_its_values_take(piece: str) -> None:
    data = ("[" + ",".join([piece] * 5000) + "]").encode()
    tracemalloc.start()
    value = strictjson.parse(data)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value
    assert held < strictjson.weight(data) * 1.25 + 100_000
