"""`python -m migrations model`: looking at, switching, rolling back and pruning models."""

from __future__ import annotations

import argparse

from faces.database import Db
from faces.errors import Conflict
from faces.models.cards import card
from faces.records import ActiveModel
from faces.reembed import handler
from faces.settings import Settings
from faces.store_models import ModelStore
from migrations import choice, recall, shadow
from migrations.ledger import Ledger
from migrations.runner import Runner, Say
from migrations.step import discover
from migrations.switching import Switch, Wish, check_left

ACTIONS = ("flip", "rollback", "prune")


def add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """The command's parser, added to the others."""
    model = commands.add_parser(
        "model",
        help="show the models; switch to KEY; flip, rollback or prune",
        description=(
            "KEY embeds every face for that model, prepares the processes and switches. "
            "`flip` does the last part alone, `rollback` switches back, `prune` drops what is not "
            "active."
        ),
    )
    model.add_argument("what", nargs="?", metavar="KEY|flip|rollback|prune")
    model.add_argument("--shadow", action="store_true", help="compare on a sample, do not switch")
    model.add_argument("--sample", type=int, default=500, metavar="N", help="faces for --shadow")
    model.add_argument("--no-flip", action="store_true", help="stop before the switch")
    model.add_argument(
        "--leave-behind",
        type=int,
        default=0,
        metavar="N",
        help="switch though up to N faces lack the new vector",
    )
    model.add_argument("--quantization", choices=("none", "scalar", "binary"), default="none")
    model.add_argument("--timeout", type=float, default=3600, metavar="S", help="for the index")
    return model


def run(options: argparse.Namespace, settings: Settings, db: Db, *, say: Say, tell: Say) -> int:
    """Runs the command; the exit code. Progress goes to `say`, results to `tell`."""
    runner = Runner(db, discover(), say)
    switch = Switch(db, runner, handler(settings), say)
    if options.what is None:
        return _show(db, tell)
    if options.what == "prune":
        dropped = switch.prune()
        tell("dropped " + ", ".join(dropped) if dropped else "Nothing to drop.")
        return 0
    if options.what == "rollback":
        key = switch.roll_back()
        return _finish(options, switch, runner, key, tell)
    if options.what == "flip":
        active = ModelStore(db).active()
        if active is None or active.next is None:
            raise Conflict(
                "No switch is being prepared: `python -m migrations model KEY` begins one."
            )
        runner.wait([active.next.index], options.timeout)
        _gate(db, active, active.next, say)
        return _finish(options, switch, runner, active.next.key, tell)
    return _switch(options, settings, db, switch, runner, say, tell)


def _switch(
    options: argparse.Namespace,
    settings: Settings,
    db: Db,
    switch: Switch,
    runner: Runner,
    say: Say,
    tell: Say,
) -> int:
    key = card(options.what).key
    active = ModelStore(db).active()
    if active is not None and (active.key, active.quantization) == (key, options.quantization):
        if active.next is not None and active.next.key != key:
            raise Conflict(
                f"{key} is the active model; a switch to {active.next.key} is being prepared: "
                "`python -m migrations model prune` drops it."
            )
        tell(f"{key} is the active model.")
        return 0
    before = switch.begin(Wish(key, choice.build_of(settings, key), options.quantization))
    if options.shadow:
        switch.embed(key, limit=options.sample)
        vectors = shadow.read(db, before.key, key, options.sample)
        tell("\n".join(shadow.compare(before.key, key, vectors).lines()))
        return 0
    failed = switch.embed(key)
    tell(f"every face has a vector of {key}" if not failed else f"{failed} face(s) lack {key}")
    upcoming = switch.ready(key)
    if upcoming is not None:
        runner.wait([upcoming.index], options.timeout)
        _gate(db, before, upcoming, say)
    if options.no_flip:
        tell("prepared; `python -m migrations model flip` switches")
        return 0
    return _finish(options, switch, runner, key, tell)


def _gate(db: Db, active: ActiveModel, upcoming: ActiveModel, say: Say) -> None:
    """Raises Conflict for a quantised index that finds too little; a rollback was gated before."""
    if upcoming.quantization == "none" or upcoming.rolled_back:
        return
    value = recall.check(db, upcoming, active if active.key == upcoming.key else upcoming)
    say(f"recall@10 of {upcoming.index} is {value:.3f}")
    Ledger(db).note(
        f"index/{upcoming.index}",
        {"quantization": upcoming.quantization, "recall_at_10": value},
    )


def _finish(
    options: argparse.Namespace, switch: Switch, runner: Runner, key: str, tell: Say
) -> int:
    upcoming = switch.ready(key)
    if upcoming is None:
        tell(f"{key} is the active model.")
        return 0
    runner.wait([upcoming.index], options.timeout)
    # Refused before any process is asked to load anything.
    check_left(key, switch.embed(key), options.leave_behind)
    switch.prepare(key)
    # What was indexed between the two; from here on nothing new lacks the vector.
    switch.embed(key)
    active = switch.flip(key, leave_behind=options.leave_behind)
    left = active.left_behind
    note = f"; {left} face(s) were left behind" if left else ""
    tell(f"{active.key} is the active model{note}")
    return 0


def _show(db: Db, tell: Say) -> int:
    store = ModelStore(db)
    active = store.active()
    if active is None:
        tell("no model is active yet: run `python -m migrations up`")
        return 1
    tell(f"active: {active.key}, index {active.index}, quantization {active.quantization}")
    if active.left_behind:
        tell(f"  {store.missing(active.key)} face(s) lack its vector and are not searched")
    if active.next is not None:
        lack = store.missing(active.next.key)
        state = "preparing" if active.preparing else "embedding"
        tell(f"next: {active.next.key}, index {active.next.index}, {state}, {lack} face(s) lack it")
    if active.previous is not None:
        tell(f"previous: {active.previous.key}, index {active.previous.index}")
    return 0
