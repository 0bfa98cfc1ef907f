"""Cursors come back as they went, and nothing else is accepted."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faces import cursors
from faces.errors import MalformedRequest

SCOPE = ("faces", "default", None)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(TEXT, st.integers(-(2**63), 2**63 - 1))
def test_a_cursor_gives_its_key_back(text: str, number: int) -> None:
    cursor = cursors.encode(SCOPE, (text, number))
    assert cursors.decode(cursor, SCOPE, (str, int)) == (text, number)


def test_no_cursor_is_the_beginning() -> None:
    assert cursors.decode(None, SCOPE, (str,)) is None


@given(st.text(max_size=80))
@example("")
@example("=")
@example("WzEsIg")
@example(base64.urlsafe_b64encode(b"[[[[[[").decode())
@example(base64.urlsafe_b64encode(b'[1,"x",{"$gt":""}]').decode())
@example(base64.urlsafe_b64encode(b"[" * 3000).decode())
@example("é")
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        cursors.decode(text, SCOPE, (str,))


@pytest.mark.parametrize(
    "key", [(1,), (True,), (None,), ("a", "b"), (), ({"$gt": ""},), ([],), (1.5,), ("\ud800",)]
)
def test_a_cursor_with_other_values_is_refused(key: tuple[object, ...]) -> None:
    cursor = cursors.encode(SCOPE, key)  # type: ignore[arg-type]  # what a forger would send
    with pytest.raises(MalformedRequest):
        cursors.decode(cursor, SCOPE, (str,))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_a_number_that_the_database_cannot_hold_is_refused(value: int) -> None:
    with pytest.raises(MalformedRequest):
        cursors.decode(cursors.encode(SCOPE, (value,)), SCOPE, (int,))


@pytest.mark.parametrize(
    "scope", [("faces", "other", None), ("media", "default", None), ("faces", "default", "x")]
)
def test_a_cursor_of_another_list_is_refused(scope: tuple[str | None, ...]) -> None:
    with pytest.raises(MalformedRequest) as raised:
        cursors.decode(cursors.encode(scope, ("a",)), SCOPE, (str,))
    assert raised.value.errors[0].field == "cursor"


@pytest.mark.parametrize("key", ["🎭" * 255, '"' * 255, "ΐ".casefold() * 200])
def test_the_longest_id_or_name_makes_a_cursor_that_is_taken_back(key: str) -> None:
    place = (key, "00000000-0000-5000-8000-000000000000")
    assert cursors.decode(cursors.encode(SCOPE, place), SCOPE, (str, str)) == place
