"""What is decided about one entry, from values alone."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faces.errors import (
    FetchFailed,
    ImageTooLarge,
    InvalidImage,
    InvalidRequest,
    UnsupportedImage,
    UrlNotAllowed,
)
from faces.records import KnownItem
from indexer.plan import Brake, decide
from indexer.retry import HOUR, MINUTE, classify, pause_s
from indexer.seen import Seen
from indexer.sources.base import Body, Entry, Gone, Unreadable, media_id_of
from indexer.stamp import Stamp, decode, info_of, stamp_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ENTRY = Entry("k", "k", "v1", url="http://cms.example/a.jpg", title="A")


def stored(entry: Entry = ENTRY, **changes: object) -> KnownItem:
    """What is stored after `entry` was indexed."""
    stamp = stamp_of(entry, "1").fetched(Body(b"", etag='"e"', modified=None))
    item = KnownItem(
        source_key=entry.key,
        media_id=entry.media_id,
        etag=stamp.encode(),
        sha256="0" * 64,
        state="done",
        pipeline_version="1",
        attempts=0,
        next_at=None,
        error=None,
        error_permanent=False,
        hidden=entry.hidden,
        updated_at=NOW,
        rev=1,
        url=entry.url,
        collection="default",
    )
    return replace(item, **changes)  # type: ignore[arg-type]


def verb(entry: Entry, known: KnownItem | None, pipeline: str = "1") -> str:
    return decide(entry, known, pipeline=pipeline, now=NOW).verb


def test_a_new_entry_is_fetched_and_a_hidden_one_left_alone() -> None:
    assert verb(ENTRY, None) == "fetch"
    assert verb(replace(ENTRY, hidden=True), None) == "skip"


def test_an_unchanged_entry_costs_nothing() -> None:
    assert verb(ENTRY, stored()) == "skip"
    assert verb(ENTRY, stored(state="no_face")) == "skip"


@pytest.mark.parametrize(
    "change", [{"title": "B"}, {"url": "http://cms.example/b.jpg"}, {"hidden": True},
               {"taken_at": NOW}, {"metadata": {"a": 1.0}}],
)  # fmt: skip
def test_what_is_no_picture_is_written_without_a_fetch(change: dict[str, object]) -> None:
    entry = replace(ENTRY, **change)  # type: ignore[arg-type]
    step = decide(entry, stored(), pipeline="1", now=NOW)
    assert step.verb == "inform"
    assert step.stamp.etag == (None if "url" in change else '"e"')
    again = stored(etag=step.stamp.encode(), hidden=entry.hidden, url=entry.url)
    assert verb(entry, again) == "skip"


def test_a_changed_version_is_fetched_under_the_old_validator() -> None:
    step = decide(replace(ENTRY, version="v2"), stored(), pipeline="1", now=NOW)
    assert step.verb == "fetch"
    assert step.conditions is not None
    assert step.conditions.etag == '"e"'


def test_a_hidden_entry_is_hidden_without_a_fetch_whatever_its_version() -> None:
    step = decide(replace(ENTRY, version="v2", hidden=True), stored(), pipeline="1", now=NOW)
    assert step.verb == "inform"
    assert step.stamp.version == "v1", "the faces are still those of v1"
    shown = replace(ENTRY, version="v2")
    assert verb(shown, stored(etag=step.stamp.encode(), hidden=True)) == "fetch"


def test_a_new_pipeline_looks_again_and_asks_for_the_whole_picture() -> None:
    step = decide(ENTRY, stored(), pipeline="2", now=NOW)
    assert (step.verb, step.conditions) == ("fetch", None)


def test_a_source_without_versions_is_asked_under_the_validator() -> None:
    entry = replace(ENTRY, version=None)
    step = decide(entry, stored(entry), pipeline="1", now=NOW)
    assert step.verb == "fetch"
    assert step.conditions is not None


def test_validators_are_not_sent_to_another_url() -> None:
    moved = replace(ENTRY, url="http://cms.example/older.jpg")
    blind = replace(ENTRY, version=None)
    for listed, known in (
        (replace(moved, version="v2"), stored()),
        (replace(moved, version=None), stored(blind)),
    ):
        step = decide(listed, known, pipeline="1", now=NOW)
        assert (step.verb, step.conditions) == ("fetch", None)
    # The same bytes by the source's word: nothing is fetched, and the old URL's validators go.
    step = decide(moved, stored(), pipeline="1", now=NOW)
    assert (step.verb, step.stamp.etag) == ("inform", None)


def test_failures_wait_last_or_come_due() -> None:
    later, earlier = NOW + dt.timedelta(seconds=1), NOW - dt.timedelta(seconds=1)
    assert verb(ENTRY, stored(state="failed", next_at=later)) == "wait"
    assert verb(ENTRY, stored(state="failed", next_at=earlier)) == "fetch"
    assert verb(ENTRY, stored(state="failed", error_permanent=True)) == "broken"
    changed = replace(ENTRY, version="v2")
    assert verb(changed, stored(state="failed", error_permanent=True)) == "fetch"
    assert verb(changed, stored(state="failed", next_at=later)) == "fetch"
    blind = replace(ENTRY, version=None)
    assert verb(blind, stored(blind, state="failed", next_at=later)) == "wait"


def test_who_means_it_need_not_wait() -> None:
    later = NOW + dt.timedelta(hours=9)
    aside = stored(state="failed", error="truncated", error_permanent=True)
    waits = stored(state="failed", error="fetch_status", next_at=later)
    held = stored(state="failed", error="not_found", attempts=3, next_at=later)
    for known in (aside, waits, held):
        assert decide(ENTRY, known, pipeline="1", now=NOW, again=True).verb == "fetch"
    released = [
        decide(ENTRY, known, pipeline="1", now=NOW, allow_deletes=True).verb
        for known in (aside, waits, held, replace(held, attempts=2), replace(held, sha256=None))
    ]
    assert released == ["broken", "wait", "fetch", "wait", "wait"]


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", "[1]", '["a",2,"1"]', None, "null", "[[[["])
def test_a_stamp_that_is_none_makes_the_item_look_changed(text: str | None) -> None:
    assert decode(text) is None
    assert verb(ENTRY, stored(etag=text)) == "fetch"


@given(
    st.none() | st.text(max_size=300),
    st.none() | st.text(max_size=300),
    st.none() | st.text(max_size=300),
)
def test_a_stamp_comes_back_as_it_was(
    version: str | None, etag: str | None, modified: str | None
) -> None:
    entry = Entry("k", "k", version)
    stamp = stamp_of(entry, "1").fetched(Body(b"", etag, modified))
    assert decode(stamp.encode()) == stamp
    assert len(stamp.encode()) < 8000
    assert info_of(entry, stamp).etag == stamp.encode()


@pytest.mark.parametrize(
    ("going", "known", "held"),
    [(20, 20, False), (21, 21, True), (21, 200, False), (40, 200, False), (41, 200, True)],
)
def test_the_brake_needs_both_a_share_and_a_number(going: int, known: int, held: bool) -> None:
    assert Brake(0.2).holds(going, known) is held


@pytest.mark.parametrize(
    ("error", "reason", "lasting_from"),
    [
        (Gone(), "not_found", 3),
        (FetchFailed(reason="status", status=404), "not_found", 3),
        (FetchFailed(reason="status", status=410), "not_found", 3),
        (FetchFailed(reason="status", status=503), "fetch_status", None),
        (FetchFailed(reason="timeout"), "fetch_timeout", None),
        (FetchFailed(reason="too_large"), "image_too_large", 1),
        (UrlNotAllowed(), "url_not_allowed", 1),
        (InvalidImage("empty"), "empty", 3),
        (InvalidImage("decoder_failed"), "decoder_failed", 2),
        (InvalidImage("truncated"), "truncated", 1),
        (UnsupportedImage(), "unsupported_image", 1),
        (ImageTooLarge(), "image_too_large", 1),
        (Unreadable("not_a_file", "", permanent=True), "not_a_file", 1),
        (InvalidRequest("metadata"), "bad_record", 1),
    ],
)
def test_each_failure_has_a_class_and_an_end(
    error: Exception, reason: str, lasting_from: int | None
) -> None:
    for attempt in (1, 2, 3, 50):
        failure = classify(error, attempt)
        assert failure is not None
        assert failure.reason == reason
        assert failure.permanent is (lasting_from is not None and attempt >= lasting_from)
        assert (failure.delay_s is None) is failure.permanent


def test_what_is_not_the_items_fault_is_no_failure_of_it() -> None:
    assert classify(RuntimeError(), 1) is None


@given(st.integers(1, 100), st.floats(0, 1))
def test_delays_grow_to_a_bound_and_respect_the_server(attempt: int, jitter: float) -> None:
    failure = classify(FetchFailed(reason="timeout"), attempt, jitter=lambda: jitter)
    assert failure is not None
    assert failure.delay_s is not None
    assert MINUTE / 2 <= failure.delay_s <= 6 * HOUR
    asked = FetchFailed(reason="status", status=429, retry_after=3600.0)
    told = classify(asked, attempt, jitter=lambda: jitter)
    assert told is not None
    assert told.delay_s is not None
    assert told.delay_s >= 3600


def test_a_run_waits_briefly_itself_and_leaves_the_rest_for_later() -> None:
    busy = FetchFailed(reason="status", status=503)
    assert pause_s(busy, 1, jitter=lambda: 0.0) == 0.25
    assert pause_s(busy, 3) is None
    assert pause_s(FetchFailed(reason="status", status=429, retry_after=2.0), 1) is not None
    assert pause_s(FetchFailed(reason="status", status=429, retry_after=60.0), 1) is None
    assert pause_s(FetchFailed(reason="status", status=404), 1) is None
    assert pause_s(FetchFailed(reason="too_large"), 1) is None


@pytest.mark.parametrize("many", [10, 100_000])
@given(
    first=st.sets(st.text(max_size=20), max_size=50),
    second=st.sets(st.text(max_size=20), max_size=50),
)
def test_seen_keys_are_exactly_those_added(many: int, first: set[str], second: set[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexer.seen.MANY", many)
        _check_seen(Seen(), first, second)


def _check_seen(seen: Seen, first: set[str], second: set[str]) -> None:
    seen.add(first)
    assert all(key in seen for key in first)
    seen.add(second)
    assert all(key in seen for key in first | second)
    assert not any(f"{key}\0other" in seen for key in first | second)
    assert seen.repeated() == len(first & second)


@pytest.mark.parametrize(
    ("key", "media_id"),
    [("a/b.jpg", "a/b.jpg"), ("cafe\u0301", "caf\u00e9"), ("", None), ("x" * 256, None),
     ("a\0", None), ("a\n", None), ("\u202e", None), ("\ud800", None)],
)  # fmt: skip
def test_a_key_becomes_a_media_id_or_is_refused(key: str, media_id: str | None) -> None:
    assert media_id_of(key) == media_id


def test_a_stamp_is_short_whatever_the_source_says() -> None:
    stamp = stamp_of(Entry("k", "k", "v" * 10_000), "1")
    assert len(stamp.fetched(Body(b"", "e" * 10_000, "m" * 10_000)).encode()) < 300
    assert isinstance(decode(stamp.encode()), Stamp)
