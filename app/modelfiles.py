"""The model files of this machine, fetched by a child process when they are missing and may be."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from faces import processes
from faces.models import cards, files

FETCH_SECONDS = 1800.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 20.0, 900.0


class ModelFiles:
    """Looks for model files and fetches missing ones.

    A fetch that failed is tried again after a pause, longer each time: a fetch takes bandwidth.
    """

    def __init__(
        self,
        folder: Path,
        *,
        may_fetch: bool,
        remote: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._folder = folder
        self._fetches = may_fetch and not remote
        self._remote = remote
        self._failures: dict[str | None, _Failure] = {}
        self._log = structlog.get_logger("likeness.models")

    def present(self, key: str) -> bool:
        """Whether the files that the model needs are there; a remote encoder needs none."""
        return self._remote or (
            files.encoder_path(self._folder, key).is_file()
            and files.detector_path(self._folder).is_file()
        )

    def fetch(self, key: str | None, stopping: threading.Event) -> str | None:
        """None when the files are there now, else a sentence with the command that gets them.

        Without a key the command also decides which model it is, and writes that down.
        """
        command = f"python -m faces.models fetch {key or ''}".strip()
        if key is None and not self._fetches:
            return (
                "No model has been chosen yet. Set FACE_MODEL, or run "
                f"`{command}` or `python -m migrations up`, which choose one."
            )
        if key is not None and key not in cards.CARDS:
            return f"There is no model {key} here; the models are {', '.join(cards.CARDS)}."
        if not self._fetches:
            return f"The files of the model {key} are missing. Run `{command}`."
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.again_at:
            return failure.said
        self._log.info("model_fetch", model=key)
        child = processes.start(
            [sys.executable, "-m", "faces.models", "fetch", *([key] if key else [])],
            stdout=subprocess.DEVNULL,
        )
        limit = time.monotonic() + FETCH_SECONDS
        while child.poll() is None and time.monotonic() < limit and not stopping.is_set():
            stopping.wait(0.2)
        if child.poll() is None:
            processes.stop([child], grace=2)
        if child.returncode == 0 and (key is None or self.present(key)):
            return None
        pause = FIRST_PAUSE_S if failure is None else min(failure.pause * 2, LONGEST_PAUSE_S)
        why = ""
        if child.returncode == files.NO_ROOM:
            why = ": the disk of the models folder is full. Free some space there"
        said = (
            f"Fetching the model{f' {key}' if key else ''} failed{why}. It is tried again by "
            f"itself; `{command}` tries at once and says more."
        )
        self._failures[key] = _Failure(said, pause, self._clock() + pause)
        return said


@dataclass(frozen=True, slots=True)
class _Failure:
    """What was said of a fetch that failed, and when it may be tried again."""

    said: str
    pause: float
    again_at: float
