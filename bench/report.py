"""Rows of a benchmark run: how they are made, printed and written.

A section is a module `bench.<name>` with `rows() -> Iterator[Row]`; it says what it is doing on
stderr and yields a row as soon as it has been measured.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    `peer` and `limit` are in the same unit as `value`: the best peer's figure of the same run, and
    what this machine could do at best. `better` says which direction is good. `goal` is the figure
    aimed at.
    """

    name: str
    value: float
    unit: str
    better: str = "lower"
    peer: float | None = None
    peer_name: str | None = None
    limit: float | None = None
    limit_name: str | None = None
    goal: float | None = None
    note: str = ""

    @property
    def peer_ratio(self) -> float | None:
        """How many times better than the peer; above 1 is ahead."""
        return _times_better(self.value, self.peer, self.better)

    @property
    def limit_ratio(self) -> float | None:
        """The share of the machine's limit that is reached, at most about 1."""
        return _times_better(self.value, self.limit, self.better)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


def _times_better(value: float, other: float | None, better: str) -> float | None:
    if other is None or not value or not other:
        return None
    return other / value if better == "lower" else value / other


def as_json(row: Row) -> dict[str, Any]:
    """The row as a JSON object, ratios included."""
    return dataclasses.asdict(row) | {
        "peer_ratio": row.peer_ratio,
        "limit_ratio": row.limit_ratio,
        "met": row.met,
    }


def from_json(text: str) -> Row:
    """The row that `as_json` wrote."""
    names = {field.name for field in dataclasses.fields(Row)}
    return Row(**{key: value for key, value in json.loads(text).items() if key in names})


def say(text: str) -> None:
    """One progress line on stderr."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text: value, unit, times the peer, share of the limit, goal."""
    lines = [("figure", "value", "unit", "x peer", "of limit", "goal", "")]
    for row in rows:
        peer = f"{row.peer_ratio:.2f} ({row.peer_name})" if row.peer_ratio else "-"
        limit = f"{row.limit_ratio:.0%} ({row.limit_name})" if row.limit_ratio else "-"
        goal = "-" if row.goal is None else f"{row.goal:g} {'met' if row.met else 'MISSED'}"
        lines.append((row.name, f"{row.value:.4g}", row.unit, peer, limit, goal, row.note))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write(path: Path, machine: dict[str, Any], rows: Iterable[Row]) -> None:
    """Write the run as JSON, replacing the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        json.dumps({"machine": machine, "rows": [as_json(row) for row in rows]}, indent=1)
    )
    temporary.replace(path)
