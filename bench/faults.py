"""`python -m bench faults`: break the whole system in every way listed, and check the promises."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fault_checks import check, recovered
from bench.fault_ledger import Client, written
from bench.fault_rows import SCENARIOS, Scenario
from bench.fault_system import System, Wrong
from bench.report import say
from faces.settings import load


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    name: str
    wrong: str
    seconds: float
    recovered_s: float
    slowest_s: float
    answers: str


def main(argv: Sequence[str]) -> int:
    """Exit status 0 when every promise held in every row."""
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the rows that take minutes")
    parser.add_argument("--only", metavar="TEXT", help="rows whose name contains this")
    parser.add_argument("--minutes", type=float, help="rows in random order for this long")
    parser.add_argument("--seed", type=int, help="what random order and work follow from")
    parser.add_argument("--list", action="store_true", help="name the rows, and end")
    given = parser.parse_args(argv)
    chosen = [s for s in SCENARIOS if (s.quick or not given.quick)]
    if given.only:
        chosen = [s for s in chosen if given.only in s.name]
    if given.list or not chosen:
        print("\n".join(s.name for s in (chosen or SCENARIOS)))
        return 0 if chosen else 2
    seed = given.seed if given.seed is not None else random.randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="likeness-faults-"))
    say(f"faults: seed {seed}; ledger and logs in {folder}")
    outcomes, stopped = _run(chosen, seed, given.minutes, folder)
    print(_table(outcomes))
    wrong = [o for o in outcomes if o.wrong]
    print(f"{written(folder)} operations were acknowledged; {len(wrong)} of {len(outcomes)} rows"
          f" wrong; seed {seed}")  # fmt: skip
    if wrong or stopped:
        print(f"bench: see the ledger and the logs in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def _run(
    chosen: Sequence[Scenario], seed: int, minutes: float | None, folder: Path
) -> tuple[list[Outcome], bool]:
    """The outcomes, and whether the system could not be brought up again after a wrong row."""
    chance = random.Random(seed)
    outcomes: list[Outcome] = []
    number = 0
    until = None if minutes is None else time.monotonic() + minutes * 60
    waiting = list(chosen)
    while waiting:
        system = System(folder / f"system-{number}")
        number += 1
        client = None
        try:
            say("faults: starting the system")
            system.up()
            client = Client(system, photos(), folder)
            client.learn()
            while waiting:
                if until is not None:
                    scenario = chance.choice(chosen)
                    if time.monotonic() > until:
                        return outcomes, False
                else:
                    scenario = waiting.pop(0)
                outcome = _row(scenario, client, random.Random(f"{seed} {len(outcomes)}"))
                outcomes.append(outcome)
                say(f"faults: {outcome.name}: {outcome.wrong or 'held'}")
                if outcome.wrong:
                    break  # what comes next is judged on a fresh system
        except Wrong as error:
            say(f"faults: the system did not start: {error}")
            return outcomes, True
        finally:
            if client is not None:
                client.close()
            system.down()
    return outcomes, False


def _row(scenario: Scenario, client: Client, chance: random.Random) -> Outcome:
    client.statuses.clear()
    client.slowest = 0.0
    began, took, wrong = time.monotonic(), 0.0, ""
    try:
        scenario.act(client, chance)
        answers, slowest = dict(client.statuses), client.slowest
        took = recovered(client)
        check(client)
    except Wrong as error:
        wrong, answers, slowest = str(error), dict(client.statuses), client.slowest
    said = ", ".join(f"{n} x {k}" for k, n in sorted(answers.items()) if not k.startswith("2"))
    seconds = time.monotonic() - began
    return Outcome(scenario.name, wrong, seconds, took, slowest, said)


def photos() -> dict[str, bytes]:
    """Sample photos by a short name."""
    gallery = load().var_dir / "samples" / "gallery"
    found: dict[str, bytes] = {}
    for person in sorted(gallery.iterdir()):
        photo = sorted(person.iterdir())[0]
        found[f"photo-{len(found)}"] = photo.read_bytes()
    if not found:
        raise Wrong(f"{gallery} holds no photos: run python -m faces.models fetch --samples")
    return found


def _table(outcomes: Sequence[Outcome]) -> str:
    lines = [("fault", "held", "s", "back in", "slowest", "refused meanwhile")]
    lines += [
        (
            o.name,
            "NO: " + o.wrong if o.wrong else "yes",
            f"{o.seconds:.0f}",
            f"{o.recovered_s:.1f} s",
            f"{o.slowest_s:.1f} s",
            o.answers,
        )
        for o in outcomes
    ]
    widths = [min(60, max(len(line[column]) for line in lines)) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
