"""Watches the disk, so that a full one is an error that clients can read and not a broken engine.

The engine gives up for good when a write of its own fails. So the front refuses writes while there
is still room for the engine's own books; reads and deletes go on.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from localatlas.startup import StartError

MEBIBYTE = 1 << 20
# The engine holds up to some 12 MiB back before it writes them, and its log grows by 10 MiB.
RESERVE = 64 * MEBIBYTE
FILE_RESERVE = 16 * MEBIBYTE
SMALLEST_LIMIT = 24 * MEBIBYTE
WRITES = frozenset(
    {"insert", "update", "findAndModify", "findandmodify", "bulkWrite", "createIndexes", "create"}
)
_PANIC = b"WT_PANIC"


class Disk:
    """The room for an engine's files. `full` and `broken` are as of the last `check`."""

    def __init__(self, engine: Path, log: Path) -> None:
        self._engine = engine
        self._log = log
        self._read = 0
        self._written = 0
        self.full = False
        self.broken = False

    def check_at_start(self) -> None:
        """Raises StartError when there is no room to begin with."""
        limit = _file_limit()
        if limit is not None and limit < SMALLEST_LIMIT:
            raise StartError(
                f"This process may write files of at most {limit} bytes (ulimit -f), and the "
                f"embedded engine needs {SMALLEST_LIMIT // MEBIBYTE} MiB. Raise the limit."
            )
        self.check()
        if self.full:
            raise StartError(
                f"The disk of {self._engine} is full: less than {RESERVE // MEBIBYTE} MiB are "
                "free, or a file has come near its size limit. Free some space, or choose another "
                "folder with --data."
            )

    def check(self) -> None:
        """Looks again: cheap enough for several times a second."""
        self._written = 0
        free = os.statvfs(self._engine)
        self.full = free.f_bavail * free.f_frsize < RESERVE or self._near_limit()
        self._look_at_log()

    def refuses(self, command: str, size: int) -> bool:
        """Whether a command of `size` bytes is a write for which there is no room."""
        if command not in WRITES:
            return False
        self._written += size
        if self._written > MEBIBYTE:  # what came since the last look may have filled the disk
            self.check()
        return self.full

    def _near_limit(self) -> bool:
        limit = _file_limit()
        if limit is None:
            return False
        with os.scandir(self._engine) as files:
            largest = max((file.stat().st_size for file in files if file.is_file()), default=0)
        return largest > limit - min(FILE_RESERVE, limit // 2)

    def _look_at_log(self) -> None:
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0 if size < self._read else max(0, self._read - len(_PANIC)))
                self._read = size
                self.broken = self.broken or _PANIC in file.read()
        except FileNotFoundError:
            return


def _file_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft
