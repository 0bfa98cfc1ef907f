"""A deletion whose commit stays unknown, and is tried again, says what it did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pymongo.client_session import ClientSession
from pymongo.errors import AutoReconnect

from faces.database import JOBS, Db
from faces.errors import NotFound
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from tests.faces_made import row_of_faces

ATTEMPTS = 3
"""So often a commit is tried within one transaction."""


class Lost:
    """Commits whose answers are lost: that of the first transaction, whatever is tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = 0
        real = ClientSession.commit_transaction

        def commit(session: ClientSession) -> None:
            if self.lost in (0, ATTEMPTS):
                real(session)
            if self.lost < ATTEMPTS:
                self.lost += 1
                error = AutoReconnect("the answer is lost")
                error._add_error_label("UnknownTransactionCommitResult")
                raise error

        monkeypatch.setattr(ClientSession, "commit_transaction", commit)


def delete_item(store: Store) -> object:
    return store.delete_item("press", "a", source="api", tombstone=True)


def delete_subject(store: Store) -> object:
    return store.subjects.delete("press", "ann")


def delete_collection(store: Store) -> object:
    return store.delete_collection("press")


@pytest.mark.parametrize("delete", [delete_item, delete_subject, delete_collection])
@pytest.mark.parametrize("many", [False, True])
def test_it_is_no_404(
    delete: Callable[[Store], object],
    many: bool,
    store: Store,
    db: Db,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.create_collection("press")
    ref = MediaRef("press", "a", "api", "a")
    made = store.put_item(ref, MediaInfo(), row_of_faces(7, 8), content="a")
    store.subjects.create("press", "ann")
    store.subjects.assign("press", "ann", [face.face_id for face in made.faces])
    if many:
        monkeypatch.setattr("faces.store_subjects.BULK", 1)
    lost = Lost(monkeypatch)
    told = delete(store)
    assert lost.lost == ATTEMPTS
    job = db[JOBS].find_one({})
    assert told == (job["_id"] if job else 2)
    assert db[JOBS].count_documents({}) <= 1
    if not job:
        with pytest.raises(NotFound):
            delete(store)
