"""Repeated changes are told apart from new ones by their token."""

from __future__ import annotations

import json

import pytest

from app.rekognition.faults import TokenMismatch
from app.rekognition.tokens import MOST_BYTES, Tokens

GIVEN = {"CollectionId": "c", "UserId": "u", "ClientRequestToken": "t"}


def test_the_same_change_is_answered_from_memory() -> None:
    tokens = Tokens()
    assert tokens.answer("me", "CreateUser", GIVEN) is None
    tokens.made("me", "CreateUser", GIVEN, {"done": 1})
    assert tokens.answer("me", "CreateUser", dict(reversed(GIVEN.items()))) == {"done": 1}
    assert tokens.answer("somebody else", "CreateUser", GIVEN) is None


def test_another_change_of_that_token_is_refused() -> None:
    tokens = Tokens()
    tokens.made("me", "CreateUser", GIVEN, {})
    for operation, given in (("DeleteUser", GIVEN), ("CreateUser", {**GIVEN, "UserId": "v"})):
        with pytest.raises(TokenMismatch):
            tokens.answer("me", operation, given)


def test_a_change_without_token_is_always_new() -> None:
    tokens = Tokens()
    given = {"CollectionId": "c"}
    tokens.made("me", "CreateUser", given, {})
    assert tokens.answer("me", "CreateUser", given) is None


def test_what_is_remembered_is_bounded_by_its_size() -> None:
    tokens = Tokens()
    long = {"AssociatedFaces": ["f" * 1000] * 100}
    for number in range(100):
        tokens.made("me", "CreateUser", {"ClientRequestToken": str(number)}, long)
    remembered = [
        number
        for number in range(100)
        if tokens.answer("me", "CreateUser", {"ClientRequestToken": str(number)})
    ]
    assert len(remembered) == MOST_BYTES // len(json.dumps(long))
    assert remembered[-1] == 99
