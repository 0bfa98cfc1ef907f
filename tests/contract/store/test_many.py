"""What concerns many objects at once reads and writes no more than it has to."""

from __future__ import annotations

from typing import Any

import pytest

from faces import documents, store_removal
from faces.database import FACES, SUBJECTS, TOMBSTONES, Db
from faces.errors import NotFound
from faces.leases import Holder
from faces.store import Store
from faces.types import Analysis, MediaInfo, MediaRef
from tests.faces_made import analysis, face, row_of_faces


def put(store: Store, media_id: str, made: Analysis) -> list[str]:
    """The ids of the picture's faces, in the order of their sizes."""
    ref = MediaRef("default", media_id, "api", media_id)
    done = store.put_item(ref, MediaInfo(), made, content=media_id, min_quality=0.5)
    return [found.face_id for found in done.faces]


def test_a_list_of_jobs_leaves_in_the_database_what_only_their_workers_need(store: Store) -> None:
    """A page of a mass edit's jobs took hundreds of megabytes, of which nothing is shown."""
    given = {"source": "cms", "changed": ["a", "b"], "deleted": ["c"], "face_ids": ["d"]}
    job_id = store.jobs.enqueue("sync", "default", given)
    for job in (store.jobs.page(10, None).items[0], store.jobs.get(job_id)):
        assert job.params == {"source": "cms"}
    assert store.jobs.claimable(["sync"])
    claimed = store.jobs.claim(["sync"], Holder.this_process("worker"))
    assert claimed is not None
    assert claimed["params"] == given


def test_a_list_of_items_leaves_in_the_database_which_faces_were_left_out(store: Store) -> None:
    """A picture of a crowd names hundreds, and a list, which shows none, has a thousand items."""
    (kept,) = put(store, "crowd", analysis(face(0), face(300, seed=None)))
    store.subjects.create("default", "ann")
    store.subjects.assign("default", "ann", [kept])
    assert len(store.item("default", "crowd").unindexed) == 1
    for listed in (store.items("default"), store.subjects.media("default", "ann")):
        (item,) = listed.items
        assert (item.media_id, item.face_count, item.unindexed) == ("crowd", 1, ())


def test_a_list_of_people_leaves_their_rejected_faces_in_the_database(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    (face_id,) = put(store, "a", row_of_faces(1))
    store.subjects.create("default", "ann", "Ann")
    store.subjects.reject("default", "ann", [face_id])
    read: list[set[str]] = []

    def record(row: dict[str, Any], count: int | None = None) -> Any:
        read.append(set(row))
        return real(row, count)

    real = documents.subject_record
    monkeypatch.setattr(documents, "subject_record", record)
    assert [one.name for one in store.subjects.list("default").items] == ["Ann"]
    assert len(read) == 1
    assert "rejected" not in read[0]
    kept = db[SUBJECTS].find_one({"subject_id": "ann"})
    assert kept is not None
    assert kept["rejected"] == [face_id]


def test_faces_of_many_pictures_are_removed_together(
    store: Store, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transaction for each of four thousand took longer than a request may."""
    ids = {name: put(store, name, row_of_faces(1, 2)) for name in ("a", "b", "c", "d")}
    revs = {name: store.rev("default", name) for name in ids}
    gone = [*ids["a"], ids["b"][0], ids["c"][1]]
    transactions: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        transactions.append(1)
        return real(*args, **options)

    real = store_removal.in_transaction
    monkeypatch.setattr(store_removal, "in_transaction", counted)
    found = store.faces_by_id("default", gone)
    store.delete_faces("default", [found[face_id] for face_id in gone])
    assert len(transactions) == 1
    for face_id in gone:
        with pytest.raises(NotFound):
            store.face(face_id)
    assert db[FACES].count_documents({}) == 4
    assert db[TOMBSTONES].count_documents({"kind": "face"}) == 4
    told = {name: store.item("default", name) for name in ids}
    assert [(i.state, i.face_count, len(i.unindexed)) for i in told.values()] == [
        ("no_face", 0, 2),
        ("done", 1, 1),
        ("done", 1, 1),
        ("done", 2, 0),
    ]
    grown = {name: store.rev("default", name) - rev for name, rev in revs.items()}
    assert grown == {"a": 1, "b": 1, "c": 1, "d": 0}
    assert [f.face_id for f in told["b"].faces] == [ids["b"][1]]
