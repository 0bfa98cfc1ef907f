"""Vector indexes as data: what the code wants, and what makes the live ones so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from faces.database import FACES
from faces.models.cards import card
from faces.records import ActiveModel
from faces.search import index_definition
from faces.watch import IndexState
from migrations.step import Command


@dataclass(frozen=True, slots=True)
class Wanted:
    """An index that has to be there."""

    name: str
    definition: dict[str, Any]
    model: str


@dataclass(frozen=True, slots=True)
class Action:
    """One command that brings the live indexes to what is wanted, and why it is sent."""

    command: Command
    why: str
    diff: tuple[str, ...] = ()
    rebuild: bool = False

    @property
    def definition(self) -> dict[str, Any] | None:
        """The definition that it sends, if any."""
        if "indexes" in self.command:
            found: dict[str, Any] = self.command["indexes"][0]["definition"]
            return found
        return self.command.get("definition")


def wanted(active: ActiveModel | None) -> list[Wanted]:
    """The indexes of the active model and of the one that a switch prepares."""
    found = []
    model = active
    while model is not None:
        dimensions = card(model.key).dimensions
        definition = index_definition(model.key, dimensions, model.quantization)
        found.append(Wanted(model.index, definition, model.key))
        model = model.next
    return found


def actions(wanted: Iterable[Wanted], live: Mapping[str, IndexState]) -> list[Action]:
    """What `up` sends. An index that still answers goes on answering while it is rebuilt."""
    found = []
    for index in wanted:
        state = live.get(index.name)
        if state is None or state.status in ("DELETING", "DOES_NOT_EXIST"):
            found.append(Action(create(index), f"{index.name} does not exist"))
            continue
        diff = differences(index.definition, state.definition)
        if diff:
            found.append(
                Action(update(index), f"{index.name} is not as the code defines it", diff, True)
            )
        elif state.status == "FAILED":
            why = f"the last build of {index.name} failed"
            found.append(Action(update(index), why, (), True))
    return found


def create(index: Wanted) -> Command:
    """The command that creates an index."""
    entry = {"name": index.name, "type": "vectorSearch", "definition": index.definition}
    return {"createSearchIndexes": FACES, "indexes": [entry]}


def update(index: Wanted) -> Command:
    """The command that redefines an index; the old build answers until the new one is ready."""
    return {"updateSearchIndex": FACES, "name": index.name, "definition": index.definition}


def drop(name: str) -> Command:
    """The command that drops an index."""
    return {"dropSearchIndex": FACES, "name": name}


def differences(code: Mapping[str, Any], live: Mapping[str, Any]) -> tuple[str, ...]:
    """How the live definition differs from the code's, a line each, as in a diff; order is free."""
    wanted, present = _lines(code), _lines(live)
    removed = [f"- {line}" for line in sorted(present - wanted)]
    added = [f"+ {line}" for line in sorted(wanted - present)]
    return (*removed, *added)


def _lines(definition: Mapping[str, Any]) -> set[str]:
    lines = {_plain(_normal(field)) for field in definition.get("fields") or ()}
    for name, value in definition.items():
        if name != "fields" and (name, value) not in _DEFAULTS:
            lines.add(f"{name}: {_plain(value)}")
    return lines


_DEFAULTS = (("storedSource", False), ("numPartitions", 1))
_FIELD_DEFAULTS = {"quantization": "none", "indexingMethod": "hnsw"}


def _normal(field: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that Atlas may or may not spell out are left away."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in field.items()
        if _FIELD_DEFAULTS.get(name) != value
        and not (name == "hnswOptions" and _default_graph(value))
    }


def _default_graph(value: Any) -> bool:
    defaults = {"maxEdges": 16, "numEdgeCandidates": 100}
    return isinstance(value, Mapping) and all(value[k] == defaults.get(k) for k in value)


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
