"""One run of localatlas from start to end: folder, engine, front, and the command if any."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faces import processes
from localatlas import keeping
from localatlas.backend import Backend, Embedded, External
from localatlas.catalog import CATALOG, Catalog
from localatlas.disk import Disk
from localatlas.engine import Engine
from localatlas.front import Front, Options
from localatlas.startup import DataFolder, StartError, listen

log = logging.getLogger(__name__)

_COMMAND_PATIENCE_S = 30.0
_RESTARTS = 5
_FILES = 65_536
_RESTART_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    backend: str | None = None
    auth: bool = False
    first_user: tuple[str, str] | None = None
    lag_s: float = 0.0
    build_delay_s: float = 0.0
    test_commands: bool = False
    restart: bool = True
    command: tuple[str, ...] = ()


class Session:
    """Starts everything in order, and stops it in the reverse order whatever happens."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ending = asyncio.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._status = 0
        self._failure: StartError | None = None

    def signalled(self, signum: int) -> None:
        """Passes a signal on to the command's process group, or ends `serve`."""
        if self._child is None:
            self._ending.set()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signum)

    async def run(self) -> int:
        """The exit status; StartError when it cannot start or cannot go on."""
        plan = self._plan
        processes.die_with_parent(signal.SIGTERM)
        files = _allow_many_files()
        listening = listen(plan.host, plan.port)
        folder = DataFolder(plan.data)
        front: Front | None = None
        backend: Backend | None = None
        try:
            folder.take()
            backend = self._backend(folder)
            catalog = Catalog(folder.front / CATALOG)
            catalog.load()
            kept, _ = await asyncio.gather(
                asyncio.to_thread(keeping.read, catalog, folder.front),
                asyncio.to_thread(backend.start),
            )
            front = Front(
                uri=backend.uri,
                address=backend.address,
                folder=folder.front,
                catalog=catalog,
                options=Options(plan.lag_s, plan.build_delay_s),
                tls=backend.tls,
                disk=backend.disk,
                others=not isinstance(backend, Embedded),
            )
            await asyncio.to_thread(front.take_up, kept)
            await front.serve(listening)
            uri = self._uri(listening.getsockname())
            folder.announce(uri)
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch(backend))
                await self._serve_or_run(uri, files)
                watch.cancel()
            if self._failure is not None:
                raise self._failure
            return self._status
        finally:
            if front is not None:
                await front.close()
            listening.close()
            if backend is not None:
                await asyncio.to_thread(backend.close)
            folder.release()

    def _backend(self, folder: DataFolder) -> Backend:
        plan = self._plan
        if plan.backend:
            return External(plan.backend)
        engine = Engine(folder, auth=plan.auth, test_commands=plan.test_commands)
        return Embedded(engine, Disk(folder.engine, folder.log), plan.first_user)

    def _uri(self, address: tuple[str, int]) -> str:
        host, port = address[:2]
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"mongodb://{host}:{port}/?directConnection=true"

    async def _serve_or_run(self, uri: str, files: tuple[int, int]) -> None:
        if not self._plan.command:
            print(uri, flush=True)  # noqa: T201 - the first line is the contract
            await self._ending.wait()
            return
        try:
            self._child = processes.start(
                self._plan.command,
                env={**os.environ, "MONGODB_URI": uri},
                stdin=None,
                prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, files),
            )
        except OSError as error:
            # Not raised: what leaves a group of tasks is a group of errors.
            self._failure = StartError(
                f"The command {self._plan.command[0]} cannot be started: {error.strerror}."
            )
            return
        child = self._child
        with _in_foreground(child.pid):
            await self._until_it_ends(child)

    async def _until_it_ends(self, child: subprocess.Popen[bytes]) -> None:
        waited = asyncio.create_task(asyncio.to_thread(child.wait))
        ended = asyncio.create_task(self._ending.wait())
        await asyncio.wait([waited, ended], return_when=asyncio.FIRST_COMPLETED)
        if not waited.done():
            await asyncio.to_thread(processes.stop, [child], grace=_COMMAND_PATIENCE_S)
        ended.cancel()
        status = await waited
        # A command that a signal ended: the status a shell would give.
        self._status = status if status >= 0 else 128 - status

    async def _watch(self, backend: Backend) -> None:
        """Brings a backend that died back, a few times; then gives up."""
        deaths: list[float] = []
        while True:
            await asyncio.sleep(0.1)
            try:
                if backend.disk is not None:
                    await asyncio.to_thread(backend.disk.check)
                    if backend.disk.broken:
                        raise StartError(
                            "The embedded engine could not write to the disk and has given up. "
                            "Free some space and start again: nothing acknowledged is lost."
                        )
                if not backend.running():
                    await self._revive(backend, deaths)
            except StartError as error:
                self._failure = error
                self._ending.set()
                return

    async def _revive(self, backend: Backend, deaths: list[float]) -> None:
        if not self._plan.restart:
            raise StartError(
                "The embedded engine ended by itself; nothing acknowledged is lost. Start again. "
                "Its log is engine.log in the data folder."
            )
        now = time.monotonic()
        deaths[:] = [death for death in deaths if now - death < _RESTART_WINDOW_S] + [now]
        if len(deaths) > _RESTARTS:
            raise StartError(
                f"The embedded engine ended {len(deaths)} times within a minute. "
                "Its log is engine.log in the data folder."
            )
        log.warning("the embedded engine ended by itself and is started again")
        await asyncio.to_thread(backend.restart)


def _allow_many_files() -> tuple[int, int]:
    """Raises the limit of open files as far as allowed (a client takes two); the limits before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if before[0] != resource.RLIM_INFINITY and before[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return before


@contextlib.contextmanager
def _in_foreground(group: int) -> Iterator[None]:
    """Gives the terminal, if there is one, to a process group: it may then read from it."""
    if not os.isatty(0):
        yield
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.tcsetpgrp(0, group)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGCONT)  # it may have tried to read already
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
