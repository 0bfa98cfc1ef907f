"""`python -m bench dyno`: a rehearsal of the platform, held to the deployment guide's figures.

Builds the slug, starts release, web and worker from its Procfile with the platform's variables on
an embedded Atlas, loads them, stops them, and prints what each step took. Exits 1 when a figure of
the guide is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import dyno512, dynos
from bench import slug as slugs
from bench.dyno_load import Client, large_photo
from bench.report import say
from bench.trees import rss_mib
from faces import processes

STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure beside the guide's limit, which must hold, and our own goal."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    goal: float | None = None
    note: str = ""

    @property
    def broken(self) -> bool:
        """Whether the guide's figure does not hold."""
        return self.limit is not None and self.value > self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:g}"
        goal = "" if self.goal is None else f"{self.goal:g}"
        verdict = "BROKEN" if self.broken else "ok" if self.limit is not None else ""
        if self.goal is not None and not self.broken:
            verdict = "goal met" if self.value <= self.goal else "goal missed"
        return (
            f"{self.name:38} {self.value:9.1f} {self.unit:4} {limit:>6} {goal:>6}  {verdict:12}"
            f" {self.note}"
        ).rstrip()


def main(argv: Sequence[str]) -> int:
    """Runs the rehearsal; 1 when a figure of the guide is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench dyno", description=__doc__)
    parser.add_argument(
        "--model", help="model to build in (default: facenet512 where it can be had)"
    )
    parser.add_argument("--slug", type=Path, help="use this slug, built before, and build none")
    parser.add_argument("--keep", type=Path, help="build the slug here and keep it")
    options = parser.parse_args(argv)
    model, why = (options.model, "") if options.model else _model()
    figures: list[Figure] = []
    try:
        with tempfile.TemporaryDirectory(prefix="likeness-dyno-") as temporary:
            folder = options.slug or options.keep or Path(temporary) / "app"
            if options.slug is None:
                figures += _build(folder, model)
            for figure in _rehearse(folder.resolve(), model, Path(temporary)):
                figures.append(figure)
                say(str(figure))
    except slugs.BuildFailed as error:
        print(f"make dyno: {error}", file=sys.stderr)
        return 1
    print(f"\nmodel built in: {model}{why}")
    print(f"{'':38} {'value':>9} {'':4} {'guide':>6} {'goal':>6}")
    for figure in figures:
        print(figure)
    broken = [figure.name for figure in figures if figure.broken]
    if broken:
        print(f"make dyno: the guide's figure is broken for: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _model() -> tuple[str, str]:
    """The model to rehearse with, and why it is not the production one."""
    from faces.models.cards import CARDS
    from faces.models.fetch import AUTO_FIRST, decide

    with tempfile.TemporaryDirectory() as empty:
        if decide(Path(empty)) == AUTO_FIRST:
            return AUTO_FIRST, ""
    key = "facenet128-int8" if "facenet128-int8" in CARDS else "facenet128"
    return key, f" (the source of {AUTO_FIRST} is out of reach from here)"


def _build(folder: Path, model: str) -> Iterator[Figure]:
    began = time.monotonic()
    built = slugs.build(folder, {"FACE_MODEL": model})
    note = f"{built.unpacked:.0f} MB unpacked, interpreter {built.interpreter:.0f} MB included"
    size = built.compressed + built.interpreter
    yield Figure("slug, compressed", size, "MB", 350, 250, note)
    yield Figure("build", time.monotonic() - began, "s")


def _rehearse(folder: Path, model: str, temporary: Path) -> Iterator[Figure]:
    yield from _switched_off(folder)
    key = secrets.token_urlsafe(32)
    with dynos.atlas(temporary / "atlas") as uri, contextlib.ExitStack() as stack:
        shared = {
            "MONGODB_URI": uri,
            "API_KEY": key,
            "FACE_MODEL": model,
            "WEB_CONCURRENCY": "2",
            "WEB_CONCURRENCY_SET_BY": "heroku/python",
            "FORWARDED_ALLOW_IPS": "*",
        }
        procfile = dynos.procfile(folder)
        took = dynos.release(folder, procfile["release"], shared)
        yield Figure("release phase", took, "s", 60)
        port = dynos.free_port()
        # Empty while idle memory is measured: the worker looks through its source when it starts.
        cms = temporary / "cms"
        cms.mkdir()
        source = {"CMS_SOURCE": "folder", "CMS_FOLDER": str(cms)}
        began = time.monotonic()
        web = stack.enter_context(
            dynos.dyno(folder, "web", procfile["web"], {**shared, "PORT": str(port)})
        )
        client = Client(port, key)
        client.wait_for("/healthz", 60, web.process)
        yield Figure("web: time to bind", time.monotonic() - began, "s", 60, 1.5)
        client.wait_for("/readyz", 60, web.process)
        yield Figure("web: time to ready", time.monotonic() - began, "s", None, 3)
        worker = stack.enter_context(
            dynos.dyno(folder, "worker", procfile["worker"], shared | source)
        )
        time.sleep(3)
        for dyno in (web, worker):
            dyno.sampler.mark()
        time.sleep(8)
        yield Figure("web: idle", web.sampler.level, "MB", 300, 180)
        yield Figure("worker: idle", worker.sampler.level, "MB", 300, 180)
        for dyno in (web, worker):
            dyno.sampler.mark()
        shutil.copytree(slugs.ROOT / "var/samples/gallery", cms, dirs_exist_ok=True)
        yield from _load(client)
        goal = 256 if model.endswith("int8") else None
        yield Figure("web: peak under load", web.sampler.peak, "MB", 500, goal)
        yield Figure("worker: peak under load", worker.sampler.peak, "MB", 500, goal)
        for dyno in (web, worker):
            if dyno.sampler.killed or dyno.process.poll() is not None:
                yield Figure(f"{dyno.name}: ended under load", 1, "", 0)
        yield from _stops(web, worker, port, key)
        if model != "facenet512":
            yield from _production_size(folder, shared)


def _switched_off(folder: Path) -> Iterator[Figure]:
    """The guide's own command line, with face recognition off and nothing else set."""
    port = dynos.free_port()
    env = slugs.environment(folder, {"FACE_RECOGNITION_ENABLED": "false"})
    command = f"exec uvicorn app.main:app --host 0.0.0.0 --port {port}"
    process = processes.start(["/bin/bash", "-c", command], env=env, cwd=folder)
    try:
        Client(port, "").wait_for("/readyz", 30, process)
        time.sleep(2)
        yield Figure("switched off: resident", rss_mib(process.pid), "MB", 80)
    finally:
        processes.stop([process], grace=10)


def _load(client: Client) -> Iterator[Figure]:
    """Searches, 12-megapixel uploads and a backfill at the same time."""
    probes = sorted((slugs.ROOT / "var/samples/probes").rglob("*.jpg"))
    gallery = sorted((slugs.ROOT / "var/samples/gallery").rglob("*.jpg"))
    photo = large_photo(gallery[0].read_bytes())
    began = time.monotonic()
    job = client.start_backfill()
    client.put("dyno/large-0", photo)
    with ThreadPoolExecutor(4) as pool:
        uploads = [pool.submit(client.put, f"dyno/large-{n}", photo) for n in range(1, 6)]
        took = list(pool.map(lambda path: client.search(path.read_bytes()), probes * 4))
        for upload in uploads:
            upload.result()
    took.sort()
    yield Figure(
        "search during load, 95th percentile", took[len(took) * 95 // 100] * 1000, "ms", 30_000
    )
    state = client.wait_for_job(job, 300)
    note = f"{state['done']} photos, {state['faces']} faces, {state['failed']} failed"
    yield Figure("backfill of the samples", time.monotonic() - began, "s", None, None, note)


def _production_size(folder: Path, shared: dict[str, str]) -> Iterator[Figure]:
    """The web dyno with a file of the production model's size where its own is out of reach."""
    measured = dyno512.measure(folder, shared, slugs.ROOT / "var" / "models")
    note = "random 512-d head"
    yield Figure("facenet512: file", measured.file_mib, "MB", None, None, note)
    yield Figure("facenet512: web, time to ready", measured.ready_s, "s", None, 3, note)
    yield Figure("facenet512: web, idle", measured.idle_mib, "MB", 300, None, note)
    yield Figure("facenet512: web, peak in searches", measured.peak_mib, "MB", 500, None, note)


def _stops(web: dynos.Dyno, worker: dynos.Dyno, port: int, key: str) -> Iterator[Figure]:
    """SIGTERM with a body that never ends, then again; both dynos end in time and by themselves."""
    with socket.create_connection(("127.0.0.1", port)) as stuck:
        head = (
            "POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
            f"X-API-Key: {key}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        stuck.sendall(head.encode())
        time.sleep(0.5)
        for dyno in (web, worker):
            yield _stop(dyno)


def _stop(dyno: dynos.Dyno) -> Figure:
    began = time.monotonic()
    # The platform signals every process of the dyno, and so does a second request to stop.
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(dyno.process.pid, signal.SIGTERM)
        time.sleep(0.3)
    try:
        status = dyno.process.wait(30)
    except subprocess.TimeoutExpired:
        return Figure(f"{dyno.name}: end after SIGTERM", 30, "s", STOP_SECONDS, None, "killed")
    took = time.monotonic() - began
    clean = status in (0, 143, -signal.SIGTERM)
    note = f"status {status}"
    return Figure(f"{dyno.name}: end after SIGTERM", took if clean else 99, "s", 20, None, note)
