"""Steps by name, and the smallest sequence of them that still fails."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.fault_rows import Scenario


@dataclass(frozen=True, slots=True)
class Step:
    """A row and its place in the sequence, which with the seed decides what it draws."""

    scenario: Scenario
    place: int

    def __str__(self) -> str:
        return f"{self.scenario.name}#{self.place}"


def parse(text: str, rows: Sequence[Scenario]) -> list[Step]:
    """Steps as `command` writes them, separated by `;`. Raises ValueError naming what is wrong."""
    named = {row.name: row for row in rows}
    steps = []
    for position, word in enumerate(filter(None, map(str.strip, text.split(";")))):
        name, _, place = word.partition("#")
        if name not in named:
            raise ValueError(f"There is no row {name!r}: make faults LIST=1 names them.")
        steps.append(Step(named[name], int(place) if place else position))
    return steps


def command(steps: Sequence[Step], seed: int) -> str:
    """The command that runs exactly these steps on a fresh system."""
    return f"make faults STEPS={shlex.quote('; '.join(map(str, steps)))} SEED={seed}"


def smallest(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """A part of `steps` that fails, none of which can be left out.

    `steps` failed at the last one, so that one alone is tried first. Then, as in Zeller and
    Hildebrandt's ddmin, ever smaller parts are left out as long as the rest fails.
    """
    tried = {tuple(steps): True}

    def still(rest: Sequence[Step]) -> bool:
        if tuple(rest) not in tried:
            tried[tuple(rest)] = fails(rest)
        return tried[tuple(rest)]

    left = list(steps)
    if len(left) > 1 and still(left[-1:]):
        return left[-1:]
    size = len(left) // 2
    while size and len(left) > 1:
        parts = [left[:at] + left[at + size :] for at in range(0, len(left), size)]
        smaller = next((rest for rest in parts if rest and still(rest)), None)
        if smaller is None:
            size //= 2
        else:
            left, size = smaller, min(size, len(smaller) // 2)
    return left
