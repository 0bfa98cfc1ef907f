"""Runs `python -m indexer …` with one named point armed.

`python -m tests.armed POINT:N:SIGNAL:TOGETHER …`: the point is reached for the N-th time, and the
process gets the signal. At most TOGETHER pictures are stored in one transaction. Points in the
service's own code are wrapped from here, those around writes are heard from the driver: the service
itself knows nothing of it.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from pymongo import monitoring


class Point:
    """Counts how often it is reached and then strikes, once."""

    def __init__(self, count: int, number: signal.Signals) -> None:
        self._left = count
        self._signal = number
        self._lock = threading.Lock()

    def reached(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)


def after(owner: Any, name: str, point: Point) -> None:
    """Strike after a call of `owner.name` returned."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        point.reached()
        return result

    setattr(owner, name, wrapped)


def before(owner: Any, name: str, point: Point) -> None:
    """Strike before a call of `owner.name`."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        point.reached()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


class Commands(monitoring.CommandListener):
    """Strikes when a write command of a transaction succeeded, or before the commit, or after."""

    def __init__(self, where: str, point: Point) -> None:
        self._where = where
        self._point = point
        self._writes: dict[int, bool] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        writing = event.command_name in ("insert", "update", "delete", "bulkWrite")
        self._writes[event.request_id] = writing and "txnNumber" in event.command and (
            event.command.get("autocommit") is False
        )  # fmt: skip
        if self._where == "before_commit" and event.command_name == "commitTransaction":
            self._point.reached()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if self._where == "between_writes" and self._writes.pop(event.request_id, False):
            self._point.reached()
        if self._where == "after_commit" and event.command_name == "commitTransaction":
            self._point.reached()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._writes.pop(event.request_id, None)


def arm(where: str, point: Point) -> None:
    """Arm one point."""
    from faces.pipeline import Pipeline
    from indexer.handlers import JobReport
    from indexer.items import Items
    from indexer.sources.media import MediaReader

    if where in ("between_writes", "before_commit", "after_commit"):
        monitoring.register(Commands(where, point))
    elif where == "after_fetch":
        after(MediaReader, "read", point)
    elif where == "after_encode":
        after(Pipeline, "analyse", point)
    elif where == "before_cursor":
        before(JobReport, "page", point)
    elif where == "during_deletion":
        after(Items, "delete", point)
    else:
        raise SystemExit(f"no point {where}")


if __name__ == "__main__":
    from indexer import crew
    from indexer.cli import main

    name, count, number, together = sys.argv[1].split(":")
    crew.TOGETHER = int(together)
    arm(name, Point(int(count), signal.Signals[number]))

    raise SystemExit(main(sys.argv[2:]))
