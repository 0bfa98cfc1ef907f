"""What every search needs to know, read in the background: the active model, the index states."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faces.database import FACES, Db, translate
from faces.errors import IndexNotReady, LikenessError
from faces.records import ActiveModel
from faces.store_models import ModelStore

MODEL_EVERY_S = 1.0
"""A flip of the active model is seen within two seconds by every process."""
INDEX_EVERY_S = 5.0
RECHECK_S = 1.0
_STALE_S = 2.5
_SILENT_S = 4.0
AWAY_S = 3.0
"""A database that could not be read for so long is away, and requests are told so at once."""


@dataclass(frozen=True, slots=True)
class IndexState:
    """One vector index as the database lists it. `queryable` alone decides whether it serves."""

    name: str
    status: str
    queryable: bool
    definition: Mapping[str, Any]


class Watch:
    """The newest known state; safe to share by threads. Works without `start`, only slower."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._models = ModelStore(db)
        self._active: ActiveModel | None = None
        self._active_at = -1e9
        self._indexes: dict[str, IndexState] | None = None
        self._indexes_at = -1e9
        self._problem: LikenessError | None = None
        self._problem_since = 0.0
        self._stopping = threading.Event()
        self._reading = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins reading in the background; the database need not be there yet."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the background reading."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def active(self) -> ActiveModel | None:
        """The active model, at most two seconds old; None on a new database.

        Raises DatabaseUnavailable when it cannot be read.
        """
        if time.monotonic() - self._active_at > _STALE_S:
            self._read_active()
        return self._active

    def require_active(self) -> ActiveModel:
        """The active model. Raises IndexNotReady on a database without one."""
        self.active()
        return self._known()

    def _known(self) -> ActiveModel:
        """The active model as last read."""
        if self._active is None:
            raise IndexNotReady(
                "The database has no active model yet: run `python -m migrations up`."
            )
        return self._active

    def index_state(self, name: str) -> IndexState | None:
        """The index as last read, or None when there is none of this name."""
        if self._indexes is None or time.monotonic() - self._indexes_at > 3 * INDEX_EVERY_S:
            self._read_indexes()
        return (self._indexes or {}).get(name)

    def ensure_queryable(self, name: str) -> None:
        """Returns when the index serves; else raises IndexNotReady saying why and what to do."""
        state = self.index_state(name)
        if state is None or not state.queryable:
            self.recheck(name)

    def recheck(self, name: str, since: float | None = None) -> None:
        """`ensure_queryable` by a state read after `since`, else by one at most a second old.

        Those who ask at the same time share one reading.
        """
        if self._indexes_at < (time.monotonic() - RECHECK_S if since is None else since):
            self._read_indexes(since)
        state = (self._indexes or {}).get(name)
        if state is None or not state.queryable:
            raise IndexNotReady(explain(name, state))

    def away(self) -> LikenessError | None:
        """Why the database has not been readable for some seconds, as the background saw it.

        While it is known to be away nobody needs to wait for it; a short trouble is the driver's.
        """
        problem = self._problem
        lasting = time.monotonic() - self._problem_since > AWAY_S
        return problem if problem is not None and lasting else None

    def problems(self) -> dict[str, str]:
        """A sentence for each of `database` and `vector_index` that is not as it should be.

        An index that serves but is BUILDING, STALE or FAILED is named too, under `index_state`.
        Where the background reads, nobody waits here for a database that is silent.
        """
        if (problem := self._problem) is not None:
            return {"database": problem.detail}
        background = self._thread is not None and self._thread.is_alive()
        if background and time.monotonic() - self._active_at > _SILENT_S:
            return {"database": "The database has not answered for some seconds."}
        try:
            active = self._known() if background else self.require_active()
            state = self.index_state(active.index)
        except IndexNotReady as error:
            return {"vector_index": error.detail}
        except LikenessError as error:
            return {"database": error.detail}
        if state is None or not state.queryable:
            return {"vector_index": explain(active.index, state)}
        if state.status != "READY":
            return {"index_state": explain(active.index, state)}
        return {}

    def _run(self) -> None:
        self._read()
        while not self._stopping.wait(MODEL_EVERY_S):
            self._read()

    def _read(self) -> None:
        try:
            self._read_active()
            active = self._active
            known = (self._indexes or {}).get(active.index) if active else None
            every = INDEX_EVERY_S if known and known.queryable else RECHECK_S
            if time.monotonic() - self._indexes_at >= every:
                self._read_indexes()
        except LikenessError as error:
            if self._problem is None:
                self._problem_since = time.monotonic()
            self._problem = error
        else:
            self._problem = None

    def _read_active(self) -> None:
        at = time.monotonic()
        self._active = self._models.active()
        self._active_at = at

    def _read_indexes(self, since: float | None = None) -> None:
        with self._reading:
            at = time.monotonic()
            # Another thread may have read them meanwhile.
            if self._indexes_at >= (at - 0.05 if since is None else since):
                return
            self._indexes = list_indexes(self._db)
            self._indexes_at = at


def list_indexes(db: Db) -> dict[str, IndexState]:
    """The vector indexes of the faces, by name. Raises DatabaseUnavailable."""
    with translate():
        rows = list(db[FACES].aggregate([{"$listSearchIndexes": {}}]))
    return {
        row["name"]: IndexState(
            row["name"],
            row.get("status", "PENDING"),
            bool(row.get("queryable")),
            row.get("latestDefinition") or {},
        )
        for row in rows
    }


def explain(name: str, state: IndexState | None) -> str:
    """What the state of an index means and what to do, in a sentence or two."""
    if state is None:
        return f"The vector index {name} does not exist: run `python -m migrations up`."
    served = "It still answers." if state.queryable else "It cannot answer yet."
    match state.status:
        case "PENDING" | "BUILDING":
            return f"The vector index {name} is being built. {served}"
        case "STALE":
            return (
                f"The vector index {name} no longer follows the faces, most often because the "
                f"cluster has no room. {served} Free space or take a larger tier."
            )
        case "FAILED":
            return (
                f"The last build of the vector index {name} failed. {served} Read the reason on "
                "the cluster's search page, then run `python -m migrations up`."
            )
        case "DELETING" | "DOES_NOT_EXIST":
            return f"The vector index {name} was deleted: run `python -m migrations up`."
    return f"The vector index {name} is {state.status}. {served}"
