"""Giving way to other processes on the same cores."""

from __future__ import annotations

import contextlib
import os
import sys

PATIENT_S = 60.0
"""So long a process that gets what others leave may wait for its own children."""


def give_way() -> None:
    """From now on this process, and what it starts, runs only when no other wants the core.

    A lower priority alone does not do that: a web request wakes up dozens of times, and each time
    waits until the slice of whoever has the core is over. Where the system knows no idle class, the
    lowest priority has to do.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    os.nice(19)


def gives_way() -> bool:
    """Whether this process runs only when no other wants the core: what takes long is not hung."""
    return sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_IDLE
