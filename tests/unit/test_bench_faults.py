"""Shrinking a sequence of steps, as values; `tests/process/test_faults.py` does it for real."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from bench.fault_commands import uncovered
from bench.fault_rows import SCENARIOS, Scenario
from bench.fault_shrink import Step, command, parse, smallest

ROWS = [Scenario(name, lambda client, chance: None) for name in "abcdefghijkl"]
STEPS = [Step(row, place) for place, row in enumerate(ROWS)]


@pytest.mark.parametrize("needed", ["l", "al", "fgl", "abkl", "abcdefghijkl"])
def test_only_what_is_needed_is_left(needed: str) -> None:
    tried: list[Sequence[Step]] = []

    def fails(steps: Sequence[Step]) -> bool:
        tried.append(steps)
        return set(needed) <= {step.scenario.name for step in steps}

    left = smallest(STEPS, fails)
    assert "".join(step.scenario.name for step in left) == needed
    assert len(tried) == len({tuple(steps) for steps in tried})  # nothing is run twice
    assert len(tried) <= len(STEPS) ** 2


def test_what_fails_no_more_is_left_whole() -> None:
    assert smallest(STEPS, lambda steps: False) == STEPS


def test_a_printed_command_names_the_same_steps() -> None:
    steps = [STEPS[7], STEPS[2], STEPS[7]]
    text = command(steps, 9)
    assert text == "make faults STEPS='h#7; c#2; h#7' SEED=9"
    assert parse("h#7; c#2; h#7", ROWS) == steps
    assert [step.place for step in parse("h; c", ROWS)] == [0, 1]
    with pytest.raises(ValueError, match="There is no row 'x'"):
        parse("x", ROWS)


def test_rows_have_names_of_their_own_that_a_command_can_hold() -> None:
    names = [row.name for row in SCENARIOS]
    assert len(set(names)) == len(names)
    assert not [n for n, c in itertools.product(names, ";#'\"$") if c in n]


def test_a_command_that_no_row_fails_is_named() -> None:
    assert uncovered({"find", "mapReduce", "endSessions"}) == ["mapReduce"]
