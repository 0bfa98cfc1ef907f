"""A CMS that lists its media as paged JSON, and pictures that break the decoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pymongo.database import Database

from faces.errors import InvalidImage
from tests import media_server
from tests.indexing import Index, prepared
from tests.media_server import Handler, Server


@pytest.fixture
def media(samples_dir: Path) -> Iterator[Server]:
    with media_server.serving() as server:
        for number, person in enumerate(sorted((samples_dir / "gallery").iterdir())):
            server.files[f"/files/{number}.jpg"] = sorted(person.iterdir())[0].read_bytes()
        yield server


@pytest.fixture
def index(database: Database[dict[str, Any]], atlas: str, models_dir: Path, media: Server) -> Index:
    index = prepared(database, atlas, models_dir)
    index.env |= {
        "CMS_SOURCE": "http",
        "CMS_SOURCE_NAME": "cms",
        "CMS_HTTP_URL": media.url("/list?site=1"),
        "CMS_FIELD_ID": "id",
    }
    return index


def listing(items: list[Any], each: int = 2) -> media_server.Answer:
    """A listing of `items`, `each` a page."""

    def answer(handler: Handler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        assert query["site"] == ["1"]
        start = int(query.get("cursor", ["0"])[0])
        following = start + each if start + each < len(items) else None
        page = {"items": items[start : start + each], "next_cursor": following}
        handler.reply(200, json.dumps(page).encode())

    return answer


def items(*numbers: int, **fields: object) -> list[dict[str, object]]:
    return [{"id": n, "url": f"/files/{n}.jpg", "updated_at": "1", **fields} for n in numbers]


def test_a_paged_listing_is_followed_and_what_it_drops_goes(index: Index, media: Server) -> None:
    media.behaviours["/list"] = listing([*items(0, 1, 2, 3), "no object"])
    said = index.once()
    assert {key for key, item in index.media().items() if item["state"] == "done"} == set("0123")
    assert "(bad_record)" in said
    media.behaviours["/list"] = listing(items(0, 2, 3, 4))
    index.once()
    assert set(index.media()) == set("0234")
    # Without a time of change each picture is asked for under its validators.
    media.behaviours["/list"] = listing(items(0, 2, updated_at=None))
    index.once()
    before = media.counts()
    index.once()
    assert media.counts()["/files/0.jpg"] == before["/files/0.jpg"] + 1
    assert media.requests[-1][1]["If-None-Match"]


def test_an_id_that_is_listed_twice_and_a_source_that_moves_are_said(
    index: Index, media: Server
) -> None:
    media.behaviours["/list"] = listing([*items(0, 1, 2), *items(0)])
    assert "1 entries of the listing had an id" in index.once()
    before = index.state()
    said = index.once(status=1, CMS_COLLECTION="other")
    assert "CMS_COLLECTION=default" in said
    assert index.state() == before


def test_a_listing_that_breaks_off_in_the_middle_deletes_nothing(
    index: Index, media: Server
) -> None:
    media.behaviours["/list"] = listing(items(0, 1, 2))
    index.once()
    whole = listing(items(3, 4, 5))

    def broken(handler: Handler) -> None:
        if "cursor" in handler.path:
            handler.reply(502, b"")
        else:
            whole(handler)

    media.behaviours["/list"] = broken
    said = index.once(status=1)
    assert "could not be read" in said
    assert "127.0.0.1" not in said
    assert set(index.media()) == set("01234")


def test_a_picture_that_kills_the_decoder_is_set_aside_after_two_tries(
    index: Index, media: Server, tmp_path: Path
) -> None:
    poison = b"\xff\xd8poison"
    media.files["/files/9.jpg"] = poison
    media.behaviours["/list"] = listing(items(0, 9, 1))
    # The decoder's child ends on these bytes, as a broken C library would.
    killer = tmp_path / "sitecustomize.py"
    killer.write_text(
        "from faces import pipeline, errors\n"
        "whole = pipeline.Pipeline.analyse\n"
        "def analyse(self, data, **more):\n"
        f"    if data == {poison!r}:\n"
        "        raise errors.InvalidImage('decoder_failed')\n"
        "    return whole(self, data, **more)\n"
        "pipeline.Pipeline.analyse = analyse\n"
    )
    assert InvalidImage("decoder_failed").reason == "decoder_failed"
    env = {"PYTHONPATH": f"{tmp_path}:."}
    index.once(**env)
    item = index.media()["9"]
    assert (item["error"]["class"], item["error"]["permanent"], item["attempts"]) == (
        "decoder_failed",
        False,
        1,
    )
    index.db.likeness_media.update_one(
        {"_id": item["_id"]}, {"$set": {"next_at": item["created_at"]}}
    )
    index.once(**env)
    assert index.media()["9"]["error"]["permanent"] is True
    before = media.counts()
    said = index.once(**env)
    assert "1 still broken" in said
    assert media.counts()["/files/9.jpg"] == before["/files/9.jpg"]
    assert {key for key, row in index.media().items() if row["state"] == "done"} == set("01")
