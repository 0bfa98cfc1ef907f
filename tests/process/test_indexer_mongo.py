"""The reconcile of a real CMS collection whose pictures come from a real, unreliable server."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from pathlib import Path
from threading import Event
from typing import Any

import bson
import pytest
from bson import Binary, ObjectId, json_util
from bson.datetime_ms import DatetimeMS

from faces.fetch import Fetcher
from faces.leases import Holder, Leases
from faces.settings import Settings
from indexer.sources.base import Entry
from indexer.sources.connection import records_of
from indexer.sources.media import MediaReader
from indexer.sources.mongo import MongoSource
from indexer.sources.records import Fields, Reader
from tests import media_server
from tests.cms import Cms


def test_records_are_followed_through_their_life(cms: Cms) -> None:
    first, second = cms.add(0), cms.add(1)
    draft = cms.add(2, status="draft")
    video = cms.add(3, mime_type="video/mp4")
    relative = cms.add(4, url="/p4.jpg")
    cms.index.env["CMS_BASE_URL"] = f"http://{cms.media.origin}/x/"
    said = cms.index.once()
    assert "cms → default" in said
    assert set(cms.index.media()) == {str(first), str(second), str(relative)}
    assert str(draft) not in said
    assert cms.item(first)["title"] == "Picture 0"  # type: ignore[index]
    assert not cms.media.counts()["/p2.jpg"]
    assert not cms.media.counts()["/p3.jpg"]

    # Nothing changed: nothing is asked for.
    before = cms.media.counts()
    assert "3 unchanged" in cms.index.once() or "4 unchanged" in cms.index.once()
    assert cms.media.counts() == before

    # Title and status need no picture; a hidden item's faces are hidden at once.
    cms.touch(first, title="Renamed")
    cms.touch(second, status="draft", updated_at=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    faces = cms.index.faces(media_id=str(second))
    cms.index.once()
    assert cms.media.counts() == before
    assert cms.item(first)["title"] == "Renamed"  # type: ignore[index]
    assert cms.item(second)["hidden"] is True  # type: ignore[index]
    assert {f["hidden"] for f in cms.index.faces(media_id=str(second)).values()} == {True}

    # Published again with a later time: the picture is asked for under its validator, and is 304.
    cms.touch(second, status="published")
    cms.index.once()
    assert cms.media.counts()["/p1.jpg"] == before["/p1.jpg"] + 1
    assert "If-None-Match" in cms.media.requests[-1][1]
    assert set(cms.index.faces(media_id=str(second), hidden=False)) == set(faces)

    # A new picture under the same record: new faces. Deleted, by flag or for good: gone.
    old = cms.index.faces(media_id=str(first))
    cms.media.files["/p0.jpg"] = cms.photos[5]
    cms.touch(first, updated_at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    cms.touch(second, deleted_at=dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    cms.records.delete_one({"_id": relative})
    cms.records.delete_one({"_id": video})
    said = cms.index.once()
    assert "2 deleted" in said
    assert set(cms.index.media()) == {str(first)}
    new = cms.index.faces(media_id=str(first))
    assert new
    assert {f["image_id"] for f in new.values()}.isdisjoint(f["image_id"] for f in old.values())
    assert set(cms.index.faces()) == set(new)


def test_a_record_of_the_wrong_shape_is_recorded_and_the_scan_goes_on(cms: Cms) -> None:
    good = cms.add(0)
    bad = {
        "null": cms.add(1, url=None),
        "list": cms.add(1, url=["a"]),
        "number": cms.add(1, url=7),
        "long": cms.add(1, url="http://" + "a" * 100_000),
        "scheme": cms.add(1, url="file:///etc/passwd"),
        "title": cms.add(1, title={"$gt": ""}),
        "metadata": cms.add(1, metadata=[1]),
    }
    odd = cms.add(2, updated_at=None, taken_at="never", metadata={"ok": 1, "$where": "x", "l": []})
    cms.records.insert_one({"_id": {"composed": 1}, "url": "x"})
    said = cms.index.once()
    assert "(bad_record)" in said
    assert cms.item(good)["state"] == "done"  # type: ignore[index]
    assert cms.item(odd)["metadata"] == {"ok": 1}  # type: ignore[index]
    for name, key in bad.items():
        item = cms.item(key)
        assert item is not None, name
        assert item["error"]["class"] == "bad_record", name
    assert "/etc/passwd" not in said

    # Once is enough: the next run neither writes nor records them again.
    failures = cms.index.db.likeness_job_failures
    recorded = failures.count_documents({})
    assert recorded == len(bad) + 1
    assert f"{recorded} still broken" in cms.index.once()
    assert failures.count_documents({}) == recorded


def test_a_server_in_trouble_costs_only_its_own_pictures(cms: Cms) -> None:
    good = cms.add(0)
    keys = {
        "down": cms.add(1),
        "missing": cms.add(2),
        "torn": cms.add(3),
        "inwards": cms.add(4),
        "elsewhere": cms.add(5),
    }
    flaky = cms.add(7)
    behaviours = cms.media.behaviours
    behaviours["/p1.jpg"] = media_server.failing(503)
    behaviours["/p2.jpg"] = media_server.failing(404)
    behaviours["/p3.jpg"] = media_server.truncated(cms.photos[3][:1000], 100_000)
    behaviours["/p4.jpg"] = media_server.redirect("http://127.0.0.1:1/x")
    behaviours["/p5.jpg"] = media_server.redirect("/p5-moved.jpg")
    cms.media.files["/p5-moved.jpg"] = cms.photos[5]

    def flaking(handler: media_server.Handler) -> None:
        del behaviours["/p7.jpg"]
        handler.reply(500, b"")

    behaviours["/p7.jpg"] = flaking
    cms.index.once()
    media = cms.index.media()
    classes = {
        name: (media[str(key)].get("error") or {}).get("class") for name, key in keys.items()
    }
    assert classes == {
        "down": "fetch_status",
        "missing": "not_found",
        "torn": "fetch_protocol",
        "inwards": "url_not_allowed",
        "elsewhere": None,
    }
    assert media[str(good)]["state"] == media[str(flaky)]["state"] == "done"
    # Not due: nothing is asked for again, but where our own rules may have changed meanwhile.
    before = cms.media.counts()
    cms.index.once()
    assert cms.media.counts() - before == {"/p4.jpg": 1}
    # The server recovers, the time comes: all is well.
    behaviours.clear()
    cms.index.db.likeness_media.update_many(
        {"state": "failed"}, {"$set": {"next_at": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}}
    )
    cms.index.once()
    assert {item["state"] for item in cms.index.media().values()} <= {"done", "no_face"}


def test_a_server_that_asks_for_rest_gets_it_and_others_go_on(cms: Cms) -> None:
    with media_server.serving() as tired:
        cms.index.env["MEDIA_ALLOWED_HOSTS"] += f",{tired.origin}"
        tired.behaviours["/a.jpg"] = media_server.failing(429, Retry_After="900")
        tired.files["/b.jpg"] = cms.photos[1]
        good = cms.add(0)
        waiting = [cms.add(1, url=tired.url(f"/{name}.jpg")) for name in "aaaaaaaab"]
        cms.index.once()
        assert tired.counts().total() <= 4  # what was under way when the first answer came
        media = cms.index.media()
        assert media[str(good)]["state"] == "done"
        for key in waiting[:-1]:
            item = media[str(key)]
            assert item["next_at"] - item["updated_at"] >= dt.timedelta(seconds=880)


def test_a_missing_picture_goes_after_three_looks_over_a_day(cms: Cms) -> None:
    key, other = cms.add(0), cms.add(1)
    cms.index.once()
    assert cms.index.faces(media_id=str(key))
    del cms.media.files["/p0.jpg"]
    later = [dt.datetime(2026, 2, day, tzinfo=dt.UTC) for day in (1, 2, 3)]
    cms.touch(key, updated_at=later[0])
    waited = dt.timedelta()
    for look in (1, 2, 3):
        cms.index.once()
        item = cms.item(key)
        assert item is not None
        if look < 3:
            assert cms.index.faces(media_id=str(key)), f"gone after {look}"
            waited += item["next_at"] - item["updated_at"]
            past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
            cms.index.db.likeness_media.update_one(
                {"_id": item["_id"]}, {"$set": {"next_at": past}}
            )
    assert waited >= dt.timedelta(hours=23.9)
    assert not cms.index.faces(media_id=str(key))
    assert cms.index.faces(media_id=str(other))


def test_a_server_in_trouble_is_no_word_about_a_missing_picture(cms: Cms) -> None:
    key = cms.add(0)
    cms.index.once()
    cms.touch(key, updated_at=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    cms.media.behaviours["/p0.jpg"] = media_server.failing(500)
    for _ in range(3):
        cms.index.once()
        cms.due()
    cms.media.behaviours["/p0.jpg"] = media_server.failing(404)
    cms.index.once()
    assert cms.index.faces(media_id=str(key)), "gone at its first 404"
    for _ in (2, 3):
        cms.due()
        cms.index.once()
    assert not cms.index.faces(media_id=str(key))

    # It comes back under the same record, and is found by the look of the next day.
    del cms.media.behaviours["/p0.jpg"]
    assert "waiting" in cms.index.once()
    cms.due()
    cms.index.once()
    assert cms.index.faces(media_id=str(key))


def test_a_server_that_lost_everything_does_not_empty_the_index(cms: Cms) -> None:
    keys = [cms.add(0, note=number) for number in range(22)]
    cms.index.once()
    before = cms.index.faces()
    del cms.media.files["/p0.jpg"]
    cms.records.update_many({}, {"$set": {"updated_at": dt.datetime(2026, 2, 1, tzinfo=dt.UTC)}})
    for look in (1, 2, 3):
        said = cms.index.once()
        assert ("INDEX_MAX_DELETE_RATIO" in said) is (look == 3)
        if look < 3:
            cms.due()
    assert cms.index.faces() == before
    assert "22 deleted" in cms.index.once("--allow-deletes")
    assert not cms.index.faces()
    assert len(cms.index.media()) == len(keys)


def test_a_picture_at_another_url_is_never_taken_for_not_modified(cms: Cms) -> None:
    for path, number, modified in (("/new.jpg", 0, 2), ("/old.jpg", 1, 1)):
        cms.media.behaviours[path] = media_server.dated(cms.photos[number], modified)
    key, other = (cms.add(2, url=cms.media.url("/new.jpg")) for _ in range(2))
    cms.records.update_one({"_id": other}, {"$unset": {"updated_at": ""}})
    cms.index.once()
    images = {f["image_id"] for f in cms.index.faces().values()}
    cms.touch(other, url=cms.media.url("/old.jpg"))
    cms.touch(key, url=cms.media.url("/old.jpg"))
    cms.touch(key, updated_at=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    cms.index.once()
    assert images.isdisjoint(f["image_id"] for f in cms.index.faces().values())


def test_an_unpublished_record_is_hidden_whatever_else_is_wrong_with_it(cms: Cms) -> None:
    key = cms.add(0)
    cms.index.once()
    cms.touch(key, status="draft", url=None)
    cms.index.once()
    assert {f["hidden"] for f in cms.index.faces(media_id=str(key)).values()} == {True}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_pauses_the_source_and_deletes_nothing(cms: Cms, status: int) -> None:
    keys = [cms.add(number) for number in range(4)]
    cms.index.once()
    before = cms.index.faces()
    for number, key in enumerate(keys[:3]):
        cms.media.behaviours[f"/p{number}.jpg"] = media_server.failing(status)
        cms.touch(key, updated_at=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    cms.records.delete_one({"_id": keys[3]})
    said = cms.index.once(status=1)
    assert "refuses access" in said
    assert "Nothing was deleted" in said
    assert cms.index.faces() == before


def test_an_emptied_and_an_unreadable_source_delete_nothing(cms: Cms) -> None:
    for number in range(24):
        cms.add(number % 8, note=number)
    cms.index.once()
    before = cms.index.faces()
    cms.records.drop()
    assert "INDEX_MAX_DELETE_RATIO" in cms.index.once()
    assert "could not be read" in cms.index.once(
        status=1, CMS_MONGODB_URI="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300"
    )
    assert cms.index.faces() == before


def test_two_sources_and_the_api_keep_their_own(cms: Cms, tmp_path: Path) -> None:
    mine = cms.add(0)
    (tmp_path / "b.jpg").write_bytes(cms.photos[1])
    cms.index.once()
    cms.index.once("--folder", str(tmp_path), "--source-name", "press")
    both = cms.index.state()
    cms.index.once()
    cms.index.once("--folder", str(tmp_path), "--source-name", "press")
    assert cms.index.state() == both
    cms.records.delete_many({})
    cms.index.once()
    assert set(cms.index.media()) == {"b.jpg"}
    assert str(mine) not in cms.index.media()


def test_our_own_collections_and_a_missing_setting_are_refused(cms: Cms) -> None:
    own = {"CMS_MONGODB_DATABASE": cms.index.db.name, "CMS_MONGODB_COLLECTION": "likeness_faces"}
    assert "own collections" in cms.index.once(status=1, **own)
    assert "CMS_QUERY" in cms.index.once(status=1, CMS_QUERY="{bad")
    held = Leases(cms.index.db).acquire("source:cms", Holder.this_process("test"), 60)
    assert held is not None
    cms.index.once(status=3)


def test_ids_of_several_types_are_all_listed(cms: Cms) -> None:
    unique = uuid.UUID(int=7)
    ids: list[Any] = [1, 2.5, "text", ObjectId(), "caf\u00e9", 7, 8.0, 2**62, "--5"]
    ids.append(Binary.from_uuid(unique))
    cms.media.files["/one.jpg"] = cms.photos[0]
    cms.records.insert_many([{"_id": i, "url": cms.media.url("/one.jpg")} for i in ids])
    cms.index.once(CMS_VISIBLE_STATUSES="")
    by_key: dict[str, Any] = {
        "1": 1, "7": 7, "8": 8.0, str(2**62): 2**62, "text": "text", "--5": "--5",
        str(ids[3]): ids[3], "caf\u00e9": "caf\u00e9", str(unique): ids[-1],
    }  # fmt: skip
    expected = set(by_key)
    assert expected <= set(cms.index.media())

    # An event about any of them finds it, and what it does not find is gone.
    records = records_of(Settings(**{k.lower(): v for k, v in cms.index.env.items()}))
    source = MongoSource(records, Reader(Fields.of(Settings())), MediaReader(Fetcher([]), Event()))
    with contextlib.closing(source):
        assert set(source.lookup(sorted(expected))) == expected
        assert source.absent(["9" * 19, "9" * 30, "-", "--5", "\u0663"]) == {
            "9" * 19, "9" * 30, "-", "\u0663"
        }  # fmt: skip
        pages = source.pages(json_util.dumps({"_id": 7}))
        seen = {entry.key for page in pages for entry in page.entries}
    assert seen >= expected - {"1", "7"}

    for value in by_key.values():
        cms.records.delete_one({"_id": value})
    cms.index.once(CMS_VISIBLE_STATUSES="")
    assert not expected & set(cms.index.media())


def test_what_python_cannot_hold_is_read_all_the_same(cms: Cms) -> None:
    far = bson.encode({"_id": "far", "updated_at": DatetimeMS(10**17), "title": "xy"})
    options = records_of(Settings(**{k.lower(): v for k, v in cms.index.env.items()})).codec_options
    entry = Reader(Fields.of(Settings()), "http://x/").read(
        bson.decode(far.replace(b"xy", b"\xff\xfe"), options) | {"url": "a"}
    )
    assert isinstance(entry, Entry)
    assert entry.version
