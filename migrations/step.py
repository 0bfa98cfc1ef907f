"""Migration steps: modules of `migrations.steps`, found by name and run in that order.

A step is data: `up()` and `down()` return the database commands that it sends, each safe to repeat.
`pre_` steps run before the new release serves, `post_` steps once no old release is left.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from migrations import steps

Command: TypeAlias = dict[str, Any]
_NAME = re.compile(r"m(\d{4}_(pre|post)_[a-z0-9_]+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `breaking` names the release to return to when older code meets it applied."""

    name: str
    phase: Literal["pre", "post"]
    checksum: str
    up: Callable[[], list[Command]]
    down: Callable[[], list[Command]]
    breaking: str | None = None


def discover(package: ModuleType = steps) -> tuple[Step, ...]:
    """All steps, in order."""
    found = []
    for module in pkgutil.iter_modules(package.__path__):
        match = _NAME.fullmatch(module.name)
        if match is None:
            raise ValueError(f"{module.name} is not named like m0001_pre_what")
        found.append(_load(f"{package.__name__}.{module.name}", match.group(1), match.group(2)))
    return tuple(sorted(found, key=lambda step: step.name))


def _load(module_name: str, name: str, phase: str) -> Step:
    module = importlib.import_module(module_name)
    source = inspect.getsource(module).replace("\r\n", "\n")
    return Step(
        name=name,
        phase="pre" if phase == "pre" else "post",
        checksum=hashlib.sha256(source.encode()).hexdigest(),
        up=module.up,
        down=module.down,
        breaking=getattr(module, "BREAKING", None),
    )
