"""The worker as a child of the web process, for one dyno: INDEXER_EMBEDDED=true."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

import structlog

from faces import processes

COMMAND = (sys.executable, "-m", "indexer", "run")
STOP_SECONDS = 9.0
"""The worker finishes the photo in hand, for which it takes up to 8.5 s."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class EmbeddedWorker:
    """Keeps one worker running beside the web process, and ends it with it.

    A worker that ends is started again after a pause that doubles up to a minute: the web process
    goes on serving meanwhile. The child is started by this object's own thread and would die with
    it.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedded-worker", daemon=True)
        self._log = structlog.get_logger("likeness.worker")

    def start(self) -> None:
        """Starts the worker in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when the worker has ended, after at most 9 seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 1)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                child = processes.start(self._command)
            except (OSError, subprocess.SubprocessError) as error:
                # For want of memory, say: without another try it would be gone for good.
                why = type(error).__name__
                self._log.warning("worker_not_started", error=why, again_in_s=pause)
            else:
                if self._watch(child):
                    return
                self._log.warning("worker_ended", status=child.returncode, again_in_s=pause)
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _watch(self, child: subprocess.Popen[bytes]) -> bool:
        """Whether the end was asked for; returns when the child has ended."""
        while child.poll() is None:
            if self._stopping.wait(0.2):
                processes.stop([child], grace=STOP_SECONDS)
                return True
        return False
