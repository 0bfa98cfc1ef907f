"""A process that cannot load the next model blocks the switch, by name, and goes on serving."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.engine import Engine, Wanted
from faces.database import Db
from faces.errors import Conflict
from faces.leases import Holder
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from migrations import switching
from migrations.runner import Runner
from migrations.step import discover
from migrations.switching import Switch, Wish
from tests.conftest import ROOT
from tests.faces_made import MODEL, row_of_faces

ROOM = 64 * 2**20


class Files:
    """All model files are here."""

    def present(self, key: str) -> bool:
        return True

    def fetch(self, key: str | None, stopping: threading.Event) -> str | None:
        return None


class Loaded:
    """A pipeline that is well."""

    build = "b1"

    def __init__(self, model: str) -> None:
        self.model = model

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def load(key: str) -> Any:
    """The next model takes more than this process may have."""
    if key != MODEL:
        bytearray(8 * ROOM)
    return Loaded(key)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def heard(lines: Iterable[str], start: str) -> str:
    """The next line that begins so, between those of the log."""
    return next(line for line in lines if line.startswith(start))


def serve(uri: str, name: str) -> None:
    """A web process with little room: serves the active model and is asked to load the next one."""
    from faces.watch import Watch
    from tests.contract.store.conftest import connected

    with connected(uri) as client:
        store = Store(client[name])
        watch = Watch(store.db)
        watch.start()
        holder = Holder.this_process("web")

        def wanted() -> Wanted:
            active = watch.require_active()
            upcoming = active.next.key if active.preparing and active.next else None
            return Wanted(active.key, upcoming)

        engine = Engine(
            enabled=True,
            wanted=wanted,
            load=load,
            files=Files(),
            beat=lambda models, problem: store.presence.beat(holder, models, problem),
        )
        engine.start()
        while not engine.beating:
            threading.Event().wait(0.05)
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        tell("serving")
        for line in sys.stdin:
            tell(f"{line.strip()} {engine.state} {engine.model}")
        engine.stop()
        watch.stop()


def test_a_process_without_the_memory_is_named_and_serves_on(
    store: Store, db: Db, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = MediaRef("default", "a", "api", "a")
    store.put_item(ref, MediaInfo(), row_of_faces(1), content="s")
    said: list[str] = []
    runner = Runner(db, discover(), said.append)
    switch = Switch(db, runner, lambda run: {}, said.append)
    command = [sys.executable, "-m", "tests.contract.store.test_prepare", place, db.name]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert heard(process.stdout, "serving")
            switch.begin(Wish("sface", "b2"))
            with pytest.raises(Conflict) as refused:
                switch.prepare("sface", timeout_s=40)
            host = Holder.this_process("web").host.split("/")[0]
            named = f"Not every process has loaded sface: web {host} pid {process.pid}"
            assert named in refused.value.detail
            assert "not enough memory for sface" in refused.value.detail
            active = store.active_model()
            assert active is not None
            assert (active.key, active.preparing, active.both) == (MODEL, False, False)
            process.stdin.write("state\n")
            process.stdin.flush()
            assert heard(process.stdout, "state") == f"state ready {MODEL}\n"
        finally:
            process.kill()
            monkeypatch.setattr(switching, "DRAIN_S", 0.0)
            switch.prune()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
