"""`python -m bench run [SECTION…]`: measure, print one table and write var/bench.json."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from bench.report import Row, as_json, from_json, say, table, write

SECTIONS = ("start", "encode", "photo", "atlas", "index", "search")
PARTS = ("index_speed", "index_memory", "index_web")
"""What `index` consists of, each by itself."""
COMMANDS = ("accuracy", "calibrate", "dyno", "faults", "load", "soak")


def machine() -> dict[str, object]:
    """What the figures depend on: processor, cores, interpreter and runtime versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line for line in cpuinfo if "model name" in line]
    return {
        "processor": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def run_section(name: str) -> list[Row]:
    """The section's rows, measured in a process of its own so that none disturbs the next.

    Raises RuntimeError when the section fails.
    """
    command = [sys.executable, "-m", "bench", "section", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        rows = [from_json(line) for line in child.stdout if line.startswith("{")]
    if child.returncode:
        raise RuntimeError(f"section {name} failed with status {child.returncode}")
    return rows


def main() -> int:
    """Run the command line; the exit status."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        module = importlib.import_module(f"bench.{sys.argv[1]}")
        return int(module.main(sys.argv[2:]))
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog=f"further commands: {', '.join(COMMANDS)} (each has --help)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure all sections, or those named")
    run.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join((*SECTIONS, *PARTS)))
    run.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where to write")
    one = commands.add_parser("section", help="measure one section, rows as JSON lines")
    one.add_argument("section", choices=(*SECTIONS, *PARTS))
    arguments = parser.parse_args()
    if arguments.command == "section":
        for row in importlib.import_module(f"bench.{arguments.section}").rows():
            print(json.dumps(as_json(row)), flush=True)
        return 0
    unknown = set(arguments.sections) - {*SECTIONS, *PARTS}
    if unknown:
        parser.error(f"no section named {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    failed: list[str] = []
    for name in arguments.sections or SECTIONS:
        say(f"section {name}")
        try:
            rows += run_section(name)
        except RuntimeError as error:
            failed.append(str(error))
    write(arguments.json, machine(), rows)
    print(table(rows))
    print(f"written to {arguments.json}")
    for problem in failed:
        print(f"bench: {problem}; its figures are missing above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("stopped before the end")
        sys.exit(130)
