"""`python -m app up`: everything that `make run` serves, under one foreground process.

In order: the embedded Atlas when there is no MONGODB_URI, and beside it the models; the migrations;
the web process, and beside it the sample photos; the worker. They stop in the reverse order. When
one of them ends, all end: a half-running service that hides a crash helps nobody.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from app.ports import address, loopback, wait_for_port
from app.supervisor import ChildEnded, Stopped, Supervisor, how
from faces import processes
from faces.errors import LikenessError
from faces.settings import Settings, load
from faces.unread import discard

USAGE = "usage: python -m app up   (settings come from the environment)"
WEB_DRAIN = 5  # seconds that requests in flight get
SERVICE_GRACE = 6.0  # web and worker together; with the next it stays below ten seconds
ATLAS_GRACE = 3.0
LEASE_HELD = 3  # exit status of `indexer once`
NO_ATLAS = "The embedded Atlas did not start: see its message above. Nothing is served."
FAULT_PATIENCE = 2.0  # what the others wait for may be what just died


@dataclass(frozen=True, slots=True)
class Commands:
    """The programs to run, as argument lists; tests put others in their place."""

    atlas: tuple[str, ...]
    models: tuple[str, ...] | None
    migrations: tuple[str, ...]
    samples: tuple[str, ...] | None
    web: tuple[str, ...]
    worker: tuple[str, ...]


class StepFailed(LikenessError):
    """A step of the start failed; it has said why."""


def commands(settings: Settings) -> Commands:
    """What to run under these settings."""
    embedded = settings.mongodb_uri is None
    # Without a database of one's own the samples are the point; into one's own they go on request.
    wanted = settings.samples or (embedded and "samples" not in settings.model_fields_set)
    samples = wanted and settings.face_recognition_enabled
    own_models = settings.face_recognition_enabled and settings.encoder != "remote"
    python = (sys.executable, "-m")
    fetch = (*python, "faces.models", "fetch", *(("--samples",) if samples else ()))
    gallery = str(settings.var_dir / "samples" / "gallery")
    target = "default" if embedded else "samples"
    return Commands(
        atlas=(
            *(*python, "localatlas", "serve", "--no-restart"),
            *("--data", str(settings.var_dir / "atlas")),
        ),
        models=fetch if own_models or samples else None,
        migrations=(*python, "migrations", "up"),
        samples=(
            *(*python, "indexer", "once", "--source-name", "samples"),
            *("--folder", gallery, "--collection", target),
        )
        if samples
        else None,
        web=(*python, "app", "serve", "--graceful", str(WEB_DRAIN)),
        worker=(*python, "indexer", "run"),
    )


def main(argv: list[str]) -> int:
    """The exit status of `python -m app up`: 0 after a stop by signal, 1 when something failed."""
    if argv:
        print(USAGE)  # noqa: T201 - what a command is for
        return 0 if argv[0] in ("-h", "--help") else 2
    if "MAKELEVEL" in os.environ:
        # make passes SIGTERM on, but cannot when it is killed outright.
        processes.die_with_parent(signal.SIGTERM)
    supervisor = Supervisor()
    supervisor.listen()
    patience = float("inf")
    try:
        settings = load()
        serve(supervisor, settings, commands(settings))
    except Stopped as stopped:
        say(f"{stopped.detail} Stopping.")
        status = 0
    except ChildEnded as ended:
        say(f"{ended.detail} Stopping the rest; nothing is lost, start again.", error=True)
        status = 1
        patience = FAULT_PATIENCE
    except LikenessError as error:
        say(error.detail, error=True)
        status = 1
    killed = supervisor.stop(at_most=patience)
    supervisor.close()
    if killed:
        say(f"Had to kill what did not stop in time: {', '.join(killed)}.", error=True)
    return status


def serve(supervisor: Supervisor, settings: Settings, programs: Commands) -> None:
    """Runs until a signal or a fault; never returns, raises Stopped, ChildEnded or StepFailed."""
    wait_for_port(partial(supervisor.wait, every=0.1), settings.host, settings.port)
    env = {**os.environ, "INDEXER_EMBEDDED": "false"}  # here the worker is a child of its own
    atlas = None
    if settings.mongodb_uri is None:
        atlas = supervisor.start(
            "The embedded Atlas",
            programs.atlas,
            grace=ATLAS_GRACE,
            level=0,
            on_parent_death=signal.SIGTERM,
            stdout=subprocess.PIPE,
        )
    try:
        step(supervisor, "Getting the models", programs.models, env)
    except ChildEnded:
        raise StepFailed(NO_ATLAS) from None
    if atlas is not None:
        uri = supervisor.first_line(atlas, 60).strip()
        if not uri:
            raise StepFailed(NO_ATLAS)
        env["MONGODB_URI"] = uri
    step(supervisor, "Applying the migrations", programs.migrations, env)
    if atlas is None and programs.samples is not None:
        ensure_collection(settings, "samples")
    # The web process starts while the samples are looked through, and is held back from saying
    # "ready" until they are searchable.
    ready_file = settings.var_dir / "run" / "ready"
    ready_file.parent.mkdir(parents=True, exist_ok=True)
    ready_file.unlink(missing_ok=True)
    held = {**env, "READY_FILE": str(ready_file)}
    supervisor.start("The web process", programs.web, env=held, grace=SERVICE_GRACE)
    index_samples(supervisor, programs.samples, env)
    ready_file.touch()
    supervisor.start("The worker", programs.worker, env=env, grace=SERVICE_GRACE)
    announce(supervisor, settings, address(settings.host, settings.port))
    supervisor.wait(lambda: False)


def announce(supervisor: Supervisor, settings: Settings, url: str) -> None:
    """Says once that the service is ready, or, after a while, why it is not."""
    told: list[str] = []
    began = time.monotonic()

    def ready() -> bool:
        status, reasons = readiness(settings.host, settings.port)
        if status in ("ready", "disabled"):
            return True
        if reasons and reasons not in told and time.monotonic() - began > 3:
            told.append(reasons)
            say(f"Not ready yet ({status}): {reasons}")
        return False

    supervisor.wait(ready, every=0.1)
    say(f"Ready: {url} (stop with Ctrl-C)")


def readiness(host: str, port: int) -> tuple[str, str]:
    """The status that /readyz gives and its reasons as one line; empty while nobody answers."""
    connection = http.client.HTTPConnection(loopback(host), port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return "", ""  # not listening yet; its end would be noticed as such
    finally:
        connection.close()
    reasons = answer.get("reasons") or {}
    return str(answer.get("status", "")), " ".join(str(reason) for reason in reasons.values())


def step(
    supervisor: Supervisor, name: str, argv: tuple[str, ...] | None, env: Mapping[str, str]
) -> None:
    """Runs one step of the start; raises StepFailed when it fails. It says itself what it does."""
    if argv is None:
        return
    status = supervisor.run(name, argv, env=env, grace=SERVICE_GRACE)
    if status:
        raise StepFailed(f"{name} {how(status)}: see its message above. Nothing is served.")


def index_samples(
    supervisor: Supervisor, argv: tuple[str, ...] | None, env: Mapping[str, str]
) -> None:
    """Indexes the sample photos, waiting for a run that was cut off to lose its lease."""
    if argv is None:
        return
    deadline = time.monotonic() + 60
    while True:
        status = supervisor.run("Indexing the samples", argv, env=env, grace=SERVICE_GRACE)
        if status == 0:
            return
        if status != LEASE_HELD or time.monotonic() > deadline:
            raise StepFailed(
                f"Indexing the samples {how(status)}: see its message above. Nothing is served."
            )
        supervisor.wait(lambda: False, 1)


def ensure_collection(settings: Settings, name: str) -> None:
    """Makes sure that the collection is there. Raises what the database layer raises."""
    from faces.database import connect, database
    from faces.store import Store

    client = connect(settings, "migrations")
    try:
        Store(database(client, settings)).ensure_collection(name)
    finally:
        client.close()


def say(sentence: str, *, error: bool = False) -> None:
    """Prints a line; a reader that has gone is no reason to stop."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(f"likeness: {sentence}", file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)
