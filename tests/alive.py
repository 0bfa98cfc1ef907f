"""Whether processes still run; one that has ended but was not waited for does not."""

from __future__ import annotations

import time

import psutil


def alive(pid: int) -> bool:
    """Whether the process runs. It may end at any moment, also while it is looked at."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gone(*pids: int, within: float = 60.0) -> bool:
    """Whether all of them have ended, waited for so many seconds."""
    deadline = time.monotonic() + within
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
