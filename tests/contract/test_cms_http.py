"""A CMS's JSON listing over real HTTP: what is complete is read, everything else is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from faces.addresses import parse_origins
from faces.errors import LikenessError
from faces.fetch import Fetcher
from faces.settings import Settings
from indexer.sources.base import Entry, SourcePaused, SourceUnreadable
from indexer.sources.http import HttpSource
from indexer.sources.media import MediaReader
from indexer.sources.records import Fields, Reader
from tests import media_server
from tests.media_server import Server


@pytest.fixture
def media() -> Iterator[Server]:
    with media_server.serving() as server:
        yield server


@pytest.fixture
def source(media: Server) -> Iterator[HttpSource]:
    stopping = threading.Event()
    url = media.url("/list")
    listing, pictures = (Fetcher(parse_origins([media.origin]), timeout=10) for _ in range(2))
    reader = Reader(Fields.of(Settings(cms_field_id="id")), url)
    made = HttpSource(url, reader, listing, MediaReader(pictures, stopping), stopping)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("behaviour", "error", "sentence"),
    [
        (media_server.failing(401), SourcePaused, "refuses its listing"),
        (media_server.failing(403), SourcePaused, "refuses its listing"),
        (media_server.failing(404), SourceUnreadable, "could not be read"),
        (media_server.failing(500), SourceUnreadable, "could not be read"),
        (media_server.truncated(b"{}", 100), SourceUnreadable, "could not be read"),
        (lambda h: h.reply(200, b"<html>"), SourceUnreadable, "is not JSON of the form"),
        (lambda h: h.reply(200, b"[" * 100_000), SourceUnreadable, "is not JSON of the form"),
        (lambda h: h.reply(200, b"\xff"), SourceUnreadable, "is not JSON of the form"),
        (lambda h: h.reply(200, b'{"items": {}}'), SourceUnreadable, "is not JSON of the form"),
        (
            lambda h: h.reply(200, b'{"items": [], "next_cursor": []}'),
            SourceUnreadable,
            "next_cursor",
        ),
        (
            lambda h: h.reply(200, b'{"items": [], "next_cursor": "x"}'),
            SourceUnreadable,
            "in a circle",
        ),
        (
            media_server.redirect("http://127.0.0.1:1/list"),
            SourceUnreadable,
            "may not be fetched",
        ),
    ],
)
def test_a_listing_that_is_not_complete_says_so(
    source: HttpSource,
    media: Server,
    behaviour: media_server.Answer,
    error: type[LikenessError],
    sentence: str,
) -> None:
    media.behaviours["/list"] = behaviour
    with pytest.raises(error, match=sentence) as refused:
        list(source.pages(None))
    assert "127.0.0.1" not in refused.value.detail


def test_a_listing_in_passing_trouble_is_asked_again(source: HttpSource, media: Server) -> None:
    answers = iter([500, 503])

    def flaky(handler: media_server.Handler) -> None:
        status = next(answers, 200)
        body = b'{"items": [{"id": 1, "url": "a.jpg"}]}' if status == 200 else b""
        handler.reply(status, body)

    media.behaviours["/list"] = flaky
    (page,) = source.pages(None)
    (entry,) = page.entries
    assert isinstance(entry, Entry)
    assert entry.url == f"http://{media.origin}/a.jpg"
    assert len(media.requests) == 3


def test_one_entry_can_be_looked_up(source: HttpSource, media: Server) -> None:
    media.behaviours["/list"] = lambda h: h.reply(200, b'{"items": [{"id": 1, "url": "/a"}]}')
    assert list(source.lookup(["1", "2"])) == ["1"]
    assert source.lookup([]) == {}
    assert source.absent(["1", "2"]) == {"2"}, "read once more before anything counts as gone"


def test_a_picture_is_read_under_both_validators(source: HttpSource, media: Server) -> None:
    def answer(handler: media_server.Handler) -> None:
        if handler.headers.get("If-Modified-Since") == "Thu, 01 Jan 2026 00:00:00 GMT":
            handler.reply(304, b"")
        else:
            handler.reply(200, b"photo", Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    media.behaviours["/a"] = answer
    entry = Entry("1", "1", None, url=media.url("/a"))
    body = source.read(entry, max_bytes=100, etag=None, modified=None)
    assert body.data == b"photo"
    again = source.read(entry, max_bytes=100, etag=body.etag, modified=body.modified)
    assert again.data is None
