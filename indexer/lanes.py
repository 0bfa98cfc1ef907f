"""The children of the worker: at most one a lane, started when there is work for it."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from faces import processes

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


@dataclass(slots=True)
class Lane:
    """One lane: the kinds of job that it runs, and the child that does."""

    name: str
    kinds: Sequence[str]
    child: subprocess.Popen[bytes] | None = None
    pause_s: float = 0.0
    not_before: float = 0.0


class Lanes:
    """Starts a child for each lane that has something to do; not thread-safe."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        source: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`source` is the name of the one whose jobs the children do."""
        self._lanes = lanes
        self._source = source
        self._clock = clock
        self._starter = processes.Starter()
        self._log = structlog.get_logger("likeness.worker")

    def tend(self, claimable: Callable[[Sequence[str]], bool]) -> None:
        """Collect children that ended; start one where `claimable` says that there is work.

        After a child that crashed the lane pauses, longer each time, up to a minute.
        """
        for lane in self._lanes:
            if lane.child is not None:
                status = lane.child.poll()
                if status is None:
                    continue
                lane.child = None
                if status == 0:
                    lane.pause_s = 0.0
                else:
                    lane.pause_s = min(_LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, lane.pause_s * 2))
                    lane.not_before = self._clock() + lane.pause_s
                    self._log.warning("batch_ended_badly", lane=lane.name, status=status)
            if self._clock() >= lane.not_before and claimable(lane.kinds):
                lane.child = self._starter.start(functools.partial(self._child, lane.name))

    def _child(self, name: str) -> subprocess.Popen[bytes]:
        source = [] if self._source is None else [f"--source={self._source}"]
        return processes.start(
            [sys.executable, "-m", "indexer", "work", "--lane", name, *source],
            on_parent_death=signal.SIGTERM,
        )

    def stop(self, grace: float) -> bool:
        """Whether all children ended by themselves within `grace` seconds of being asked."""
        return processes.stop(
            [lane.child for lane in self._lanes if lane.child is not None], grace=grace
        )
