"""The parts of the platform rehearsal: memory of trees, limits, figures, the slug's contents."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import slug
from bench.dyno import Figure
from bench.trees import Sampler, pss_mib
from faces import processes

# A parent whose child holds 60 MiB.
TREE = """
import subprocess, sys, time
code = (
    "held = bytearray(60 * 2**20); held[::4096] = b'x' * len(held[::4096]);"
    "print('held', flush=True); import time; time.sleep(60)"
)
child = subprocess.Popen([sys.executable, "-c", code])
child.wait()
"""


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    process = processes.start([sys.executable, "-c", TREE], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        processes.stop([process], grace=0)


def test_memory_is_that_of_the_whole_tree(tree: subprocess.Popen[bytes]) -> None:
    assert 60 < pss_mib(tree.pid) < 120


def test_a_tree_that_passes_its_limit_is_ended(tree: subprocess.Popen[bytes]) -> None:
    sampler = Sampler(tree.pid, limit_mib=40)
    with contextlib.closing(sampler):
        assert tree.wait(60) == -signal.SIGKILL
    assert sampler.killed
    assert sampler.peak > 60


def test_a_tree_within_its_limit_is_left_alone(tree: subprocess.Popen[bytes]) -> None:
    with contextlib.closing(Sampler(tree.pid, limit_mib=400)) as sampler:
        time.sleep(0.5)
        assert tree.poll() is None
        assert len(sampler.samples) >= 2
        assert sampler.level > 60


def test_a_figure_over_the_guides_limit_is_broken_and_one_over_our_goal_is_not() -> None:
    assert Figure("x", 301, "MB", 300, 180).broken
    assert not Figure("x", 299, "MB", 300, 180).broken
    assert "goal missed" in str(Figure("x", 299, "MB", 300, 180))
    assert "goal met" in str(Figure("x", 100, "MB", 300, 180))
    assert not Figure("x", 10**9, "s").broken


def test_a_process_of_the_slug_sees_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://mine")
    monkeypatch.setenv("VIRTUAL_ENV", "/mine")
    env = slug.environment(tmp_path, {"PORT": "1"})
    assert "MONGODB_URI" not in env
    assert "VIRTUAL_ENV" not in env
    assert env["PORT"] == "1"
    assert env["PATH"].startswith(f"{tmp_path}/.heroku/python/bin:")
