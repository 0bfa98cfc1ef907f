"""Re-embedding: from originals, from kept crops, resumed, and naming what it cannot do."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from faces import documents
from faces.database import FACES, Db
from faces.job_run import JobRun, run_next
from faces.leases import Holder
from faces.records import Item, Job
from faces.reembed import Tools, reembed
from faces.store import Store
from faces.types import Analysis, Detection, Face, MediaInfo, MediaRef, Picture
from tests.faces_made import analysis, face, vector

HERE = Holder.this_process("worker")


def jpeg(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "JPEG")
    return out.getvalue()


ORIGINAL, CROP = jpeg(400), jpeg(100)
SHA = hashlib.sha256(ORIGINAL).hexdigest()


class Embedder:
    """Gives each face a vector of the model; keeps what it was asked."""

    model, build = "sface", "b2"

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, tuple[Detection, ...]]] = []

    def embed_known(self, data: bytes, detections: Sequence[Detection]) -> Analysis:
        self.asked.append((data, tuple(detections)))
        faces = tuple(Face(d, 1.0, (), vector(5, "sface")) for d in detections)
        return Analysis(Picture(1, 1, ""), faces, self.model, self.build)


class Setup:
    """A store with pictures whose originals are in `originals`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.embedder = Embedder()
        self.originals: dict[str, bytes] = {}
        self.closed = 0

    def put(self, name: str, *, crop: bytes | None = None, count: int = 1) -> None:
        ref = MediaRef("default", name, "api", name)
        made = analysis(*(face(60 * n, seed=n) for n in range(count)), size=(400, 400))
        crops = {} if crop is None else dict.fromkeys(range(count), crop)
        self.store.put_item(ref, MediaInfo(), made, content=SHA, crops=crops)
        self.originals[name] = ORIGINAL

    def tools(self, key: str) -> Tools:
        assert key == "sface"

        def read(item: Item) -> bytes | None:
            return self.originals.get(item.media_id)

        def close() -> None:
            self.closed += 1

        return Tools(self.embedder, read, close)

    def run(self, **params: Any) -> Job:
        job_id = self.store.jobs.enqueue("reembed", None, {"model": "sface", **params})
        self.again()
        return self.store.jobs.get(job_id)

    def again(self) -> None:
        def handler(run: JobRun) -> dict[str, Any]:
            return reembed(run, self.tools)

        run_next(self.store, {"reembed": handler}, holder=HERE)


@pytest.fixture
def setup(store: Store) -> Setup:
    return Setup(store)


def lacking(db: Db) -> int:
    return db[FACES].count_documents({"embeddings.sface": {"$exists": False}})


def test_every_face_gets_the_vector_beside_the_old_one(setup: Setup, db: Db) -> None:
    for name in ("a", "b", "c"):
        setup.put(name, count=2)
    before = {row["_id"]: row["embeddings"]["facenet128"] for row in db[FACES].find()}
    job = setup.run()
    assert job.result == {"model": "sface", "embedded": 6, "missing": 0}
    assert (job.done, job.total) == (6, 6)
    for row in db[FACES].find():
        assert row["embeddings"]["facenet128"] == before[row["_id"]]
        stored = documents.unpack_vector(row["embeddings"]["sface"])
        assert stored.tolist() == vector(5, "sface").tolist()
        assert row["builds"] == {"facenet128": "b1", "sface": "b2"}
    assert setup.closed == 1
    assert len(setup.embedder.asked) == 3, "an original is read and embedded once"


def test_nothing_is_loaded_when_nothing_is_missing(setup: Setup) -> None:
    assert setup.run().result == {"model": "sface", "embedded": 0, "missing": 0}
    assert setup.closed == 0


def test_a_dry_run_only_counts(setup: Setup, db: Db) -> None:
    setup.put("a", count=2)
    assert setup.run(dry_run=True).result == {"model": "sface", "missing": 2, "embedded": 0}
    assert lacking(db) == 2


@pytest.mark.parametrize("original", [None, jpeg(399)], ids=["gone", "changed"])
def test_a_kept_crop_stands_in_for_the_original(
    setup: Setup, db: Db, original: bytes | None
) -> None:
    setup.put("a", crop=CROP)
    setup.originals.pop("a")
    if original is not None:
        setup.originals["a"] = original
    assert setup.run().result == {"model": "sface", "embedded": 1, "missing": 0}
    ((data, (found,)),) = setup.embedder.asked
    assert data == CROP
    # The 50 px face at (0, 10) in a crop of 75 x 85 px, kept as 100 x 100.
    assert found.box.width == pytest.approx(50 * 100 / 75)
    assert found.box.y == pytest.approx(10 * 100 / 85)


def test_what_has_no_pixels_left_is_named_and_stops_nothing(setup: Setup, db: Db) -> None:
    for name in ("a", "b"):
        setup.put(name)
    setup.originals.pop("a")
    job = setup.run()
    assert (job.state, job.failed) == ("succeeded", 1)
    assert job.result == {"model": "sface", "embedded": 1, "missing": 1}
    (failure,) = setup.store.jobs.failures(job.job_id, 10, None).items
    left = db[FACES].find_one({"embeddings.sface": {"$exists": False}})
    assert left is not None
    assert (failure.key, failure.error) == (left["_id"], "no_pixels")
    assert "original" in failure.detail


def test_a_picture_replaced_meanwhile_keeps_its_own(setup: Setup, db: Db) -> None:
    setup.put("a")
    real = setup.embedder.embed_known

    def replaced(data: bytes, detections: Sequence[Detection]) -> Analysis:
        ref = MediaRef("default", "a", "api", "a")
        made = analysis(face(0, seed=9), size=(400, 400))
        setup.store.put_item(ref, MediaInfo(), made, content="other")
        return real(data, detections)

    setup.embedder.embed_known = replaced  # type: ignore[method-assign]  # the race, made certain
    setup.run()
    row = db[FACES].find_one({})
    assert row is not None
    assert set(row["embeddings"]) == {"facenet128"}


def test_a_job_that_is_cut_goes_on_after_the_last_item(setup: Setup, db: Db) -> None:
    for name in ("a", "b", "c"):
        setup.put(name)
    store = setup.store
    store.jobs.enqueue("reembed", None, {"model": "sface"})
    claimed = store.jobs.claim(["reembed"], Holder(HERE.host, 2**22 - 1, 1))
    assert claimed is not None

    import threading

    class Cut(Exception):
        pass

    real, left = setup.embedder.embed_known, [2]

    def cut(data: bytes, detections: Sequence[Detection]) -> Analysis:
        if not left[0]:
            raise Cut
        left[0] -= 1
        return real(data, detections)

    setup.embedder.embed_known = cut  # type: ignore[method-assign]  # a crash after two items
    with pytest.raises(Cut):
        reembed(JobRun(store, claimed, threading.Event()), setup.tools)
    setup.embedder.embed_known = real  # type: ignore[method-assign]  # and the next attempt
    assert lacking(db) == 1
    setup.again()
    assert lacking(db) == 0
    assert len(setup.embedder.asked) == 3, "nothing is embedded twice"
