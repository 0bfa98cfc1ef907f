"""One foreground process that runs others and takes all of them down with it.

Single-threaded on purpose: children are armed to die with the thread that started them, and a
signal must be able to interrupt every wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from faces import processes
from faces.errors import LikenessError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(LikenessError):
    """A signal asked this process to stop."""


class ChildEnded(LikenessError):
    """A process that has to run all the time ended."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running process, what to call it in a sentence, and how long it may take to end.

    Those on a higher level need those below and end before them.
    """

    name: str
    process: subprocess.Popen[bytes]
    grace: float
    level: int


def how(status: int) -> str:
    """An exit status as the end of a sentence."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


class Supervisor:
    """Starts children, waits for them, and ends them level by level.

    Every wait raises Stopped once SIGINT, SIGTERM or SIGHUP came, and ChildEnded when a child that
    was started with `start` has ended. Later signals change nothing: the stop is already under way.
    """

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._signal: int | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def listen(self) -> None:
        """From now on the stop signals are noted here and no longer end the process."""
        for number in STOP_SIGNALS:
            # Who starts it with nohup means it: a closing terminal is no reason to stop then.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, _wake_only)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def close(self) -> None:
        """Gives back the descriptors; from here to the exit the stop signals are ignored.

        All that they could ask for is done, and one that came late would spoil the exit status.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        grace: float,
        level: int = 1,
        on_parent_death: signal.Signals = signal.SIGKILL,
        stdout: processes.Stream = None,
    ) -> Child:
        """A child that has to run until `stop`; its end is everybody's end."""
        self.check()
        process = processes.start(
            argv, env=env, on_parent_death=on_parent_death, stdout=stdout, own_group=True
        )
        child = Child(name, process, grace, level)
        self._children.append(child)
        return child

    def run(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, grace: float
    ) -> int:
        """The exit status of a step that ends by itself."""
        child = self.start(name, argv, env=env, grace=grace)
        self.wait(lambda: child.process.poll() is not None, step=child)
        self._children.remove(child)
        return child.process.returncode

    def first_line(self, child: Child, seconds: float) -> str:
        """The first line that `child` (started with a pipe as `stdout`) prints; empty if none came.

        Whatever follows it is left unread: the child is expected to print nothing more.
        """
        pipe = child.process.stdout
        assert pipe is not None  # noqa: S101 - the caller started it with one
        os.set_blocking(pipe.fileno(), False)
        line = bytearray()

        def ready() -> bool:
            while not line.endswith(b"\n"):
                try:
                    byte = os.read(pipe.fileno(), 1)
                except BlockingIOError:
                    return child.process.poll() is not None
                if not byte:
                    return True
                line.extend(byte)
            return True

        self.wait(ready, seconds, step=child, watch=pipe.fileno())
        return line.decode() if line.endswith(b"\n") else ""

    def wait(
        self,
        done: Callable[[], bool],
        seconds: float = float("inf"),
        *,
        step: Child | None = None,
        every: float = 1.0,
        watch: int | None = None,
    ) -> bool:
        """Whether `done()` became true within `seconds`; asked at least every `every` seconds.

        The end of `step` is no fault; that of any other child raises ChildEnded.
        """
        deadline = time.monotonic() + seconds
        readers = [self._wake_read] if watch is None else [self._wake_read, watch]
        while True:
            if done():
                return True
            self.check(step)
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            select.select(readers, [], [], min(left, every))
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_read, 512):
                    pass

    def check(self, step: Child | None = None) -> None:
        """Raises Stopped or ChildEnded when there is cause to."""
        if self._signal is not None:
            raise Stopped(f"Stopped by {signal.Signals(self._signal).name}.")
        for child in self._children:
            if child is not step and (status := child.process.poll()) is not None:
                raise ChildEnded(f"{child.name} {how(status)}.")

    def stop(self, *, at_most: float = float("inf")) -> list[str]:
        """Ends all children, the highest level first; the names of those that had to be killed.

        A level gets its longest grace, but no more than `at_most` seconds.
        """
        killed = []
        for level in sorted({child.level for child in self._children}, reverse=True):
            peers = [child for child in self._children if child.level == level]
            # Only who is still there when asked can fail to listen.
            running = [child for child in peers if child.process.poll() is None]
            grace = min(at_most, max(child.grace for child in peers))
            if not processes.stop([child.process for child in peers], grace=grace):
                killed += [c.name for c in running if c.process.returncode == -signal.SIGKILL]
            for child in peers:
                if child.process.stdout is not None:
                    child.process.stdout.close()
        self._children.clear()
        return killed

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number


def _wake_only(number: int, frame: FrameType | None) -> None:
    """Having a handler at all is what makes the wake-up descriptor ring for SIGCHLD."""
