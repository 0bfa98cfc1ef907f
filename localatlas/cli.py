"""The command line: serve, run -- COMMAND, status, --version."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from localatlas.session import Plan, Session
from localatlas.startup import DataFolder, StartError, is_loopback
from localatlas.status import report

DEFAULT_DATA = Path("var/atlas")
PASSWORD_VARIABLE = "LOCALATLAS_PASSWORD"  # noqa: S105 - the variable's name


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 after a failure that was explained on stderr, or the command's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.action == "status":
        status, lines = report(DataFolder(options.data))
        print("\n".join(lines))
        return status
    if options.action == "run" and not command:
        parser.error("run needs a command: localatlas run -- COMMAND")
    if options.action == "serve" and command:
        parser.error("serve takes no command: use localatlas run -- COMMAND")
    logging.basicConfig(
        level=os.environ.get("LOCALATLAS_LOG", "WARNING").upper(),
        format="localatlas: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("pymongo").setLevel(logging.ERROR)
    sys.setswitchinterval(0.001)  # threads that read vectors must not hold up forwarding
    try:
        return asyncio.run(_main(_plan(options, command)))
    except StartError as error:
        print(f"localatlas: {error}", file=sys.stderr)
        return 1


async def _main(plan: Plan) -> int:
    session = Session(plan)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, session.signalled, signum)
    return await session.run()


def _plan(options: argparse.Namespace, command: list[str]) -> Plan:
    auth: bool = options.auth
    if not is_loopback(options.host) and not auth:
        raise StartError(
            f"{options.host} can be reached from other machines, and without --auth anyone there "
            "could read and change all data. Add --auth, or leave --host away."
        )
    user = None
    if options.user:
        password = os.environ.get(PASSWORD_VARIABLE, "")
        if not auth or not password:
            raise StartError(
                f"--user needs --auth, and the user's password in {PASSWORD_VARIABLE}."
            )
        user = (options.user, password)
    return Plan(
        data=options.data,
        host=options.host,
        port=options.port,
        backend=options.backend,
        auth=auth,
        first_user=user,
        lag_s=options.lag / 1000,
        build_delay_s=options.build_delay / 1000,
        test_commands=options.enable_test_commands,
        restart=not options.no_restart,
        command=tuple(command),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="localatlas", description="A stand-in for Atlas Vector Search on this machine."
    )
    parser.add_argument("--version", action="version", version=_version())
    actions = parser.add_subparsers(dest="action", required=True, metavar="serve|run|status")
    status = actions.add_parser("status", help="what runs on a data folder, and its indexes")
    serve = actions.add_parser("serve", help="serve until SIGTERM; line 1 of stdout is the URI")
    run = actions.add_parser(
        "run",
        help="run a command with MONGODB_URI set, and end with it",
        usage="%(prog)s [options] -- COMMAND",
    )
    for sub in (status, serve, run):
        sub.add_argument(
            "--data", type=Path, default=DEFAULT_DATA, help="data folder (%(default)s)"
        )
    for sub in (serve, run):
        sub.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
        sub.add_argument("--port", type=_port, default=0, help="port to bind; 0, the default: any")
        sub.add_argument(
            "--backend",
            metavar="URI",
            help="stand before this replica set, not the embedded engine",
        )
        sub.add_argument("--auth", action="store_true", help="require users to log in (SCRAM)")
        sub.add_argument(
            "--user",
            metavar="NAME",
            help=f"with --auth: create this administrator; password in {PASSWORD_VARIABLE}",
        )
        sub.add_argument(
            "--lag", type=_milliseconds, default=0, metavar="MS", help="delay of writes in searches"
        )
        sub.add_argument(
            "--build-delay", type=_milliseconds, default=0, metavar="MS", help="delay of each build"
        )
        sub.add_argument(
            "--no-restart",
            action="store_true",
            help="end when the embedded engine ends by itself, instead of starting it again",
        )
        sub.add_argument(
            "--enable-test-commands",
            action="store_true",
            help="let clients set fail points in the embedded engine",
        )
    return parser


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return value


def _milliseconds(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _version() -> str:
    try:
        own = importlib.metadata.version("likeness")
    except importlib.metadata.PackageNotFoundError:
        own = "unreleased"
    try:
        engine = importlib.metadata.version("secantusdb")
    except importlib.metadata.PackageNotFoundError:
        engine = "not installed"
    return f"localatlas {own} (embedded engine: SecantusDB {engine})"
