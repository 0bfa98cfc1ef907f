"""The command line of migrations: one plain sentence on failure, 0 on success."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from faces import restore, tombstones
from faces.database import FACES, Db, Document, connect, database, translate
from faces.errors import ConfigError, LikenessError
from faces.models.cards import CARDS, card
from faces.settings import Settings, load
from faces.store_models import ModelStore
from faces.unread import discard
from faces.watch import explain
from migrations import census, choice, cli_model, indexes
from migrations import size as sizing
from migrations.ledger import Ledger
from migrations.runner import Plan, Runner
from migrations.step import discover


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load()
        if options.command == "size":
            return _size(options)
        client = connect(settings, "migrations", deadline=False)
        try:
            code: int = options.run(options, settings, database(client, settings))
            return code
        finally:
            client.close()
    except LikenessError as error:
        print(error.detail, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        discard(sys.stdout)
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
    cli_model.add(commands).set_defaults(run=_model)
    size = commands.add_parser("size", help="RAM, disk and tiers for so many faces")
    size.add_argument("--faces", type=int, required=True, metavar="N")
    size.add_argument("--model", default="facenet512", choices=sorted(CARDS))
    size.add_argument("--tier", choices=[tier.name for tier in sizing.TIERS])
    stones = commands.add_parser("tombstones", help="move what was erased to another database")
    stones.add_argument("what", choices=("export", "import"))
    stones.add_argument("file", nargs="?", default="-", help="JSON lines; - is standard in or out")
    stones.set_defaults(run=_tombstones)
    return parser


def _size(options: argparse.Namespace) -> int:
    if options.faces < 1:
        print("--faces must be at least 1.", file=sys.stderr)
        return 2
    dimensions = card(options.model).dimensions
    print("\n".join(sizing.report(options.faces, dimensions, options.model, options.tier)))
    return 0


def _tombstones(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    path = None if options.file == "-" else Path(options.file)
    if options.what == "export":
        count = 0
        with _whole(path) if path else contextlib.nullcontext(sys.stdout) as out:
            for stone in tombstones.export(db):
                out.write(json.dumps(stone, ensure_ascii=False) + "\n")
                count += 1
        _say(f"exported {count} tombstones")
        return 0
    try:
        text = path.read_text("utf-8") if path else sys.stdin.read()
    except (OSError, UnicodeDecodeError):
        raise ConfigError("The file of tombstones cannot be read.") from None
    done = restore.apply(db, list(_parsed(text)))
    print(
        f"imported {done.tombstones} tombstones; "
        f"deleted {done.items_deleted} items and {done.faces_deleted} faces that they cover"
    )
    return 0


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when it is whole and on disk, and not before.

    Who may read the one before may read this one, and a link goes on leading to it. What is no
    regular file, as a pipe, is written itself. Raises ConfigError.
    """
    special = path.exists() and not path.is_file()
    if not special:  # of a pipe this would make a name that is none
        path = path.resolve()
    target = path if special else path.with_name(path.name + ".part")
    try:
        with target.open("w", encoding="utf-8") as out:
            if path.exists() and not special:
                shutil.copymode(path, target)
            yield out
            out.flush()
            if not special:
                os.fsync(out.fileno())
        if not special:
            target.replace(path)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(
            f"The tombstones cannot be written: {error.strerror}. An older one is unchanged."
        ) from None
    finally:
        if not special:
            target.unlink(missing_ok=True)


def _parsed(text: str) -> Iterator[Document]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError:
            raise ConfigError(f"Line {number} is not an exported tombstone.") from None
        yield tombstones.parse(value, number)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _up(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    runner = Runner(db, discover(), _say)
    plan = runner.up(
        lambda: choice.choose(settings),
        post=options.post,
        to=options.to,
        build_of=lambda key: choice.build_of(settings, key),
    )
    _warn(plan, settings)
    names = [index.name for index in indexes.wanted(plan.active)]
    if options.wait and names:
        rebuilt = any(action.rebuild for action in plan.index_actions)
        runner.wait(names, options.timeout, ready=rebuilt)
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
    for index in indexes.wanted(plan.active):
        if (live := plan.live.get(index.name)) and live.status != "READY":
            print(f"# {explain(index.name, live)}")
    for action in plan.index_actions:
        print(f"# {action.why}")
        for line in action.diff:
            print(f"#   {line}")
        if disk := _disk(db, action):
            print(f"# {disk}")
        print(json.dumps(action.command))
    created = sum("createSearchIndexes" in action.command for action in plan.index_actions)
    if created:
        for line in census.lines(census.take(db), created):
            print(f"# {line}")
    if not plan.steps and not plan.index_actions:
        print("# nothing to do")
    _warn(plan, settings)
    return 0


def _disk(db: Db, action: indexes.Action) -> str | None:
    """What building the index takes of disk, beside what is there."""
    definition = action.definition
    if definition is None:
        return None
    vector = definition["fields"][0]
    with translate():
        count = db[FACES].estimated_document_count()
    found = sizing.size(count, vector["numDimensions"], vector.get("quantization", "none"))
    extra = found.rebuild if action.rebuild else found.disk
    return f"takes about {extra / 1024**2:,.1f} MiB more disk for {count} faces while it is built"


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
        if plan.active.left_behind:
            lack = ModelStore(db).missing(plan.active.key)
            print(f"  {lack} face(s) have no vector of it and are not searched")
    for index in indexes.wanted(plan.active):
        live = plan.live.get(index.name)
        serves = "queryable" if live and live.queryable else "not queryable"
        print(f"{index.name}: {f'{live.status}, {serves}' if live else 'missing'}")
        if live and live.status != "READY":
            print(f"  {explain(index.name, live)}")
    for action in plan.index_actions:
        print(action.why)
        for line in action.diff:
            print(f"  {line}")
    _warn(plan, settings)
    return 0 if plan.empty and plan.active is not None else 1


def _model(options: argparse.Namespace, settings: Settings, db: Db) -> int:
    return cli_model.run(options, settings, db, say=_say, tell=print)


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
