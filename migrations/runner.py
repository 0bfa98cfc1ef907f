"""Plans and runs migrations under a lease: steps first, then the vector indexes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pymongo.errors import OperationFailure

from faces.database import Db, translate
from faces.errors import Conflict, DatabaseUnavailable, DeadlineExceeded, LeaseLost
from faces.leases import Holder, Lease, Leases
from faces.records import ActiveModel
from faces.store_models import ModelStore
from faces.watch import IndexState, explain, list_indexes
from migrations import indexes, refusals
from migrations.ledger import Ledger, check_known
from migrations.step import Step

LEASE = "migrations"
LEASE_S = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do. `unknown` are applied steps of a newer release."""

    steps: tuple[Step, ...] = ()
    later: tuple[Step, ...] = ()
    index_actions: tuple[indexes.Action, ...] = ()
    unknown: tuple[str, ...] = ()
    active: ActiveModel | None = None
    live: dict[str, IndexState] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether code and database agree, steps of the other phase included."""
        return not (self.steps or self.later or self.index_actions)


class Runner:
    """Applies and reverts; `say` gets one line of progress at a time."""

    def __init__(self, db: Db, steps: Sequence[Step], say: Say) -> None:
        self._db = db
        self._steps = steps
        self._say = say
        self._ledger = Ledger(db)
        self._models = ModelStore(db)

    def plan(
        self, *, post: bool = False, to: str | None = None, choice: ActiveModel | None = None
    ) -> Plan:
        """What `up` would do now; it touches nothing.

        `choice` stands for the model that `up` would choose on a database that has none.
        """
        applied = self._ledger.applied()
        unknown = check_known(self._steps, applied)
        due = [step for step in self._steps if step.name not in applied]
        if to is not None:
            if to not in {step.name for step in self._steps}:
                raise Conflict("There is no such step: `python -m migrations status` lists them.")
            due = [step for step in due if step.name <= to]
        phase = "post" if post else "pre"
        active = self._models.active() or choice
        live = list_indexes(self._db)
        return Plan(
            steps=tuple(step for step in due if step.phase == phase),
            later=tuple(step for step in due if step.phase != phase),
            index_actions=tuple(indexes.actions(indexes.wanted(active), live)),
            unknown=tuple(unknown),
            active=active,
            live=live,
        )

    def up(
        self,
        choose: Callable[[], tuple[str, str] | None],
        *,
        post: bool = False,
        to: str | None = None,
        build_of: Callable[[str], str] = lambda key: "",
    ) -> Plan:
        """Applies what is due and returns what it was; does not wait for indexes to be built.

        `choose` gives model key and encoder build for a database that has no active model, or None
        to leave it without. `build_of` says which build of a model is here, empty when none is: it
        is noted for a model that was chosen before its files were there.
        """
        with self.lease() as lease:
            before = self.plan(post=post, to=to)
            for step in before.steps:
                lease.renew()  # one that was paused for long is not to undo what a newer one did
                took = self._ledger.run_up(step)
                self._say(f"applied {step.name} in {took} ms")
            if to is None and self._models.active() is None:
                chosen = choose()
                if chosen is not None:
                    active = self._models.choose(*chosen)
                    self._say(f"the active model is {active.key}")
            self._note_build(build_of)
            plan = self.plan(post=post, to=to)
            if to is not None:
                plan = replace(plan, index_actions=())
            for action in plan.index_actions:
                lease.renew()
                self.send(action)
        return Plan(before.steps, plan.later, plan.index_actions, plan.unknown, plan.active)

    def _note_build(self, build_of: Callable[[str], str]) -> None:
        active = self._models.active()
        if active is None or active.build:
            return
        if build := build_of(active.key):
            self._models.note_build(active.key, build)
            self._say(f"noted which build of {active.key} makes the vectors")

    def down(self) -> Step | None:
        """Reverts the last applied step that this code knows; None when there is none."""
        with self.lease() as lease:
            applied = self._ledger.applied()
            check_known(self._steps, applied)
            known = [step for step in self._steps if step.name in applied]
            if not known:
                return None
            lease.renew()  # as `up` does
            self._ledger.run_down(known[-1])
            return known[-1]

    def send(self, action: indexes.Action) -> None:
        """Sends one index command. Raises what Atlas's refusal means."""
        with translate():
            try:
                self._db.command(action.command)
            except OperationFailure as error:
                ours = refusals.explain(error, action.command)
                if ours is None:
                    raise
                raise ours from error
        self._say(f"{next(iter(action.command))}: {action.why}")

    def wait(self, names: Sequence[str], deadline_s: float, *, ready: bool = False) -> None:
        """Returns when all these indexes are queryable. Raises DeadlineExceeded, Conflict.

        `ready`: when their newest definition is, not one that serves until then.
        """
        began = time.monotonic()
        told = ""
        while True:
            live = list_indexes(self._db)
            waiting = [
                name
                for name in names
                if (state := live.get(name)) is None
                or not state.queryable
                or (ready and state.status != "READY")
            ]
            if not waiting:
                return
            state = live.get(waiting[0])
            if state is not None and state.status == "FAILED":
                raise Conflict(explain(waiting[0], state))
            elapsed = time.monotonic() - began
            if elapsed > deadline_s:
                raise DeadlineExceeded(
                    f"{waiting[0]} was not queryable within {deadline_s:.0f} s; it is still being "
                    "built: `python -m migrations status` shows how it is."
                )
            line = f"{waiting[0]}: {state.status if state else 'not listed yet'}"
            if line != told:
                self._say(line)
                told = line
            time.sleep(0.1 if elapsed < 5 else 1.0)

    @contextlib.contextmanager
    def lease(self, wait_s: float = 60.0) -> Iterator[Lease]:
        """Holds the migrations' lease; another runner is waited for. Raises LeaseLost."""
        holder = Holder.this_process("migrations")
        leases = Leases(self._db)
        until = time.monotonic() + wait_s
        told = False
        while (lease := leases.acquire(LEASE, holder, LEASE_S)) is None:
            if time.monotonic() > until:
                raise LeaseLost("Another migration is running: wait for it, then run this again.")
            if not told:
                self._say("another migration is running, waiting for it")
                told = True
            time.sleep(0.25)
        done = threading.Event()

        def renew() -> None:
            while not done.wait(LEASE_S / 3):
                try:
                    lease.renew()
                except LeaseLost:
                    return
                except DatabaseUnavailable:
                    continue  # the next renewal may come through

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            done.set()
            thread.join()
            with contextlib.suppress(DatabaseUnavailable):  # it runs out by itself
                lease.release()
