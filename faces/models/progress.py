"""Progress of long work, told to whoever wants to know: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

BAR_WIDTH = 28
LINE_EVERY_S = 5.0
REDRAW_EVERY_S = 0.1


class Progress(Protocol):
    """Hears of one piece of work after another: its name, its size in bytes, and what is done."""

    def start(self, label: str, total: int) -> None:
        """A piece of work begins; `total` is 0 when its size is not known."""

    def advance(self, done: int) -> None:
        """`done` bytes of the present piece are done."""

    def finish(self, message: str) -> None:
        """The present piece is done; `message` says what came of it."""


class Silence:
    """Tells nobody."""

    def start(self, label: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""

    def finish(self, message: str) -> None:
        """Nothing."""


class Terminal:
    """Draws a bar on a terminal; elsewhere prints a plain line now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._label, self._total, self._drawn = "", 0, 0.0

    def start(self, label: str, total: int) -> None:
        """Begins a bar, or prints a line that says what begins."""
        self._label, self._total, self._drawn = label, total, time.monotonic()
        if self._live:
            self._draw(0)
        else:
            self._print(f"{label}" + (f" ({_mb(total)})" if total else ""))

    def advance(self, done: int) -> None:
        """Redraws the bar at most ten times a second, prints a line at most every five seconds."""
        now = time.monotonic()
        if now - self._drawn >= (REDRAW_EVERY_S if self._live else LINE_EVERY_S):
            self._drawn = now
            if self._live:
                self._draw(done)
            else:
                share = f"{100 * done // self._total:3d} %, " if self._total else ""
                self._print(f"{self._label}: {share}{_mb(done)}")

    def finish(self, message: str) -> None:
        """Replaces the bar by the message."""
        if self._live:
            self._stream.write("\r\x1b[K")
        self._print(message)

    def _draw(self, done: int) -> None:
        if self._total:
            share = min(1.0, done / self._total)
            full = round(BAR_WIDTH * share)
            text = f"[{'#' * full}{'.' * (BAR_WIDTH - full)}] {share:4.0%} of {_mb(self._total)}"
        else:
            text = _mb(done) if done else "…"
        self._stream.write(f"\r\x1b[K{self._label} {text}")
        self._stream.flush()

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.0f} kB"
