"""A CMS's records, of any shape, read into entries."""

from __future__ import annotations

import datetime as dt
import unicodedata
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest
from bson import Code, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from faces.documents import MAX_METADATA_BYTES, metadata_size
from faces.settings import Settings
from indexer.sources import base
from indexer.sources.base import Entry, Unusable
from indexer.sources.records import Fields, Reader

READER = Reader(Fields.of(Settings()), "https://cms.example/media/", frozenset({"live"}))
GOOD: dict[str, Any] = {"_id": "k", "url": "https://cdn.example/a.jpg", "status": "live"}


def entry(**fields: Any) -> Entry:
    listed = READER.read(GOOD | fields)
    assert isinstance(listed, Entry), listed
    return listed


def test_a_plain_record_becomes_an_entry() -> None:
    when = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    read = entry(
        _id=ObjectId("0" * 24), title="T", taken_at="2026-01-02T01:00:00+01:00", updated_at=when
    )
    assert (read.key, read.title, read.taken_at) == ("0" * 24, "T", when)
    assert read.version == when.isoformat()
    assert read.hidden is False


@pytest.mark.parametrize(
    "value",
    [None, False, "", 0, 0.0, "0", "FALSE", " No ", "null", [], {}, "0000-00-00 00:00:00"],
)
def test_what_is_not_deleted_stays(value: Any) -> None:
    assert entry(deleted_at=value)


@pytest.mark.parametrize("value", [True, 1, "2026-01-01", dt.datetime(2026, 1, 1), {"by": "x"}])
def test_what_is_deleted_is_not_listed(value: Any) -> None:
    assert READER.read(GOOD | {"deleted_at": value}) is None


def test_other_media_are_not_listed() -> None:
    assert READER.read(GOOD | {"mime_type": "video/mp4"}) is None
    assert entry(mime_type="image/png")
    assert entry(mime_type=7)


@pytest.mark.parametrize(
    ("status", "hidden"), [("live", False), ("draft", True), (None, True), ({}, True)]
)
def test_only_visible_statuses_are_shown(status: Any, hidden: bool) -> None:
    assert entry(status=status).hidden is hidden


@pytest.mark.parametrize(
    ("visible", "status", "hidden"),
    [
        ("true", True, False),
        ("True", True, False),
        ("true", False, True),
        ("true", "true", False),
        ("1", 1, False),
        ("1", 1.0, False),
        ("1", True, True),
        ("1", 2.5, True),
    ],
)
def test_a_status_is_read_as_json_writes_it(visible: str, status: Any, hidden: bool) -> None:
    read = Reader(Fields.of(Settings()), None, frozenset({visible})).read(GOOD | {"status": status})
    assert isinstance(read, Entry)
    assert read.hidden is hidden


@pytest.mark.parametrize("fields", [{"url": None}, {"url": 7}, {"title": {}}, {"metadata": "x"}])
def test_what_is_not_published_is_hidden_whatever_else_is_wrong(fields: dict[str, Any]) -> None:
    assert entry(status="draft", **fields).hidden is True


@pytest.mark.parametrize(
    ("value", "key"),
    [(7, "7"), (7.0, "7"), (-3.0, "-3"), (uuid.UUID(int=5), str(uuid.UUID(int=5)))],
)
def test_ids_are_read_as_people_write_them(value: Any, key: str) -> None:
    assert entry(_id=value).key == key


@pytest.mark.parametrize("value", [7.5, 1e300, float("nan"), float("inf"), b"7", Code("7")])
def test_what_is_no_id_is_told_by_itself_and_not_by_what_changes_beside_it(value: Any) -> None:
    first, later = (READER.read(GOOD | {"_id": value, "views": n}) for n in (1, 2))
    assert isinstance(first, Unusable)
    assert first == later


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("a/b.jpg", "https://cms.example/media/a/b.jpg"),
        ("/b.jpg", "https://cms.example/b.jpg"),
        ("//cdn.example/c.jpg", "https://cdn.example/c.jpg"),
        ("HTTP://cdn.example/d.jpg", "http://cdn.example/d.jpg"),
    ],
)
def test_relative_urls_are_joined_to_the_base(url: str, read: str) -> None:
    assert entry(url=url).url == read


@pytest.mark.parametrize(
    "fields",
    [
        {"url": value}
        for value in (
            None,
            "",
            7,
            [],
            {},
            "ftp://x/a",
            "http://a:b/",
            "x" * 9000,
            b"u",
            "http:///a",
            "http:////x]",
            "https:////photo[1/a.jpg",
        )
    ]
    + [{"title": 7}, {"title": []}, {"metadata": "x"}, {"metadata": [1]}],
)
def test_a_field_of_the_wrong_shape_is_named_and_not_shown(fields: dict[str, Any]) -> None:
    listed = READER.read(GOOD | fields)
    assert isinstance(listed, Unusable)
    assert listed.reason == "bad_record"
    assert next(iter(fields)) in listed.detail


def test_the_same_broken_record_looks_the_same_and_a_changed_one_does_not() -> None:
    first, same = READER.read(GOOD | {"url": 1}), READER.read(GOOD | {"url": 1})
    other = READER.read(GOOD | {"url": 2})
    assert isinstance(first, Unusable)
    assert isinstance(other, Unusable)
    assert first == same
    assert first.version != other.version


@pytest.mark.parametrize("record", [None, 7, "x", [], {}, {"_id": None}, {"_id": {"a": 1}},
                                    {"_id": True}, {"_id": "a\0"}, {"_id": "x" * 300}])  # fmt: skip
def test_a_record_without_a_usable_id_is_still_counted(record: Any) -> None:
    listed = READER.read(record)
    assert isinstance(listed, Unusable)
    assert listed.key.startswith("record-")


def test_only_plain_and_harmless_metadata_is_kept() -> None:
    metadata = {"a": 1, "b": True, "c": "x\0y", "$where": "z", "d.e": 1, "f": [1], "g": {},
                "h": float("nan"), "i": float("inf"), "j": 10**400, "k": None, 5: "n",
                "a name": 1, "x" * 65: 1}  # fmt: skip
    assert entry(metadata=metadata).metadata == {"a": 1.0, "b": True, "c": "xy"}
    assert len(entry(metadata={f"m{n}": n for n in range(500)}).metadata) <= 64


def test_metadata_is_kept_as_far_as_its_room_goes() -> None:
    long = {f"m{n}": "é" * 4000 for n in range(64)} | {"city": "Paris"}
    kept = entry(metadata=long).metadata
    assert set(kept) == {"m0", "city"}
    assert metadata_size(kept) <= MAX_METADATA_BYTES


def test_fields_can_be_nested() -> None:
    fields = Fields.of(Settings(cms_field_id="meta.id", cms_field_url="file.src"))
    read = Reader(fields).read({"meta": {"id": 5}, "file": {"src": "http://x/a"}})
    assert isinstance(read, Entry)
    assert (read.key, read.url) == ("5", "http://x/a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
URLS = st.lists(
    st.sampled_from(("http:", "//", "/", "[", "]", "@", ":", "%", "x", "xn--", "\u2100"))
)
NAMES = st.sampled_from([*Fields.of(Settings()).names(), "other"])


@given(st.dictionaries(NAMES, JSON) | JSON)
def test_no_record_whatever_its_shape_breaks_the_scan(record: Any) -> None:
    listed = READER.read(record)
    if isinstance(listed, Entry) and (listed.url is not None or not listed.hidden):
        assert listed.url is not None
        assert listed.url.startswith(("http://", "https://"))
        assert listed.taken_at is None or listed.taken_at.tzinfo is not None


@given(URLS.map("".join))
def test_every_url_of_an_entry_can_be_taken_apart(url: str) -> None:
    """One that could not, without a host and with a bracket, ended every run."""
    listed = READER.read(GOOD | {"url": url})
    if isinstance(listed, Entry):
        assert listed.url is not None
        assert urlsplit(listed.url).netloc


@pytest.mark.parametrize("value", ["\ud800", "a\ud800", "a\0", "x" * 100_000])
def test_a_version_is_one_that_can_be_stored(value: str) -> None:
    """One record with half a character as its date ended the whole run, every night."""
    version = entry(updated_at=value).version
    assert version is not None
    assert len(version.encode()) <= 256
    assert "\0" not in version
    assert version == entry(updated_at=value).version != entry(updated_at=value + "y").version


def test_an_id_of_endless_accents_is_not_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes minutes over a megabyte of them, and nothing else runs meanwhile."""
    longest = "\u1f82" * 255
    assert entry(_id=unicodedata.normalize("NFD", longest)).media_id == longest
    monkeypatch.setattr(base, "unicodedata", None)
    read = READER.read(GOOD | {"_id": "a" + "\u0301\u0316" * 600})
    assert isinstance(read, Unusable)
    assert read.key.startswith("record-")
