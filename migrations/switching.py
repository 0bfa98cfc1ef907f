"""Switching the active model: re-embed, prepare, flip; and rolling back and pruning.

Every part can be cut and begun again: what was done is seen in the database, and done no second
time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faces.database import (
    FACES,
    IN_FLIGHT_S,
    SEARCH_TIMEOUT_S,
    Db,
    Document,
    Session,
    in_transaction,
    translate,
)
from faces.errors import Conflict
from faces.job_run import Handler, run_claimed
from faces.leases import Holder, Lease
from faces.models.cards import card
from faces.presence import WORKER, Presence, Process
from faces.records import ActiveModel, Quantization
from faces.search import index_definition, index_name, vector_path
from faces.store import Store
from faces.store_models import ModelStore
from faces.watch import list_indexes
from migrations import indexes
from migrations.runner import Runner

PREPARE_S = 120.0
SEEN_S = 2.5
"""A change of the model document is seen by every process within two seconds."""
DRAIN_S = SEEN_S + SEARCH_TIMEOUT_S
"""So long after a flip a request that began before it may still search the old index."""
FOLLOW_S = 0.5
PRUNE_PAGE = 100
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """The model that a switch goes to."""

    key: str
    build: str
    quantization: Quantization = "none"


class Switch:
    """The steps of a switch. `reembed` is the job's handler for when no worker lives."""

    def __init__(self, db: Db, runner: Runner, reembed: Handler, say: Say) -> None:
        self._db = db
        self._store = Store(db)
        self._models = ModelStore(db)
        self._presence = Presence(db)
        self._runner = runner
        self._reembed = reembed
        self._say = say

    def begin(self, wish: Wish) -> ActiveModel:
        """Notes the next model and creates its index. Raises Conflict when it is active already."""
        card(wish.key)
        with self._runner.lease() as lease:
            active = self._active()
            if active.next is not None and active.next.key == wish.key:
                index = active.next.index
                if active.next.quantization != wish.quantization:
                    raise Conflict(
                        f"A switch to {wish.key} with quantization {active.next.quantization} is "
                        "being prepared: `python -m migrations model flip` finishes it, "
                        "`python -m migrations model prune` drops it."
                    )
            else:
                index = self._free_name(active, wish)
            active = self._models.begin_switch(wish.key, wish.build, index, wish.quantization)
            live = list_indexes(self._db)
            for action in indexes.actions(indexes.wanted(active), live):
                lease.renew()  # one that was paused for long is not to undo what a newer one did
                self._runner.send(action)
        return active

    def embed(self, key: str, *, limit: int | None = None) -> int:
        """How many faces could not be given the vector by the job that gives it to all of them.

        A live worker runs the job; without one it runs here. Progress is told as it goes. Faces
        that were indexed meanwhile may lack it, too, and are not counted.
        """
        job = self._store.jobs.active("reembed")
        if job is not None and (other := job.params.get("model")) not in (key, None):
            if self._models.missing(other):
                raise Conflict(f"Faces are being embedded for {other}: wait for that job.")
            self._let_end(job.job_id)
            job = None
        missing = self._models.missing(key)
        if not missing:
            if job is not None:
                self._let_end(job.job_id)
            return 0
        params: Document = {"model": key} | ({"limit": limit} if limit else {})
        job_id = job.job_id if job else self._store.jobs.enqueue("reembed", None, params)
        self._say(f"embedding {missing} faces for {key}, job {job_id}")
        return self._follow(job_id)

    def prepare(self, key: str, timeout_s: float = PREPARE_S) -> None:
        """Returns when every live process can make the next model's vectors.

        Another index of the active model needs no preparation.

        From then on each picture that is indexed gets both. Raises Conflict naming a process that
        cannot, and takes the preparation back.
        """
        if key == self._active().key:
            return
        self._models.set_stage(key, "load")
        self._say(f"preparing: the processes load {key}")
        until = time.monotonic() + timeout_s
        told = ""
        while True:
            waiting = [
                process
                for process in self._presence.processes()
                if not {key, "*"} & set(process.models) and process.role in ("web", WORKER)
            ]
            stuck = [process for process in waiting if process.problem]
            if stuck or (waiting and time.monotonic() > until):
                self._models.set_stage(key, "idle")
                named = ", ".join(f"{p.role} {_machine(p)}" for p in stuck or waiting)
                why = stuck[0].problem if stuck else f"not within {timeout_s:.0f} s"
                raise Conflict(f"Not every process has loaded {key}: {named} ({why}).")
            if not waiting:
                break
            line = f"waiting for {len(waiting)} process(es) to load {key}"
            if line != told:
                self._say(line)
                told = line
            time.sleep(0.25)
        self._models.set_stage(key, "both")
        self._say(f"every picture that is indexed now gets a vector of {key}, too")
        # Every process has seen that before a picture without is refused, ...
        if self._presence.processes():
            time.sleep(SEEN_S)
        self._models.set_stage(key, "enforced")
        # ... and what was being stored before is stored before the last look.
        time.sleep(IN_FLIGHT_S)

    def flip(self, key: str, *, leave_behind: int = 0) -> ActiveModel:
        """The new active model. Raises Conflict while more faces lack its vector than allowed."""
        with self._runner.lease() as lease:
            active = self._active()
            if active.key == key and active.next is None:
                return active
            if active.next is None or active.next.key != key:
                raise Conflict(f"No switch to {key} is being prepared.")
            missing = self._models.missing(key)
            check_left(key, missing, leave_behind)
            state = list_indexes(self._db).get(active.next.index)
            if state is None or not state.queryable:
                raise Conflict(f"The vector index {active.next.index} is not queryable yet.")
            lease.renew()
            active = self._models.flip(key, missing)
        self._say(f"the active model is {key}")
        return active

    def roll_back(self) -> str:
        """The key of the model that was active before, which is now the next one."""
        with self._runner.lease():  # else its index might be dropped by a prune at this moment
            return self._back()

    def _back(self) -> str:
        active = self._active()
        before = active.previous
        if before is None:
            raise Conflict(
                "There is no model to roll back to: nothing was switched, or it was pruned."
            )
        if active.rolled_back and active.next is None:
            # Killed after its flip and repeated, or asked for twice: it does not swing forth again.
            self._say(
                f"already rolled back from {before.key}: `python -m migrations model {before.key}` "
                "switches to it again"
            )
            return active.key
        if before.key != active.key and (missing := self._models.missing(before.key)):
            raise Conflict(
                f"{missing} face(s) were indexed since and have no vector of {before.key}: "
                f"`python -m migrations model {before.key}` embeds them and switches."
            )
        self._models.begin_switch(
            before.key, before.build, before.index, before.quantization, back=True
        )
        return before.key

    def prune(self) -> list[str]:
        """The names of what was dropped: every index and vector that is not the active model's.

        Nobody begins or ends a switch while indexes go. Raises Conflict when one begins while the
        vectors go, which then stay.
        """
        with self._runner.lease() as lease:
            active = self._active()
            dropped = self._drop_indexes(active, lease)
        for key in self._other_models(active):
            count = self._unset(key)
            dropped.append(f"{count} vectors of {key}")
        return dropped

    def _drop_indexes(self, active: ActiveModel, lease: Lease) -> list[str]:
        """The names of the indexes that are not the active model's, dropped. Raises LeaseLost."""
        dropped = []
        for model in (active.next, active.previous):
            if model is not None:
                self._models.forget(model.index)
        job = self._store.jobs.active("reembed")
        if job is not None and job.params.get("model") not in (active.key, None):
            # It would give the faces again what is dropped here.
            self._store.jobs.cancel(job.job_id)
            self._let_end(job.job_id)
        self._let_requests_end(active)
        live = list_indexes(self._db)
        for name in sorted(live):
            gone = live[name].status in ("DELETING", "DOES_NOT_EXIST")
            if name != active.index and name.startswith("faces_") and not gone:
                lease.renew()  # one that was paused for long may find another model active
                self._runner.send(indexes.Action(indexes.drop(name), f"{name} is not in use"))
                dropped.append(name)
        return dropped

    def ready(self, key: str) -> ActiveModel | None:
        """The next model when it is `key`, else None."""
        active = self._active()
        return active.next if active.next is not None and active.next.key == key else None

    def _active(self) -> ActiveModel:
        active = self._models.active()
        if active is None:
            raise Conflict("The database has no active model: run `python -m migrations up` first.")
        return active

    def _free_name(self, active: ActiveModel, wish: Wish) -> str:
        """An index name for the wish: the model's own, or a new version beside the live one."""
        previous = active.previous
        if previous is not None and (previous.key, previous.quantization) == (
            wish.key,
            wish.quantization,
        ):
            return previous.index
        if (active.key, active.quantization) == (wish.key, wish.quantization):
            raise Conflict(f"{wish.key} is the active model already.")
        taken = {active.index} | ({previous.index} if previous is not None else set())
        live = list_indexes(self._db)
        definition = index_definition(wish.key, card(wish.key).dimensions, wish.quantization)
        # What a killed prune left is used when it is the same index; nothing is redefined.
        return next(
            name
            for name in (index_name(wish.key, version) for version in itertools.count(1))
            if name not in taken
            and not (name in live and indexes.differences(definition, live[name].definition))
        )

    def _let_requests_end(self, active: ActiveModel) -> None:
        """Returns when no request can still search with the model that was active before."""
        if active.since is not None:
            age = (self._store.now() - active.since).total_seconds()
            if (left := DRAIN_S - max(0.0, age)) > 0:
                self._say("waiting for the requests that began before the switch")
                time.sleep(left)

    def _let_end(self, job_id: str) -> None:
        """Returns when a job that has nothing left to do has ended, however it did."""
        with contextlib.suppress(Conflict):
            self._follow(job_id)

    def _follow(self, job_id: str) -> int:
        """Tells the job's progress until it ends; without a live worker it runs here.

        How many faces it could not do.
        """
        holder = Holder.this_process("migrations")
        told = ""
        here: threading.Thread | None = None
        stopping = threading.Event()
        try:
            while True:
                if (here is None or not here.is_alive()) and not self._presence.alive(WORKER):
                    claimed = self._store.jobs.claim(["reembed"], holder)
                    if claimed is not None:
                        self._say("no worker is running: embedding here")
                        here = threading.Thread(
                            target=run_claimed,
                            args=(self._store, claimed, self._reembed),
                            kwargs={"stopping": stopping},
                            daemon=True,
                        )
                        here.start()
                job = self._store.jobs.get(job_id)
                left = f", {job.eta_s:.0f} s left" if job.eta_s else ""
                line = f"embedded {job.done} of {job.total or '?'} faces{left}"
                if line != told:
                    self._say(line)
                    told = line
                if job.state in ("failed", "cancelled"):
                    reason = (job.last_error or f"it was {job.state}").rstrip(".")
                    raise Conflict(f"Embedding stopped: {reason}.")
                if job.state == "succeeded":
                    return job.failed
                time.sleep(FOLLOW_S)
        finally:
            # Stopped by Ctrl-C, too, it puts its job back before the connection is closed.
            stopping.set()
            if here is not None:
                here.join()

    def _other_models(self, active: ActiveModel) -> Sequence[str]:
        from faces.models.cards import CARDS

        found = []
        for key in CARDS:
            if key == active.key:
                continue
            with translate():
                if self._db[FACES].find_one({f"builds.{key}": {"$exists": True}}, {"_id": 1}):
                    found.append(key)
        return found

    def _unset(self, key: str) -> int:
        """How many faces lost their vector of a model, page by page; Conflict once it is wanted."""
        count, after = 0, ""
        while rows := self._holding(key, after):
            in_transaction(self._db, functools.partial(self._unset_page, key, rows))
            count, after = count + len(rows), rows[-1]
            self._say(f"dropped {count} vectors of {key}")
        return count

    def _holding(self, key: str, after: str) -> list[str]:
        """The next faces with a vector of a model.

        Where they are few among many this takes longer than a transaction may.
        """
        query = {"_id": {"$gt": after}, f"builds.{key}": {"$exists": True}}
        with translate():
            rows = self._db[FACES].find(query, {"_id": 1}).sort([("_id", 1)]).limit(PRUNE_PAGE)
            return [row["_id"] for row in rows]

    def _unset_page(self, key: str, faces: Sequence[str], session: Session) -> None:
        """Takes the faces' vectors of a model; Conflict once a switch to it can have begun.

        In one transaction: whoever is paused before the last step cannot take it later.
        """
        from pymongo import UpdateOne

        if key in self._models.wanted(session):
            raise Conflict(f"A switch to {key} has begun: its vectors are kept from now on.")
        gone = {"$unset": {vector_path(key): "", f"builds.{key}": ""}}
        writes = [UpdateOne({"_id": face}, gone) for face in faces]
        self._db[FACES].bulk_write(writes, ordered=False, session=session)


def _machine(process: Process) -> str:
    """The host's name and the process's number there, as an operator knows them."""
    _, host, *_, pid, _, _ = process.name.split("/")
    return f"{host} pid {pid}"


def check_left(key: str, missing: int, leave_behind: int) -> None:
    """Raises Conflict when more faces lack the vector than may be left behind."""
    if missing > leave_behind:
        raise Conflict(
            f"{missing} face(s) have no vector of {key}: their originals are gone or unreadable. "
            f"`python -m migrations model {key} --leave-behind {missing}` switches without them; "
            "they stay stored, and search no longer finds them."
        )
