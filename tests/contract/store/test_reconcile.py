"""A reconcile over a real store, page by page, with an analyst that finds one face each time."""

from __future__ import annotations

import gc
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from faces.database import FACES, MODELS
from faces.errors import Conflict, InvalidImage, LeaseLost
from faces.leases import Holder, Lease
from faces.records import KnownItem
from faces.store import Store
from faces.types import Analysis, MediaInfo, MediaRef
from indexer.items import Items
from indexer.plan import Brake
from indexer.progress import Tally
from indexer.reconcile import Outcome, Reconciler, server_clock
from indexer.sources import folder
from indexer.sources.folder import FolderSource
from indexer.sync import Sync
from tests.faces_made import analysis, face


def one_face(data: bytes) -> Sequence[Analysis]:
    """A face whose vector depends on the bytes."""
    return (analysis(face(0, seed=zlib.crc32(data) % 1000)),)


class Analyst:
    """Counts pictures; `before` is called with each one's number."""

    model = "facenet128"

    def __init__(self) -> None:
        self.seen = 0
        self.before: Callable[[int], None] = lambda number: None
        self.forgotten: Callable[[], object] = lambda: None
        self.look: Callable[[bytes], Sequence[Analysis]] = one_face

    def analyse(self, data: bytes) -> Sequence[Analysis]:
        self.seen += 1
        self.before(self.seen)
        return self.look(data)

    def forget(self) -> None:
        self.forgotten()


class Pages:
    """A report that remembers cursors, and stops after some pages."""

    def __init__(self, stopping: threading.Event, after: int | None = None) -> None:
        self.cursors: list[str | None] = []
        self._stopping = stopping
        self._after = after

    def step(self, tally: Tally) -> None:
        pass

    def failure(self, key: str, reason: str, detail: str) -> None:
        pass

    def page(self, cursor: str | None, tally: Tally) -> None:
        self.cursors.append(cursor)
        if len(self.cursors) == self._after:
            self._stopping.set()


class Bench:
    """A folder, a store and what runs between them."""

    def __init__(self, store: Store, root: Path) -> None:
        self.store = store
        self.root = root
        self.analyst = Analyst()
        self.stopping = threading.Event()
        self.lease: Lease | None = None

    def fill(self, *names: str) -> None:
        for name in names:
            (self.root / name).write_bytes(name.encode())

    def run(
        self,
        *,
        pages: int | None = None,
        cursor: str | None = None,
        allow: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> tuple[Outcome, Pages]:
        self.stopping.clear()
        source = FolderSource(self.root)
        report = Pages(self.stopping, pages)
        lease = self.store.leases.acquire("source:cms", Holder.this_process("test"), 60)
        assert lease is not None
        try:
            outcome = Reconciler(
                self.store,
                source,
                self.items(source, lease),
                name="cms",
                collection="default",
                brake=Brake(0.2, least=3),
                allow_deletes=allow,
                threads=2,
                report=report,
                now=server_clock(self.store.now),
                stopping=self.stopping,
                between=between,
            ).run(cursor)
        finally:
            lease.release()
            source.close()
        return outcome, report

    def items(self, source: FolderSource, lease: Lease) -> Items:
        return Items(
            self.store,
            source,
            self.analyst,  # type: ignore[arg-type]  # a sequence serves as well as a tuple
            name="cms",
            collection="default",
            fence=lease.fence,
            max_bytes=1000,
            min_quality=0.0,
            brake=Brake(0.2, least=3),
            now=self.store.now,
            stopping=self.stopping,
        )

    def media(self) -> set[str]:
        return {item.media_id for item in self.store.items("default").items}

    def known(self) -> dict[str, KnownItem]:
        return {item.media_id: item for item in self.store.known_items("cms", "default")}


@pytest.fixture
def bench(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(folder, "PAGE", 2)
    return Bench(store, tmp_path)


SIX = [f"{n}.jpg" for n in range(6)]


def test_a_run_that_was_cut_goes_on_at_its_page_and_still_deletes(bench: Bench) -> None:
    bench.fill(*SIX, "gone.jpg", "0-gone.jpg")
    bench.run()
    (bench.root / "gone.jpg").unlink()
    (bench.root / "0-gone.jpg").unlink()
    for name in SIX:
        (bench.root / name).write_bytes(b"new " + name.encode())
    bench.analyst.seen = 0
    outcome, report = bench.run(pages=2)
    assert not outcome.complete
    assert outcome.tally.deleted == 0
    assert 4 <= bench.analyst.seen <= 6  # the next page is under way while one is finished
    # Everything before the cursor is skipped, and what was not listed again is not taken for gone.
    outcome, _ = bench.run(cursor=report.cursors[-1])
    assert outcome.complete
    assert bench.analyst.seen == 6
    assert outcome.tally.deleted == 2
    assert bench.media() == set(SIX)


def test_a_stop_in_the_middle_of_a_page_leaves_its_cursor_alone(bench: Bench) -> None:
    bench.fill(*SIX)
    bench.analyst.before = lambda number: bench.stopping.set() if number == 3 else None
    outcome, report = bench.run()
    assert not outcome.complete
    assert len(report.cursors) <= 1
    bench.analyst.before = lambda number: None
    bench.run(cursor=report.cursors[-1] if report.cursors else None)
    assert bench.media() == set(SIX)


def test_what_appears_behind_the_listing_is_not_deleted(bench: Bench) -> None:
    bench.fill(*SIX)
    done: list[int] = []

    def between() -> None:
        if not done:
            done.append(1)
            bench.fill("0-late.jpg")
            ref = MediaRef("default", "0-late.jpg", "cms", "0-late.jpg")
            made = analysis(face(0))
            bench.store.put_item(ref, MediaInfo(etag="x"), made, content="late")

    outcome, _ = bench.run(between=between)
    assert outcome.tally.deleted == 0
    assert "0-late.jpg" in bench.media()


def test_what_is_back_when_it_is_to_be_deleted_stays(bench: Bench) -> None:
    bench.fill(*SIX)
    bench.run()
    (bench.root / "0.jpg").unlink()
    outcome, _ = bench.run(between=lambda: bench.fill("0.jpg"))
    assert outcome.tally.deleted == 0
    assert "0.jpg" in bench.media()


def test_what_others_took_away_or_over_is_no_end_of_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fill(*SIX)
    bench.run()
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        (bench.root / name).unlink()
    real = bench.store.delete_item

    def first(collection: str, media_id: str, **given: Any) -> int:
        if media_id == "0.jpg":
            real(collection, media_id, **given)
        elif media_id == "1.jpg":
            raise Conflict("taken over")
        return real(collection, media_id, **given)

    monkeypatch.setattr(bench.store, "delete_item", first)
    outcome, _ = bench.run(allow=True)
    tally = outcome.tally
    assert (tally.deleted, tally.conflicts, outcome.complete) == (1, 1, True)


def test_the_brake_counts_what_would_go_and_can_be_released(bench: Bench) -> None:
    bench.fill(*SIX)
    bench.run()
    for name in SIX[:4]:
        (bench.root / name).unlink()
    outcome, _ = bench.run()
    assert (outcome.held_back, outcome.tally.deleted) == (4, 0)
    assert bench.media() == set(SIX)
    outcome, _ = bench.run(allow=True)
    assert (outcome.held_back, outcome.tally.deleted) == (0, 4)
    assert bench.media() == set(SIX[4:])


def test_a_lease_lost_on_the_way_stops_the_run(bench: Bench) -> None:
    bench.fill(*(f"{n}.jpg" for n in range(100)))

    def steal() -> None:
        leases = bench.store.db.likeness_leases
        leases.update_one({"_id": "source:cms"}, {"$set": {"expires_ms": 0}})
        bench.store.leases.acquire("source:cms", Holder.this_process("thief"), 60)

    with pytest.raises(LeaseLost):
        bench.run(between=steal)
    written = len(bench.media())
    assert 2 <= written < 60
    assert bench.store.db[FACES].count_documents({}) == written


def test_one_deleted_while_many_are_stored_together_stays_deleted(bench: Bench) -> None:
    names = [f"{n:02}.jpg" for n in range(30)]
    bench.fill(*names)
    bench.run()
    for name in names:
        (bench.root / name).write_bytes(b"new " + name.encode())
    bench.analyst.seen = 0

    def delete(number: int) -> None:
        if number == 4:
            for name in names[:3]:
                bench.store.delete_item("default", name, source="api", tombstone=True)

    bench.analyst.before = delete
    outcome, report = bench.run()
    assert outcome.complete
    assert bench.media() == set(names[3:])
    assert bench.store.db[FACES].count_documents({}) == len(names) - 3
    tally = outcome.tally
    assert tally.indexed + tally.tombstoned + tally.conflicts == len(names)
    assert len(report.cursors) == 15


def test_what_a_run_loaded_is_freed_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker's process runs one job after the other: a cycle would keep each one's models.
    bench.fill(*SIX)
    made: list[weakref.ref[Items]] = []
    original = bench.items

    def items(source: FolderSource, lease: Lease) -> Items:
        new = original(source, lease)
        made.append(weakref.ref(new))
        return new

    monkeypatch.setattr(bench, "items", items)
    gc.disable()
    try:
        bench.run()
        end = time.monotonic() + 60
        while made[0]() is not None and time.monotonic() < end:
            time.sleep(0.01)  # its threads are about to end
        assert made[0]() is None
    finally:
        gc.enable()


def test_a_changed_picture_that_is_broken_leaves_the_last_good_faces(bench: Bench) -> None:
    bench.fill(*SIX)
    bench.run()
    before = bench.store.item("default", "0.jpg")
    good = bench.analyst.look

    def look(data: bytes) -> Sequence[Analysis]:
        if data.startswith(b"broken"):
            raise InvalidImage("truncated", "The picture ends before all of its pixels are there.")
        return good(data)

    bench.analyst.look = look
    (bench.root / "0.jpg").write_bytes(b"broken 1")
    outcome, _ = bench.run()
    assert (outcome.tally.failed, outcome.tally.unchanged) == (1, 5)
    item = bench.store.item("default", "0.jpg")
    assert (item.state, item.error, item.error_permanent) == ("failed", "truncated", True)
    assert item.faces == before.faces
    assert (item.sha256, item.image_id) == (before.sha256, before.image_id)
    # It is not looked at again before it changes, and when it is mended the face is the same.
    bench.analyst.seen = 0
    outcome, _ = bench.run()
    assert (outcome.tally.broken, bench.analyst.seen) == (1, 0)
    (bench.root / "0.jpg").write_bytes(b"mended")
    outcome, _ = bench.run()
    assert outcome.tally.indexed == 1
    mended = bench.store.item("default", "0.jpg")
    assert mended.state == "done"
    assert [f.face_id for f in mended.faces] == [f.face_id for f in before.faces]


def test_a_picture_of_a_model_that_was_switched_meanwhile_is_looked_at_anew(bench: Bench) -> None:
    bench.fill(*SIX)
    models = bench.store.db[MODELS]
    models.update_one({"_id": "active"}, {"$set": {"model": "other"}}, upsert=True)
    bench.analyst.forgotten = lambda: models.update_one(
        {"_id": "active"}, {"$set": {"model": "facenet128"}}
    )
    outcome, _ = bench.run()
    assert outcome.tally.indexed == len(SIX)
    assert bench.analyst.seen > len(SIX)


def test_single_keys_are_brought_up_to_date(bench: Bench) -> None:
    bench.fill(*SIX)
    bench.run()
    bench.fill("new.jpg")
    (bench.root / "0.jpg").unlink()
    (bench.root / "1.jpg").write_bytes(b"changed")
    (bench.root / "2.jpg").unlink()
    source = FolderSource(bench.root)
    lease = bench.store.leases.acquire("source:cms", Holder.this_process("test"), 60)
    assert lease is not None
    work: Any = Sync(
        bench.store,
        source,
        bench.items(source, lease),
        name="cms",
        collection="default",
        now=bench.store.now,
    )
    changed, deleted = ["new.jpg", "1.jpg", "3.jpg", "0.jpg", "../x.jpg"], ["2.jpg", "4.jpg"]
    endings = {result.key: result.ending for result in work.run(changed, deleted)}
    source.close()
    lease.release()
    assert endings == {
        "new.jpg": "indexed",
        "1.jpg": "indexed",
        "3.jpg": "unchanged",
        "0.jpg": "deleted",
        "../x.jpg": "unchanged",
        "2.jpg": "deleted",
        "4.jpg": "unchanged",
    }
    assert bench.media() == {"1.jpg", "3.jpg", "4.jpg", "5.jpg", "new.jpg"}
