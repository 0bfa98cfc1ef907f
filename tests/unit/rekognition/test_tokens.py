"""Repeated changes are told apart from new ones by their token."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from app.auth import Caller
from app.deps import Client
from app.gate import ClientGone
from app.rekognition import users
from app.rekognition.call import Call
from app.rekognition.faults import TokenMismatch
from app.rekognition.tokens import MOST_BYTES, Tokens
from app.services import Services
from faces.errors import Busy

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


def call_with(tokens: Tokens, *, left_s: float = 60.0) -> Call:
    """A call of the token of GIVEN by a client whose request may take so many seconds more."""
    client = Client(threading.Event(), time.monotonic() + left_s, lambda size: None)
    parts = cast(Services, None)
    return Call("CreateUser", GIVEN, parts, Caller("me", "admin"), client, tokens)


def test_a_change_asked_for_again_while_it_is_made_is_made_once() -> None:
    """A client whose connection broke asks again: it was told of a conflict with itself."""
    begun, twice, go_on = threading.Event(), threading.Event(), threading.Event()

    def make(call: Call) -> dict[str, Any]:
        if begun.is_set():
            twice.set()
        begun.set()
        assert go_on.wait(60)
        return {"made": 1}

    change, tokens = users.once(make), Tokens()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(change, call_with(tokens))
        assert begun.wait(60)
        again = pool.submit(change, call_with(tokens))
        with pytest.raises(Busy):
            change(call_with(tokens, left_s=0.0))
        left = call_with(tokens)
        left.client.gone.set()
        with pytest.raises(ClientGone):
            change(left)
        assert not twice.wait(0.2)
        go_on.set()
        assert first.result(60) == again.result(60) == {"made": 1}
    assert not twice.is_set()


def test_a_change_that_failed_is_made_when_it_is_asked_for_again() -> None:
    tries: list[int] = []

    def make(call: Call) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            raise Busy
        return {}

    change, tokens = users.once(make), Tokens()
    with pytest.raises(Busy):
        change(call_with(tokens))
    assert change(call_with(tokens)) == {}
    assert len(tries) == 2
