"""Memory of process trees: sampled as PSS, and held to a limit."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

MIB = 1024 * 1024
GROUPS = Path("/sys/fs/cgroup")


def pss_mib(pid: int) -> float:
    """The proportional share of memory of a process and all that it started, in MiB."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def rss_mib(pid: int) -> float:
    """The resident memory of a process and all that it started, in MiB, shared pages twice."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(process).memory_info().rss
    return total / MIB


class Sampler:
    """Samples the PSS of a tree ten times a second and ends the tree when it passes the limit."""

    def __init__(self, pid: int, limit_mib: float = 512, period: float = 0.1) -> None:
        self._pid, self._limit, self._period = pid, limit_mib, period
        self._stop = threading.Event()
        self._mark = 0
        self.samples: list[float] = []
        self.killed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mark(self) -> None:
        """Begins a new stretch for `peak` and `level`."""
        self._mark = len(self.samples)

    @property
    def peak(self) -> float:
        """The highest sample since the mark."""
        return max(self.samples[self._mark :], default=0.0)

    @property
    def level(self) -> float:
        """The median since the mark."""
        stretch = sorted(self.samples[self._mark :])
        return stretch[len(stretch) // 2] if stretch else 0.0

    def close(self) -> None:
        """Ends the sampling."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            now = pss_mib(self._pid)
            if now:
                self.samples.append(now)
            if now > self._limit:
                self.killed = True
                for process in _tree(self._pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, 9)
                return


@contextlib.contextmanager
def limited(name: str, limit_mib: int) -> Iterator[Callable[[], None] | None]:
    """A function for a new process that puts it into a control group with this memory limit.

    None where no group can be made; the sampler then is the only limit.
    """
    group = _make_group(name, limit_mib * MIB)
    if group is None:
        yield None
        return
    try:
        yield partial(_enter, group)
    finally:
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _make_group(name: str, limit: int) -> Path | None:
    for parent, file in (
        (GROUPS / "memory", "memory.limit_in_bytes"),
        (GROUPS, "memory.max"),
    ):
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def _tree(pid: int) -> list[int]:
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []
