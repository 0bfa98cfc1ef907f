"""A CMS's paged listing, read from a server that need not behave."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from faces.settings import Settings
from indexer.sources import listed
from indexer.sources.base import Source, SourceUnreadable, Unusable
from indexer.wiring import source_of
from tests import media_server
from tests.media_server import Handler, Server


@pytest.fixture
def server() -> Iterator[Server]:
    with media_server.serving() as server:
        yield server


@pytest.fixture
def source(server: Server) -> Iterator[Source]:
    settings = Settings(
        cms_source="http", cms_http_url=server.url("/list?site=1"), cms_field_id="id"
    )
    with contextlib.closing(source_of(settings, threading.Event())) as source:
        yield source


def page(*ids: str, following: object = None) -> dict[str, Any]:
    items = [{"id": name, "url": f"/{name}.jpg"} for name in ids]
    return {"items": items, "next_cursor": following}


def answers(server: Server, pages: dict[str | None, Any]) -> None:
    """Let the listing give each cursor its page."""

    def answer(handler: Handler) -> None:
        cursor = parse_qs(urlsplit(handler.path).query).get("cursor", [None])[0]
        handler.reply(200, json.dumps(pages[cursor]).encode())

    server.behaviours["/list"] = answer


def keys(source: Source) -> list[str]:
    return [entry.key for listing in source.pages(None) for entry in listing.entries]


@pytest.mark.parametrize("end", [None, ""])
def test_a_listing_ends_where_it_says_so(server: Server, source: Source, end: object) -> None:
    answers(server, {None: page("a", following=0), "0": page("b", following=end)})
    assert keys(source) == ["a", "b"]


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({None: page("a", following="x"), "x": page("a", following="x")}, "in a circle"),
        ({None: page("a", following=False)}, "next_cursor"),
        ({None: page("a", following=[])}, "next_cursor"),
        ({None: page("a", following="\ud800")}, "next_cursor"),
        ({None: page("a", following="x" * 9000)}, "next_cursor"),
        ({None: {"data": []}}, "not JSON of the form"),
        ({None: [{"id": "a"}]}, "not JSON of the form"),
        ({None: {"items": {"a": 1}}}, "not JSON of the form"),
    ],
)
def test_a_listing_of_another_form_is_not_taken_for_complete(
    server: Server, source: Source, pages: dict[str | None, Any], said: str
) -> None:
    answers(server, pages)
    with pytest.raises(SourceUnreadable, match=said) as failed:
        keys(source)
    assert "Nothing was deleted" in failed.value.detail


def test_a_redirect_out_of_the_origin_is_explained(server: Server, source: Source) -> None:
    server.behaviours["/list"] = media_server.redirect("http://127.0.0.1:1/list")
    with pytest.raises(SourceUnreadable, match=r"its own origin only.*Nothing was deleted"):
        keys(source)


def test_what_slips_between_two_pages_is_not_gone(server: Server, source: Source) -> None:
    # `a` was deleted at the CMS while the listing was read, and `c` moved to the page before.
    answers(server, {None: page("a", "b", following=2), "2": page("d")})
    listed = set(keys(source))
    answers(server, {None: page("b", "c", following=2), "2": page("d")})
    assert source.absent(sorted({"a", "b", "c", "d"} - listed)) == set()
    assert source.absent(["a", "c"]) == {"a"}


@pytest.mark.parametrize(
    "spoilt",
    [
        "[" * 5000 + "]" * 5000,
        '{"a": "]", "b": [' * 2000 + "1" + ', "\\"}"]}' * 2000,
        "9" * 5000,
        "-" + "9" * 5000,
    ],
    ids=["lists", "objects", "a long number", "a long negative number"],
)
def test_one_record_that_python_cannot_read_spoils_no_other(
    server: Server, source: Source, spoilt: str
) -> None:
    """Whoever could put it into the CMS ended every run."""
    items = json.dumps(page("a", "b", "c", following=None))
    items = items.replace('"id": "b"', f'"id": "b", "url": {spoilt}, "more": {spoilt}')
    items = items.replace('"id": "c"', f'"id": {spoilt}')
    server.behaviours["/list"] = lambda handler: handler.reply(200, items.encode())
    (listing,) = source.pages(None)
    first, second, third = listing.entries
    assert (first.key, second.key, third.key[:7]) == ("a", "b", "record-")
    assert isinstance(third, Unusable)


@pytest.mark.parametrize("text", ["[" * 5000, '{"items": ' + "[" * 5000 + "}" * 5000])
def test_a_listing_that_does_not_end_is_refused(server: Server, source: Source, text: str) -> None:
    server.behaviours["/list"] = lambda handler: handler.reply(200, text.encode())
    with pytest.raises(SourceUnreadable, match="not JSON of the form"):
        keys(source)


@pytest.mark.parametrize("end", ["", "\\"])
def test_a_text_that_does_not_end_is_gone_through_once(end: str) -> None:
    """Each of its quotes was tried as a beginning: half a megabyte took minutes."""
    assert len(listed._MARK.findall('["' + '\\"' * 1000 + end)) == 2
