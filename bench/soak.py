"""`python -m bench soak`: everything at once at a steady pace for long, and what grows meanwhile.

Uploads, replacements, deletions, searches, erasures, backfills and about one request in a hundred
with a hostile picture. At the end what is stored is compared with the ledger, as after a fault.
Ends with status 1 on an answer that may not be, on anything lost, doubled or resurrected, and when
memory, threads or open files of a process surely grow.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

from bench.crowd import REFUSED, Crowd
from bench.fault_checks import check, recovered
from bench.fault_ledger import Client, written
from bench.fault_system import Wrong
from bench.load_system import Measured, Plain, gallery, run, vectors
from bench.report import Row, say
from bench.soak_work import Work, start_searches
from bench.vitals import Slope, Vitals

WARM_UP = 600.0
MOST = {"memory": 5.0, "threads": 4.0, "files": 4.0}
"""What may be added in an hour: MiB, threads, open files. More is a leak when it is no chance."""
UNITS = {"memory": "MiB/h", "threads": "/h", "files": "/h"}
NOT_JUDGED = ("atlas's engine", "atlas, whole")
"""Their memory is printed only: the embedded engine, which nobody deploys, is known to grow with
every write (docs/localatlas.md)."""


def main(argv: Sequence[str]) -> int:
    """Exit status 0 when nothing was answered wrongly, nothing was lost, and nothing grows."""
    parser = argparse.ArgumentParser(prog="python -m bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what the work follows from")
    given = parser.parse_args(argv)

    def measure(system: Plain, folder: Path) -> Measured:
        return _soak(system, folder, given.minutes * 60, given.seed)

    return run("soak", measure)


def _soak(system: Plain, folder: Path, seconds: float, seed: int) -> Measured:
    client = Client(system, gallery(), folder)
    client.learn()
    known = vectors(client, client.photos)
    vitals, crowd = system.vitals(), Crowd(system.port)
    work = Work(client, random.Random(seed))
    start_searches(crowd, list(client.photos.values()), known, random.Random(seed))
    work.start()
    _wait(seconds, crowd, work, vitals)
    work.join()
    crowd.join()
    vitals.close()
    wrong = work.wrong + crowd.wrong()
    wrong += [f"the ledger's client was answered {code}, {n} times"
              for code, n in sorted(client.statuses.items())
              if code == "no answer" or (code[0] == "5" and code not in REFUSED)]  # fmt: skip
    said = ", ".join(f"{n} x {code}" for code, n in sorted(client.statuses.items()))
    rows = [*crowd.rows(), Row("operations of the ledger", written(folder), "acknowledged",
                               "higher", note=said)]  # fmt: skip
    try:
        recovered(client)
        check(client)
        rows.append(Row("ledger against the store", 0, "differences", goal=0.0))
    except Wrong as error:
        wrong.append(str(error))
    client.close()
    warm = min(WARM_UP, seconds / 3)
    slopes = vitals.slopes(warm)
    long = seconds >= 3 * WARM_UP
    if not long:
        say(f"soak: growth is judged from {3 * WARM_UP / 60:.0f} minutes on; this was shorter")
    wrong += grown(slopes) if long else []
    return rows + vitals.peaks() + _slope_rows(slopes, warm), wrong


def _wait(seconds: float, crowd: Crowd, work: Work, vitals: Vitals) -> None:
    """Until the time is over or something went wrong; a line on the way every five minutes."""
    began = told = time.monotonic()
    while (now := time.monotonic()) - began < seconds and not work.wrong:
        time.sleep(1)
        if now - told >= 300:
            told = now
            level = ", ".join(
                f"{name} {series.memory[-1]:.0f} MiB"
                for name, series in sorted(vitals.series.items())
                if name.endswith("whole")
            )
            done = sum(len(took) for took in crowd.took.values())
            say(f"soak: minute {(now - began) / 60:.0f}: {done} searches and reads; {level}")


def grown(slopes: dict[str, dict[str, Slope]]) -> list[str]:
    """A sentence for each figure of a process that surely grows by more than it may."""
    return [
        f"{name}: {what} grow by {line.per_hour:.1f} {UNITS[what]} (give or take {line.error:.1f})"
        for name, figures in slopes.items()
        for what, line in figures.items()
        if grows(what, line) and not (what == "memory" and name in NOT_JUDGED)
    ]


def grows(what: str, line: Slope) -> bool:
    """Whether a figure grows by more than it may, three standard errors beyond chance."""
    return line.per_hour - 3 * line.error > MOST[what]


def _slope_rows(slopes: dict[str, dict[str, Slope]], warm: float) -> list[Row]:
    return [
        Row(f"{name}, {what} in an hour", round(line.per_hour, 2), UNITS[what],
            note=f"+- {line.error:.2f}, at the end {line.level:.0f}, from second {warm:.0f}: "
            + ("grows" if grows(what, line) else "no growth beyond chance"))
        for name, figures in slopes.items()
        for what, line in figures.items()
    ]  # fmt: skip
