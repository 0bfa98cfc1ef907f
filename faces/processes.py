"""Child processes that never outlive the process that started them.

The kernel delivers a parent-death signal when the *thread* that forked ends, not the process. A
process that starts children from short-lived threads (a web server's pool) therefore starts them
through a `Starter`, whose one thread lives as long as the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TypeAlias

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
Stream: TypeAlias = int | IO[bytes] | None


def start(
    argv: Sequence[str],
    *,
    on_parent_death: signal.Signals = signal.SIGKILL,
    own_group: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    pass_fds: Sequence[int] = (),
    prepare: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """A running child that gets `on_parent_death` when the calling thread or its process ends.

    With `own_group` it leads a process group of its own, so that a Ctrl-C in the terminal reaches
    its parent alone. `prepare` runs in the child before the program does (resource limits); it must
    not allocate much nor take locks. Raises OSError when the program cannot be started.
    """
    arm = _armed(on_parent_death)

    def before_exec() -> None:
        arm()
        if prepare is not None:
            prepare()

    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=None if env is None else dict(env),
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        process_group=0 if own_group else None,
        preexec_fn=before_exec,
    )


def die_with_parent(signum: signal.Signals = signal.SIGTERM) -> None:
    """Arranges that this process gets `signum` when its parent ends; does nothing off Linux."""
    if sys.platform == "linux":
        _prctl()(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def stop(
    children: Sequence[subprocess.Popen[bytes]],
    *,
    grace: float,
    ask: signal.Signals = signal.SIGTERM,
) -> bool:
    """Whether all `children` ended by themselves within `grace` seconds of being asked.

    Those that did not are killed, and whatever is left of the groups that they lead, too.
    """
    for child in children:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(ask)
    deadline = time.monotonic() + grace
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    clean = all(child.poll() is not None for child in children)
    for child in children:
        # The group may outlive its leader; its number is not given away while it has members.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        if child.poll() is None:
            child.kill()
            child.wait()
    return clean


class Starter:
    """Starts children on one thread of its own, so that they die with the process and not before.

    Safe to use from any thread. The thread is a daemon; `close` ends it, and with it every child
    that it started.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]] | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="starter", daemon=True)
        self._thread.start()

    def start(self, call: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """What `call` (a closure around `start`) returns or raises, run on the starter's thread."""
        done: Future[subprocess.Popen[bytes]] = Future()
        self._calls.put((call, done))
        return done.result()

    def close(self) -> None:
        """Ends the thread; children that still run get their parent-death signal."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            try:
                done.set_result(call())
            except BaseException as error:  # handed to the caller, who decides
                done.set_exception(error)


def _prctl() -> Callable[..., int]:
    call: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return call


def _armed(signum: signal.Signals) -> Callable[[], None]:
    """A function for the child that asks for `signum` at its parent's death.

    Everything is looked up here, before the fork: the child then only makes system calls.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl, parent, number = _prctl(), os.getpid(), int(signum)

    def arm() -> None:
        failed = prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if failed or os.getppid() != parent:
            os._exit(127)  # the parent went before the request was made: nobody would end us

    return arm
