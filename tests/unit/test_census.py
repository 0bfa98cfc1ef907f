"""Counting search indexes where the user may not look everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import OperationFailure

from faces.errors import DatabaseUnavailable
from migrations import census


class Refused:
    """A database of a user who may see nothing: every listing is refused."""

    def __init__(self, name: str, code: int, details: dict[str, Any] | None = None) -> None:
        self.name = name
        self._error = OperationFailure("refused", code, details)
        self.client = self

    def __getitem__(self, name: str) -> Refused:
        return self

    def list_database_names(self) -> list[str]:
        raise self._error

    def list_collections(self, **_: object) -> list[dict[str, Any]]:
        raise self._error


def test_what_may_not_be_listed_is_named() -> None:
    seen = census.take(Refused("mine", 13))  # type: ignore[arg-type]
    assert (seen.count, seen.unseen) == (0, ("other databases", "database mine"))
    told = census.lines(seen, 1)
    assert told[0].startswith("1 search index(es)")
    assert told[-1].endswith("other databases, database mine")


def test_a_database_that_does_not_answer_in_time_is_an_error() -> None:
    with pytest.raises(DatabaseUnavailable):
        census.take(Refused("mine", 50))  # type: ignore[arg-type]
