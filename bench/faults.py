"""`python -m bench faults`: break the whole system in every way listed, and check the promises."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fault_checks import check, recovered
from bench.fault_commands import uncovered
from bench.fault_ledger import Client, written
from bench.fault_rows import SCENARIOS, Scenario
from bench.fault_shrink import Step, command, parse, smallest
from bench.fault_system import System, Wrong
from bench.report import say
from faces.settings import load

SHRINK_S = 1200.0
"""How long a failure is shrunk at most; what was found by then is printed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    name: str
    wrong: str
    seconds: float
    recovered_s: float
    slowest_s: float
    answers: str


def main(argv: Sequence[str], rows: Sequence[Scenario] = SCENARIOS) -> int:
    """Exit status 0 when every promise held in every row."""
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the rows that take minutes")
    parser.add_argument(
        "--only", metavar="TEXT", help="rows whose name contains this; several: A|B"
    )
    parser.add_argument("--minutes", type=float, help="rows in random order for this long")
    parser.add_argument("--steps", metavar="A;B", help="these rows one after the other")
    parser.add_argument("--seed", type=int, help="what random order and work follow from")
    parser.add_argument("--list", action="store_true", help="name the rows, and end")
    given = parser.parse_args(argv)
    chosen = [Step(row, place) for place, row in enumerate(rows) if row.quick or not given.quick]
    if given.only:
        chosen = [
            step
            for step in chosen
            if any(text in step.scenario.name for text in given.only.split("|"))
        ]
    if given.list or not chosen:
        print("\n".join(step.scenario.name for step in chosen) if chosen else "No such row.")
        return 0 if chosen else 2
    if given.steps:
        try:
            chosen = parse(given.steps, rows)
        except ValueError as error:
            parser.error(str(error))
    seed = given.seed if given.seed is not None else random.randrange(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="likeness-faults-"))
    say(f"faults: seed {seed}; ledger and logs in {folder}")
    run = Run(seed, folder)
    if given.minutes is not None:
        run.at_random(chosen, given.minutes * 60)
    else:
        run.in_order(chosen, shrinks=bool(given.steps))
    print(_table([*run.outcomes, run.covered()]))
    wrong = [o for o in (*run.outcomes, run.covered()) if o.wrong]
    print(f"{written(folder)} operations were acknowledged; {len(wrong)} of {len(run.outcomes) + 1}"
          f" rows wrong; seed {seed}")  # fmt: skip
    for steps in run.shrunk:
        print(f"smallest that still fails: {command(steps, seed)}")
    if wrong or run.stopped:
        print(f"bench: see the ledger and the logs in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


class Run:
    """Rows on systems that are started for them: a fresh one at first and after each wrong row."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.outcomes: list[Outcome] = []
        self.shrunk: list[list[Step]] = []
        self.stopped = False
        """Whether a system could not be started."""
        self._seed = seed
        self._folder = folder
        self._systems = 0
        self._sent: set[str] = set()

    def in_order(self, steps: Sequence[Step], *, shrinks: bool) -> None:
        """Every step once."""
        waiting = list(steps)
        while waiting and not self.stopped:
            done = self._until_wrong(iter(waiting))
            waiting = waiting[len(done) :]
            if shrinks and self._failed():
                self._shrink(done)

    def at_random(self, steps: Sequence[Step], seconds: float) -> None:
        """Steps drawn by the seed for so long; shrinking what fails takes time of its own."""
        chance = random.Random(self._seed)
        until = time.monotonic() + seconds

        def drawn() -> Iterator[Step]:
            while time.monotonic() < until:
                yield Step(chance.choice(steps).scenario, len(self.outcomes))

        while time.monotonic() < until and not self.stopped:
            done = self._until_wrong(drawn())
            if self._failed():
                self._shrink(done)

    def covered(self) -> Outcome:
        """Whether every command that the service sent, as heard from the driver, has a row."""
        lacking = ", ".join(uncovered(self._sent))
        wrong = f"no row fails {lacking}" if lacking else ""
        return Outcome("every command that was sent has a row", wrong, 0, 0, 0, "")

    def _failed(self) -> bool:
        return bool(self.outcomes) and bool(self.outcomes[-1].wrong)

    def _shrink(self, steps: Sequence[Step]) -> None:
        """Keeps the smallest part of `steps` that still fails, each tried on a fresh system."""
        until = time.monotonic() + SHRINK_S

        def fails(part: Sequence[Step]) -> bool:
            if time.monotonic() > until or self.stopped:
                return False
            say(f"faults: trying {len(part)} of {len(steps)} steps")
            kept = len(self.outcomes)
            self._until_wrong(iter(part))
            found = len(self.outcomes) > kept and self._failed()
            del self.outcomes[kept:]
            return found

        self.shrunk.append(smallest(steps, fails))
        say(f"faults: smallest that still fails: {command(self.shrunk[-1], self._seed)}")

    def _until_wrong(self, steps: Iterator[Step]) -> list[Step]:
        """The steps that were done on a fresh system, up to the first wrong one."""
        done: list[Step] = []
        system = System(self._folder / f"system-{self._systems}")
        self._systems += 1
        client = None
        try:
            say("faults: starting the system")
            system.up()
            client = Client(system, photos(), self._folder)
            client.learn()
            for step in steps:
                outcome = _row(step.scenario, client, random.Random(f"{self._seed} {step.place}"))
                done.append(step)
                self.outcomes.append(outcome)
                say(f"faults: {outcome.name}: {outcome.wrong or 'held'}")
                if outcome.wrong:
                    break  # what comes next is judged on a fresh system
        except Wrong as error:
            say(f"faults: the system did not start: {error}")
            self.stopped = True
        finally:
            if client is not None:
                client.close()
            self._sent |= system.sent()
            system.down()
        return done


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
