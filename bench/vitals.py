"""What each process of a running system takes: memory, threads and file descriptors over time."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from bench.report import Row

HOUR = 3600.0
LIMIT_MIB = 512.0


@dataclass(slots=True)
class Series:
    """The samples of one role: when, MiB (proportional), threads, open files; and whose.

    `highest` is the most resident memory that one of them ever had, between samples too, in MiB.
    """

    at: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    highest: float = 0.0


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through samples: growth in an hour, its standard error, the level at the end."""

    per_hour: float
    error: float
    level: float


class Vitals:
    """Samples the trees below some processes, once in `period` seconds, on a thread of its own.

    A process is named by its root's name and by what it does below it. When several do the same at
    once, their sum is one sample.
    """

    def __init__(self, roots: Mapping[str, int], period: float = 1.0) -> None:
        self.series: dict[str, Series] = {}
        self._roots = dict(roots)
        self._period = period
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the sampling."""
        self._stop.set()
        self._thread.join()

    def peaks(self) -> list[Row]:
        """The highest memory of each process, and of each dyno's tree against its limit."""
        rows = []
        for name, series in sorted(self.series.items()):
            dyno = name in ("web, whole", "worker, whole")
            note = f"median {np.median(series.memory):.0f}"
            if not name.endswith(", whole"):
                note += f", resident {series.highest:.0f} between samples"
                note += f", {len(series.pids)} of them" if len(series.pids) > 1 else ""
            rows.append(Row(f"{name}, memory at most", round(max(series.memory)), "MiB",
                            goal=LIMIT_MIB if dyno else None, note=note))  # fmt: skip
        return rows

    def slopes(self, warm_up: float) -> dict[str, dict[str, Slope]]:
        """By role, the slopes of `memory`, `threads` and `files` after `warm_up` seconds."""
        found = {}
        for name, series in sorted(self.series.items()):
            kept = [i for i, at in enumerate(series.at) if at >= warm_up]
            if len(kept) < 60:
                continue  # too few to tell
            times = [series.at[i] for i in kept]
            found[name] = {
                what: slope(times, [getattr(series, what)[i] for i in kept])
                for what in ("memory", "threads", "files")
            }
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            now = time.monotonic() - self._began
            for root, pid in self._roots.items():
                self._sample(now, root, pid)

    def _sample(self, now: float, root: str, pid: int) -> None:
        sums: dict[str, list[float]] = {}
        for process in _tree(pid):
            with contextlib.suppress(psutil.Error, OSError):
                taken = [_pss(process.pid), process.num_threads(), process.num_fds()]
                if not taken[0]:
                    continue  # it is ending
                doing = root if process.pid == pid else f"{root}'s {_doing(process)}"
                for name in (doing, f"{root}, whole"):
                    so_far = sums.setdefault(name, [0.0, 0.0, 0.0])
                    sums[name] = [a + b for a, b in zip(so_far, taken, strict=True)]
                    series = self.series.setdefault(name, Series())
                    series.pids.add(process.pid)
                    series.highest = max(series.highest, _highest(process.pid))
        for name, (memory, threads, files) in sums.items():
            series = self.series[name]
            series.at.append(now)
            series.memory.append(memory)
            series.threads.append(threads)
            series.files.append(files)


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The least-squares line through samples of about one a second.

    Neighbours are alike, so the error is judged from the means of about 40 stretches: of single
    samples it would look far too small.
    """
    at, level = np.asarray(times), np.asarray(values)
    stretch = ((at - at[0]) * 40 // (at[-1] - at[0])).astype(int)
    means = [(at[stretch == s].mean(), level[stretch == s].mean()) for s in np.unique(stretch)]
    x, y = np.asarray(means).T
    rise, base = np.polyfit(x, y, 1)
    left = y - (rise * x + base)
    spread = float(((x - x.mean()) ** 2).sum())
    error = math.sqrt(float((left**2).sum()) / (len(x) - 2) / spread)
    return Slope(float(rise) * HOUR, error * HOUR, float(rise * x[-1] + base))


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _doing(process: psutil.Process) -> str:
    words = process.cmdline()
    if "faces.decode_child" in words:
        return "decode child"
    if "work" in words:
        return "lane"
    return "engine" if any("secantus" in word for word in words) else "child"


def _pss(pid: int) -> float:
    return _mib(pid, "smaps_rollup", "Pss:")


def _highest(pid: int) -> float:
    return _mib(pid, "status", "VmHWM:")


def _mib(pid: int, file: str, key: str) -> float:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0
