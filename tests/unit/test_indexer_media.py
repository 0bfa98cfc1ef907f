"""Reading pictures from servers that need rest, or do not answer at all."""

from __future__ import annotations

import threading

import pytest

from faces.errors import FetchFailed
from faces.fetch import Fetched
from indexer.sources import media
from indexer.sources.base import Entry, Unreadable
from indexer.sources.media import MediaReader


class Web:
    """Servers of which some do not answer; each request takes ten seconds of its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dead = {"dead.example"}
        self.asked: list[str] = []

    def clock(self) -> float:
        return self.now

    def get(self, url: str, **_: object) -> Fetched:
        host = url.split("/")[2]
        self.asked.append(host)
        if host in self.dead:
            self.now += 10
            raise FetchFailed(reason="timeout")
        return Fetched(200, b"x")

    def close(self) -> None:
        pass


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def reader(web: Web, monkeypatch: pytest.MonkeyPatch) -> MediaReader:
    monkeypatch.setattr(media, "pause_s", lambda error, attempt: None)
    return MediaReader(web, threading.Event(), clock=web.clock)  # type: ignore[arg-type]


def read(reader: MediaReader, host: str) -> str:
    """What came of reading a picture of a host: `read`, or the class of its failure."""
    entry = Entry("k", "k", "1", url=f"http://{host}/a.jpg")
    try:
        reader.read(entry, max_bytes=9, etag=None, modified=None)
    except Unreadable as error:
        return error.reason if error.retry_after and not error.permanent else "wrong"
    except FetchFailed as error:
        return error.reason or ""
    return "read"


def test_a_host_that_never_answers_is_left_alone_and_asked_again_later(
    web: Web, reader: MediaReader
) -> None:
    came = [read(reader, "dead.example") for _ in range(50)]
    assert came[0] == "timeout"
    assert came[-1] == "host_resting"
    assert len(web.asked) <= 10, "it was asked and asked"
    assert read(reader, "live.example") == "read", "others go on"
    web.now += media.ALONE_S
    assert read(reader, "dead.example") == "timeout"
    assert read(reader, "dead.example") == "host_resting", "still silent: one look was enough"
    web.now += media.ALONE_S
    web.dead.clear()
    assert [read(reader, "dead.example") for _ in range(9)] == ["read"] * 9


def test_a_host_that_answers_now_and_then_is_asked_on(web: Web, reader: MediaReader) -> None:
    for _ in range(20):
        assert read(reader, "dead.example") == "timeout"
        assert read(reader, "dead.example") == "timeout"
        web.dead.clear()
        assert read(reader, "dead.example") == "read"
        web.dead.add("dead.example")


def test_a_short_outage_leaves_nobody_alone(web: Web, reader: MediaReader) -> None:
    for _ in range(5):
        assert read(reader, "dead.example") == "timeout"
    web.dead.clear()
    assert read(reader, "dead.example") == "read"
