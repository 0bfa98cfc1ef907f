"""The commands of `python -m indexer`."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

from faces.errors import ConfigError, DatabaseUnavailable, LikenessError, StorageFull
from faces.settings import Settings, load
from faces.unread import discard
from indexer import log

EXIT_LEASE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command: 0 done, 1 with a sentence on stderr, 3 lease held."""
    arguments = _parser().parse_args(argv)
    log.configure(arguments.level)
    try:
        return int(arguments.command(arguments))
    except StorageFull as error:
        print(f"indexer: storage_full: {error.detail}", file=sys.stderr)
        return 1
    except DatabaseUnavailable as error:
        advice = "Check MONGODB_URI, its user, and the cluster's network access list."
        print(f"indexer: {error.detail} {advice}", file=sys.stderr)
        return 1
    except LikenessError as error:
        print(f"indexer: {error.detail}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        discard(sys.stdout)
        return 0
    except KeyboardInterrupt:
        print("indexer: stopped before the end.", file=sys.stderr)
        return 130
    except Exception as error:
        # A fault of ours: where it came from and of what kind, without its text, which may hold
        # anything. Nobody goes on after it.
        structlog.get_logger("likeness").exception("unexpected_error")
        print(
            f"indexer: Internal error ({type(error).__name__}); please report it.", file=sys.stderr
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m indexer",
        description="Keeps the face index in step with the CMS.",
    )
    parser.set_defaults(level=logging.WARNING)
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
    once.add_argument(
        "--again",
        action="store_true",
        help="try pictures anew that were set aside or wait after a failure",
    )
    once.add_argument(
        "--deadline",
        type=_seconds,
        metavar="TIME",
        help="stop after this time (90s, 50m, 2h); the next run goes on",
    )
    once.set_defaults(command=_once)
    run = commands.add_parser("run", help="keep the schedule and run jobs until stopped")
    run.set_defaults(command=_run, level=logging.INFO)
    status = commands.add_parser("status", help="the source, the lease, the jobs, the failures")
    status.set_defaults(command=_status)
    audit = commands.add_parser("audit", help="look for contradictions in what is stored")
    audit.add_argument("--collection", help="only this collection")
    audit.add_argument("--fix", action="store_true", help="mend what is found")
    audit.set_defaults(command=_audit, folder=None, source_name=None)
    work = commands.add_parser("work", help="run the waiting jobs of one lane (started by run)")
    work.add_argument("--lane", choices=("long", "short"), required=True)
    work.add_argument("--source", help="the name of the source whose jobs it does")
    work.set_defaults(command=_work, level=logging.INFO)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from indexer.worker import run

    return run(load())


def _work(arguments: argparse.Namespace) -> int:
    from indexer.work import work

    return work(load(), arguments.lane, arguments.source)


def _once(arguments: argparse.Namespace) -> int:
    from indexer.once import Once, Said

    settings = _settings(arguments)
    stopping = threading.Event()
    caught: list[int] = []

    def stop(signum: int, _: object) -> None:
        caught.append(signum)
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    said: Said | None = Once(settings, stopping, sys.stderr).run(
        allow_deletes=arguments.allow_deletes,
        again=arguments.again,
        deadline_s=arguments.deadline,
    )
    if said is None:
        print("indexer: another process is indexing this source; nothing to do.", file=sys.stderr)
        return EXIT_LEASE
    print(said.summary, flush=True)
    for warning in said.warnings:
        print(f"indexer: {warning}", file=sys.stderr)
    return 128 + caught[0] if caught else 0


def _status(arguments: argparse.Namespace) -> int:
    from indexer.status import lines

    for line in lines(load()):
        print(line)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from indexer.once import audit

    settings = _settings(arguments)
    for line in audit(settings, arguments.collection, fix=arguments.fix, stream=sys.stderr):
        print(line)
    return 0


def _seconds(text: str) -> float:
    """Seconds of `90`, `90s`, `50m` or `2h`."""
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError("must read like 90s, 50m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


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
        raise ConfigError(
            "--collection must be 1 to 255 of A-Z a-z 0-9 _ . -, --source-name 1 to 100 printable"
            " characters other than `api`."
        ) from None
