"""Processes of a slug's Procfile, run as the platform runs them, and the database beside them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import slug as slugs
from bench.trees import Sampler, limited
from faces import processes

DYNO_MIB = 512


@dataclass(frozen=True, slots=True)
class Dyno:
    """A running process of the Procfile and its memory."""

    name: str
    process: subprocess.Popen[bytes]
    sampler: Sampler


@contextlib.contextmanager
def dyno(folder: Path, name: str, command: str, variables: Mapping[str, str]) -> Iterator[Dyno]:
    env = slugs.environment(folder, {**variables, "DYNO": f"{name}.1"})
    with limited(f"likeness-dyno-{os.getpid()}-{name}", DYNO_MIB) as enter:
        process = processes.start(
            ["/bin/bash", "-c", f"exec {command}"],
            env=env,
            cwd=folder,
            prepare=enter,
            on_parent_death=signal.SIGKILL,
        )
        sampler = Sampler(process.pid, DYNO_MIB)
        try:
            yield Dyno(name, process, sampler)
        finally:
            sampler.close()
            processes.stop([process], grace=5)


@contextlib.contextmanager
def atlas(data: Path) -> Iterator[str]:
    """The address of an embedded Atlas, which is no part of the slug."""
    process = processes.start(
        [sys.executable, "-m", "localatlas", "serve", "--data", str(data)],
        cwd=slugs.ROOT,
        stdout=subprocess.PIPE,
        on_parent_death=signal.SIGTERM,
    )
    assert process.stdout is not None
    try:
        uri = process.stdout.readline().decode().strip()
        if not uri:
            raise slugs.BuildFailed("the embedded Atlas did not start")
        yield uri
    finally:
        process.stdout.close()
        processes.stop([process], grace=5)
        shutil.rmtree(data, ignore_errors=True)


def release(folder: Path, command: str, variables: Mapping[str, str]) -> float:
    """Seconds that the release phase took. Raises BuildFailed when it fails."""
    env = slugs.environment(folder, {**variables, "DYNO": "release.1"})
    began = time.monotonic()
    done = subprocess.run(["/bin/bash", "-c", command], env=env, cwd=folder, check=False)
    if done.returncode:
        raise slugs.BuildFailed(f"the release phase ended with status {done.returncode}")
    return time.monotonic() - began


def procfile(folder: Path) -> dict[str, str]:
    lines = (folder / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line.strip())


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port
