"""Lets a file in the folder LIKENESS_STRIKES end or stop a process of the service at a named point.

Found by every Python process whose PYTHONPATH names this folder; the service knows nothing of it.
A strike is `strike.json`: {"role", "point", "count", "signal"}. A point is `before COMMAND
COLLECTION`, `after COMMAND COLLECTION` (heard from the driver) or `after MODULE:CLASS.METHOD`. The
process that reaches it for the count-th time takes the file away and gets the signal: one process,
once. LIKENESS_AHEAD moves the process's clock by so many seconds.
"""

from __future__ import annotations

import datetime
import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

METHODS = {
    "faces.pipeline": ("Pipeline.analyse",),
    "indexer.sources.media": ("MediaReader.read",),
    "indexer.items": ("Items.delete",),
}


class Strikes:
    """Counts the points that the present strike names."""

    def __init__(self, folder: str, role: str) -> None:
        self._path = os.path.join(folder, "strike.json")
        self._role = role
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}

    def reached(self, point: str) -> None:
        """The process is at a point: it may not go on from here."""
        try:
            with open(self._path, encoding="utf-8") as file:
                text = file.read()
            strike = json.loads(text)
        except (OSError, ValueError):
            return
        if strike["role"] != self._role or strike["point"] != point:
            return
        with self._lock:
            self._seen[text] = self._seen.get(text, 0) + 1
            if self._seen[text] != strike["count"]:
                return
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return  # another process was struck
        os.kill(os.getpid(), strike["signal"])


def listen(strikes: Strikes) -> None:
    """Hear every command of the driver."""
    from pymongo import monitoring

    class Commands(monitoring.CommandListener):
        def __init__(self) -> None:
            self._names: dict[int, str] = {}

        def started(self, event: monitoring.CommandStartedEvent) -> None:
            name = event.command_name
            target = event.command.get(name)
            where = f"{name} {target}" if isinstance(target, str) else name
            self._names[event.request_id] = where
            strikes.reached(f"before {where}")

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
            strikes.reached(f"after {self._names.pop(event.request_id, event.command_name)}")

        def failed(self, event: monitoring.CommandFailedEvent) -> None:
            self._names.pop(event.request_id, None)

    monitoring.register(Commands())


class Wrapping(importlib.abc.MetaPathFinder):
    """Wraps the methods that are points when their module is imported."""

    def __init__(self, strikes: Strikes) -> None:
        self._strikes = strikes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The ordinary spec, with a loader that wraps afterwards."""
        if name not in METHODS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            for method in METHODS[name]:
                self._wrap(module, name, method)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _wrap(self, module: ModuleType, name: str, method: str) -> None:
        owner, _, attribute = method.partition(".")
        kind = getattr(module, owner)
        original = getattr(kind, attribute)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._strikes.reached(f"after {name}:{method}")
            return result

        setattr(kind, attribute, wrapped)


def shift(seconds: float) -> None:
    """Moves what `time.time` and `datetime.now` say; for modules that are imported from now on."""
    real, moved = time.time, datetime.timedelta(seconds=seconds)

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Shifted:
            return super().now(tz) + moved

    time.time = lambda: real() + seconds
    datetime.datetime = Shifted  # type: ignore[misc]


def _role() -> str | None:
    """`web`, `worker` (the parent), `work` (its children) or `migrations`; None for all others."""
    words = sys.orig_argv
    program = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if program == "indexer":
        return {"run": "worker", "work": "work"}.get(words[words.index("-m") + 2])
    return {"app": "web", "migrations": "migrations"}.get(program)


if (_folder := os.environ.get("LIKENESS_STRIKES")) and (_name := _role()):
    if _ahead := float(os.environ.get("LIKENESS_AHEAD") or 0):
        shift(_ahead)
    _strikes = Strikes(_folder, _name)
    listen(_strikes)
    sys.meta_path.insert(0, Wrapping(_strikes))
