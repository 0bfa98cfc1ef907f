"""What is remembered of collection names, and what makes it forgotten."""

from __future__ import annotations

import pytest

from localatlas.names import UNSURE_S, Names, keeps_names

THINGS = ("db", "things")
FOUND = (b"uuid", "collection")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_name_is_remembered_until_a_command_may_change_it() -> None:
    names = Names(others=False)
    names.remember(THINGS, FOUND, names.moment())
    assert names.known(THINGS) == FOUND
    assert names.known(("db", "others")) is None

    names.changing("one")

    assert names.known(THINGS) is None


def test_nothing_is_learnt_while_a_change_is_under_way() -> None:
    names = Names(others=False)
    before = names.moment()
    names.changing("one")
    meanwhile = names.moment()
    names.settled("one")

    # What the backend answered to either may be of before the change.
    names.remember(THINGS, FOUND, before)
    names.remember(THINGS, FOUND, meanwhile)
    assert names.known(THINGS) is None
    names.remember(THINGS, FOUND, names.moment())
    assert names.known(THINGS) == FOUND


def test_a_change_without_a_reply_is_awaited_for_a_while() -> None:
    clock = Clock()
    names = Names(others=False, clock=clock)
    names.lost("a connection that changed nothing")
    assert names.moment() is not None

    names.changing("one")
    names.lost("one")

    names.remember(THINGS, FOUND, names.moment())
    assert names.known(THINGS) is None
    clock.now += UNSURE_S + 1
    names.remember(THINGS, FOUND, names.moment())
    assert names.known(THINGS) == FOUND


def test_nothing_is_remembered_where_others_change_collections() -> None:
    names = Names(others=True)

    names.remember(THINGS, FOUND, names.moment())

    assert names.known(THINGS) is None


@pytest.mark.parametrize(
    ("command", "whole", "kept"),
    [
        ("find", None, True),
        ("insert", None, True),
        ("aggregate", b"$match", True),
        ("aggregate", b"$match $out", False),
        ("aggregate", None, False),
        ("drop", None, False),
        ("dropDatabase", None, False),
        ("renameCollection", None, False),
        ("create", None, False),
        ("applyOps", None, False),
        ("", None, False),
    ],
)
def test_which_commands_keep_names(command: str, whole: bytes | None, kept: bool) -> None:
    assert keeps_names(command, whole) is kept
