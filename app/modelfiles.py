"""The model files of this machine, fetched by a child process when they are missing and may be."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import structlog

from faces import processes
from faces.models import cards, files

FETCH_SECONDS = 1800.0


class ModelFiles:
    """Looks for model files and fetches missing ones; each model is fetched once at most."""

    def __init__(self, folder: Path, *, may_fetch: bool, remote: bool) -> None:
        self._folder = folder
        self._fetches = may_fetch and not remote
        self._remote = remote
        self._tried: set[str | None] = set()
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
        failed = f"Fetching the model{f' {key}' if key else ''} failed. Run `{command}` to see why."
        if key in self._tried:
            return failed
        self._tried.add(key)
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
        there = child.returncode == 0 and (key is None or self.present(key))
        return None if there else failed
