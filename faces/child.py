"""The process beside this one that decodes, and the two pipes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faces
from faces import frames, processes

_PIPE_BYTES = 2**20
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")


OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""How a child ends that somebody else ended: the kernel for want of memory, or a person. What a
picture does to it (a crash, its own limits) ends it by other signals."""


class ChildEnded(Exception):
    """The child ended by itself, or by a signal that we did not send: from `outside`."""

    def __init__(self, *, outside: bool = False) -> None:
        super().__init__()
        self.outside = outside


class ChildHung(Exception):
    """The child did not answer in time and was killed."""


class Child:
    """One running child and the two pipes to it."""

    def __init__(
        self, starter: processes.Starter, argv: Sequence[str], wall_seconds: float
    ) -> None:
        root = Path(faces.__file__).parent.parent
        env = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        env |= {
            "LC_ALL": "C.UTF-8",
            # Give large buffers back to the system at once; smaller ones cost more that way than
            # they are worth, a sixth of a reduced decode.
            "MALLOC_MMAP_THRESHOLD_": "4194304",
            "MALLOC_TRIM_THRESHOLD_": "8388608",
            "MALLOC_ARENA_MAX": "1",
        }
        self._process = starter.start(
            lambda: processes.start(
                argv, env=env, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("the child has no pipes")
        self._in, self._out = self._process.stdin, self._process.stdout
        for pipe in (self._in, self._out):
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(OSError):  # a smaller pipe is only slower
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._wall_seconds = wall_seconds
        self.exchanges = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def exchange(
        self, head: dict[str, Any], body: bytes = b""
    ) -> tuple[dict[str, Any], memoryview]:
        """The answer to one request. Raises ChildEnded or ChildHung; the child is then gone."""
        deadline = time.monotonic() + self._wall_seconds
        self.exchanges += 1
        try:
            self._write(frames.pack(head, len(body)), deadline)
            self._write(body, deadline)
            lengths = self._read(frames.LENGTHS.size, deadline)
            head_length, body_length = frames.LENGTHS.unpack(lengths)
            answer = frames.unpack_head(bytes(self._read(head_length, deadline)))
            return answer, self._read(body_length, deadline)
        except OSError as error:
            raise ChildEnded(outside=self._ended_by() in OUTSIDE) from error
        except ValueError as error:
            self.end()
            raise ChildEnded from error
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Kill the child and close the pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()

    def _ended_by(self) -> int | None:
        """The exit status of a child whose pipes are closed; None when it had to be killed."""
        try:
            return self._process.wait(1)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.end()

    def _write(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._await(self._in.fileno(), select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._in.fileno(), left) :]

    def _read(self, length: int, deadline: float) -> memoryview:
        content = memoryview(bytearray(length))
        done = 0
        while done < length:
            self._await(self._out.fileno(), select.POLLIN, deadline)
            with contextlib.suppress(BlockingIOError):
                count = os.readv(self._out.fileno(), [content[done:]])
                if count == 0:
                    raise OSError("the child closed its end")
                done += count
        return content

    @staticmethod
    def _await(descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ChildHung
