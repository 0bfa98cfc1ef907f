"""Lets a file in the folder LIKENESS_STRIKES end or stop a process of the service at a named point.

Found by every Python process whose PYTHONPATH names this folder; the service knows nothing of it.
A strike is `strike.json`: {"role", "point", "count", "signal", "delay", "whom"}. A point is
`before` or `after`, and then COMMAND COLLECTION (heard from the driver) or MODULE:CLASS.METHOD (of
those below). The process that reaches it for the count-th time takes the file away and gets the
signal, `delay` seconds later where that is not 0: one process, once. `whom` is `self`, or
`decoder`: then its child that decodes pictures gets it. Where a function makes a file, `half` is
the point at which half of it is written, `made` the one before it is put in place. LIKENESS_AHEAD
moves the process's clock by so many seconds.

The commands that were sent, and those that failed or were late, are noted in the files `sent` and
`failed` of the same folder.
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

LATE_S = 2.0
METHODS = {
    "faces.child": ("Child.exchange",),
    "faces.decoder": ("Decoder._opened",),
    "faces.detect": ("Detector.detect",),
    "faces.encode": ("OnnxEncoder.encode",),
    "faces.erase": ("_audit", "_drop_crops", "_entomb"),
    "faces.jobs": ("Jobs.end",),
    "faces.leases": ("Lease.release", "Lease.renew"),
    "faces.models.files": ("make_atomically",),
    "faces.pipeline": ("Pipeline.analyse", "Pipeline.embed_known"),
    "faces.store_models": ("ModelStore.begin_switch", "ModelStore.flip", "ModelStore.forget"),
    "faces.sweeps": ("_wait_for_writers",),
    "indexer.items": ("Items.delete",),
    "indexer.sources.http": ("HttpSource._page",),
    "indexer.sources.media": ("MediaReader.read",),
    "migrations.runner": ("Runner.send", "Runner.wait"),
}


class Strikes:
    """Counts the points that the present strike names."""

    def __init__(self, folder: str, role: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "strike.json")
        self._role = role
        self._sent: set[str] = set()
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}

    def sent(self, command: str) -> None:
        """Notes a command that this process sends, once."""
        if command not in self._sent:
            self._sent.add(command)
            self._note("sent", command)

    def failed(self, command: str, how: object) -> None:
        """Notes that the database failed a command, or answered it late."""
        self._note("failed", command, str(how))

    def _note(self, kind: str, *words: str) -> None:
        line = "\t".join((self._role, *words)) + "\n"
        with open(os.path.join(self._folder, kind), "a", encoding="utf-8") as file:
            file.write(line)  # one write below the size of a page: lines never mix

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
        if strike["delay"]:
            threading.Timer(strike["delay"], _send, (strike,)).start()
        else:
            _send(strike)


def _send(strike: dict[str, Any]) -> None:
    pids = [os.getpid()] if strike["whom"] == "self" else _decoders()
    for pid in pids:
        os.kill(pid, strike["signal"])


def _decoders() -> list[int]:
    """The children of this process that decode pictures."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{pid}/cmdline", "rb") as words:
                decodes = b"faces.decode_child" in words.read()
        except OSError:
            continue  # it ended meanwhile
        if parent == os.getpid() and decodes:
            found.append(int(pid))
    return found


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
            strikes.sent(where)
            strikes.reached(f"before {where}")

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
            if event.duration_micros > LATE_S * 1_000_000:
                strikes.failed(event.command_name, "late")
            strikes.reached(f"after {self._names.pop(event.request_id, event.command_name)}")

        def failed(self, event: monitoring.CommandFailedEvent) -> None:
            self._names.pop(event.request_id, None)
            failure = event.failure
            strikes.failed(event.command_name, failure.get("code") or failure.get("errtype"))

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
        owner, _, attribute = method.rpartition(".")
        kind = getattr(module, owner) if owner else module
        original = getattr(kind, attribute)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._strikes.reached(f"before {name}:{method}")
            if method == "make_atomically":
                args = (args[0], self._halved(args[1], f"half {name}:{method}"), *args[2:])
            result = original(*args, **kwargs)
            self._strikes.reached(f"after {name}:{method}")
            return result

        setattr(kind, attribute, wrapped)

    def _halved(self, make: Any, point: str) -> Any:
        """`make`, with a stop where half of the file is written, and one where all of it is."""

        def making(part: Any) -> Any:
            made = make(part)
            whole = part.read_bytes()
            os.truncate(part, len(whole) // 2)
            self._strikes.reached(point)
            part.write_bytes(whole)
            self._strikes.reached(point.replace("half", "made", 1))
            return made

        return making


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
    """`web`, `worker` (the parent), `work` (its children), `migrations` or `models`; else None."""
    words = sys.orig_argv
    program = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if program == "indexer":
        return {"run": "worker", "work": "work"}.get(words[words.index("-m") + 2])
    return {"app": "web", "migrations": "migrations", "faces.models": "models"}.get(program)


if (_folder := os.environ.get("LIKENESS_STRIKES")) and (_name := _role()):
    if _ahead := float(os.environ.get("LIKENESS_AHEAD") or 0):
        shift(_ahead)
    _strikes = Strikes(_folder, _name)
    listen(_strikes)
    sys.meta_path.insert(0, Wrapping(_strikes))
