"""Whole pictures that the service fetches by itself count like those that are sent."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app import photos
from app.bodies import Budget
from app.deps import Client
from app.gate import Gate
from app.services import Services
from app.thumbnails import Thumbnails
from faces.errors import Busy
from faces.originals import Originals
from faces.records import Item

SIZE = 1000


def services(budget: Budget) -> Services:
    fetched = SimpleNamespace(body=bytes(SIZE))
    return cast(
        Services,
        SimpleNamespace(
            settings=SimpleNamespace(max_upload_bytes=SIZE),
            fetch_gate=Gate(1, 1),
            fetcher=SimpleNamespace(get=lambda url, max_bytes: fetched),
            budget=budget,
        ),
    )


def test_a_picture_that_was_fetched_counts_in_the_budget() -> None:
    budget = Budget(3 * SIZE)
    budget.take(SIZE)
    client = Client(threading.Event(), time.monotonic() + 60, budget.take)
    parts = services(budget)
    for held in (2, 3):
        assert len(photos.fetch(parts, client, "http://media/a")) == SIZE
        assert budget.held == held * SIZE
    with pytest.raises(Busy):
        photos.fetch(parts, client, "http://media/a")


class Watched(Originals):
    """Originals that know whether a place is held while they are read."""

    def __init__(self) -> None:
        self.held = False
        self.seen: list[bool] = []

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        self.held = True
        yield
        self.held = False

    def read(self, item: Item, *, max_bytes: int) -> bytes | None:
        self.seen.append(self.held)
        return b"a picture"


def item() -> Item:
    now = dt.datetime.now(dt.UTC)
    known: dict[str, Any] = {"collection": "c", "media_id": "m", "image_id": "i", "sha256": "s"}
    rest = dict.fromkeys(Item.__dataclass_fields__, None)
    return Item(**{**rest, "metadata": {}, "updated_at": now, **known})


def test_a_thumbnail_holds_a_place_while_it_holds_the_picture() -> None:
    originals = Watched()
    thumbnails = Thumbnails(originals, max_bytes=SIZE)

    def shrink(data: bytes) -> bytes:
        originals.seen.append(originals.held)
        return b"small"

    assert thumbnails.of(item(), None, shrink, originals.place) == (b"small", False)
    assert originals.seen == [True, True]


def test_where_all_places_are_taken_the_kept_crop_is_shown_for_now() -> None:
    gate = Gate(1, 0)
    thumbnails = Thumbnails(Watched(), max_bytes=SIZE)
    gone, limit = threading.Event(), time.monotonic() + 60

    def place() -> contextlib.AbstractContextManager[None]:
        return gate.place(gone, limit)

    with gate.place(gone, limit):
        assert thumbnails.of(item(), b"crop", lambda data: data, place) == (b"crop", False)
        with pytest.raises(Busy):
            thumbnails.of(item(), None, lambda data: data, place)
