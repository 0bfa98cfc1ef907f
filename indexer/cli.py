"""The commands of `python -m indexer`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from faces.errors import ConfigError, LikenessError
from faces.settings import Settings, load

EXIT_LEASE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command: 0 done, 1 with a sentence on stderr, 3 lease held."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except LikenessError as error:
        print(f"indexer: {error.detail}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m indexer",
        description="Keeps the face index in step with the CMS.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    once = commands.add_parser("once", help="reconcile the source once, then end")
    once.add_argument("--folder", type=Path, help="a folder of pictures instead of CMS_SOURCE")
    once.add_argument("--source-name", help="the source's name instead of CMS_SOURCE_NAME")
    once.add_argument("--collection", help="the target collection instead of CMS_COLLECTION")
    once.add_argument(
        "--allow-deletes",
        action="store_true",
        help="delete what is gone even when it is a large part of the source",
    )
    once.set_defaults(command=_once)
    run = commands.add_parser("run", help="keep the schedule and run jobs until stopped")
    run.set_defaults(command=_run)
    work = commands.add_parser("work", help="run the waiting jobs of one lane (started by run)")
    work.add_argument("--lane", choices=("long", "short"), required=True)
    work.set_defaults(command=_work)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from indexer import log
    from indexer.worker import run

    log.configure()
    return run(load())


def _work(arguments: argparse.Namespace) -> int:
    from indexer import log
    from indexer.work import work

    log.configure()
    return work(load(), arguments.lane)


def _once(arguments: argparse.Namespace) -> int:
    from faces.database import connect, database
    from faces.store import Store
    from indexer.progress import Console, summary
    from indexer.run import LeaseHeld, open_run

    settings = _settings(arguments)
    stopping = threading.Event()
    caught: list[int] = []

    def stop(signum: int, _: object) -> None:
        caught.append(signum)
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    console = Console(sys.stderr)
    client = connect(settings, "worker")
    began = time.monotonic()
    try:
        store = Store(database(client, settings))
        with open_run(store, settings, stopping=stopping, role="once") as opened:
            outcome = opened.reconcile(report=console, allow_deletes=arguments.allow_deletes)
    except LeaseHeld as held:
        print(f"indexer: {held.detail}", file=sys.stderr)
        return EXIT_LEASE
    finally:
        console.clear()
        client.close()
    seconds = time.monotonic() - began
    print(
        summary(outcome.tally, seconds, name=opened.name, collection=opened.collection), flush=True
    )
    if outcome.held_back:
        print(
            f"indexer: {outcome.held_back} items are gone from the source, more than"
            f" INDEX_MAX_DELETE_RATIO ({settings.index_max_delete_ratio:g}) allows, so none was"
            " deleted. If that is right, run `python -m indexer once --allow-deletes`.",
            file=sys.stderr,
        )
    if not outcome.complete:
        print("indexer: stopped before the end; the next run goes on.", file=sys.stderr)
        return 128 + caught[0] if caught else 0
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings with what the command line says instead."""
    settings = load()
    changes: dict[str, object] = {}
    if arguments.folder is not None:
        changes |= {"cms_source": "folder", "cms_folder": arguments.folder}
    if arguments.source_name is not None:
        changes["cms_source_name"] = arguments.source_name
    if arguments.collection is not None:
        changes["cms_collection"] = arguments.collection
    if not changes:
        return settings
    try:
        return Settings.model_validate(settings.model_dump() | changes)
    except ValueError:
        raise ConfigError("--collection must be 1 to 255 of A-Z a-z 0-9 _ . -") from None
