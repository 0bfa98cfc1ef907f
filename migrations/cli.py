"""The command line of migrations: one plain sentence on failure, 0 on success."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from faces.database import Db, connect, database
from faces.errors import LikenessError
from faces.settings import Settings, load
from migrations import choice, indexes
from migrations.ledger import Ledger
from migrations.runner import Plan, Runner
from migrations.step import discover


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load()
        client = connect(settings, "migrations", deadline=False)
        try:
            code: int = options.run(options, settings, database(client, settings))
            return code
        finally:
            client.close()
    except LikenessError as error:
        print(error.detail, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Running the command again goes on from here.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m migrations", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="apply steps, create and repair vector indexes")
    up.add_argument("--post", action="store_true", help="apply the post_ steps instead of pre_")
    up.add_argument("--to", metavar="STEP", help="stop after this step")
    up.add_argument("--wait", action="store_true", help="until the vector indexes are queryable")
    up.add_argument("--timeout", type=float, default=900, metavar="S", help="for --wait")
    up.set_defaults(run=_up)
    plan = commands.add_parser("plan", help="print what `up` would send; touches nothing")
    plan.add_argument("--post", action="store_true")
    plan.add_argument("--to", metavar="STEP")
    plan.set_defaults(run=_plan)
    status = commands.add_parser("status", help="exit 1 when code and database disagree")
    status.set_defaults(run=_status)
    down = commands.add_parser("down", help="revert the last applied step")
    down.set_defaults(run=_down)
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _up(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    runner = Runner(db, discover(), _say)
    plan = runner.up(lambda: choice.choose(settings), post=options.post, to=options.to)
    _warn(plan, settings)
    names = [index.name for index in indexes.wanted(plan.active)]
    if options.wait and names:
        runner.wait(names, options.timeout)
        print(f"{', '.join(names)}: queryable")
    elif plan.index_actions:
        print("The vector index is being built; `python -m migrations status` shows how far it is.")
    if not plan.steps and not plan.index_actions:
        print("Nothing to do.")
    return 0


def _plan(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    plan = Runner(db, discover(), _say).plan(
        post=options.post, to=options.to, choice=choice.preview(settings)
    )
    for step in plan.steps:
        print(f"# step {step.name}")
        for command in step.up():
            print(json.dumps(command))
    for action in plan.index_actions:
        print(f"# {action.why}")
        for line in action.diff:
            print(f"#   {line}")
        print(json.dumps(action.command))
    if not plan.steps and not plan.index_actions:
        print("# nothing to do")
    _warn(plan, settings)
    return 0


def _status(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    steps = discover()
    runner = Runner(db, steps, _say)
    plan = runner.plan()
    applied = Ledger(db).applied()
    for step in steps:
        entry = applied.get(step.name)
        state = (
            f"applied {entry.applied_at:%Y-%m-%d %H:%M:%S}Z by {entry.by}, {entry.duration_ms} ms"
            if entry
            else "not applied"
        )
        print(f"{step.name}: {state}")
    if plan.active is None:
        print("model: none is active yet")
    else:
        print(f"model: {plan.active.key}, index {plan.active.index}")
    for index in indexes.wanted(plan.active):
        live = plan.live.get(index.name)
        serves = "queryable" if live and live.queryable else "not queryable"
        print(f"{index.name}: {f'{live.status}, {serves}' if live else 'missing'}")
    for action in plan.index_actions:
        print(action.why)
        for line in action.diff:
            print(f"  {line}")
    _warn(plan, settings)
    return 0 if plan.empty and plan.active is not None else 1


def _down(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    step = Runner(db, discover(), _say).down()
    print(f"reverted {step.name}" if step else "Nothing to revert.")
    return 0


def _warn(plan: Plan, settings: Settings) -> None:
    if plan.unknown:
        _say(
            "The database has steps that this release does not know "
            f"({', '.join(plan.unknown)}), as after a rollback; they do not stop it."
        )
    if plan.active is not None and (line := choice.differing(settings, plan.active)):
        _say(line)
