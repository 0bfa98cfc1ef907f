"""The set-up that every make target begins with: two at once in one folder, and what may fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands for the interpreter: it makes a .venv of itself, and installing takes until the other one
# has begun to wait, or has taken the .venv away.
PYTHON = """#!/bin/bash
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo made >>log ;;
"-m pip")
	for _ in {1..300}; do
		grep -q waiting said && break
		[[ $(grep -c made log) == 1 ]] || exit 1
		sleep 0.05
	done
	echo installed >>log ;;
esac
"""


SET_UP = ["make", ".venv/.stamp", "PYTHON=./python"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone with nothing but what the set-up reads, and programs of its own before the others."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-dev.txt").touch()
    program(tmp_path / "python", PYTHON)
    (tmp_path / "bin").mkdir()
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    outer = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MAKEFLAGS")}
    return outer | {"PATH": f"{folder / 'bin'}:{outer['PATH']}"}


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_two_at_once_install_once_and_both_go_on(folder: Path, environment: dict[str, str]) -> None:
    with (folder / "said").open("ab") as said:
        pair = [
            subprocess.Popen(SET_UP, cwd=folder, stdout=said, stderr=said, env=environment)
            for _ in range(2)
        ]
        try:
            assert [one.wait(60) for one in pair] == [0, 0]
        finally:
            for one in pair:
                one.kill()
                one.wait()
    assert (folder / "log").read_text().split() == ["made", "installed"]
    assert (folder / "said").read_text().count("waiting for another set-up") == 1


def test_a_file_system_without_locks_does_without(
    folder: Path, environment: dict[str, str]
) -> None:
    """NFS takes no lock on a folder: the set-up ended there with `Bad file descriptor`."""
    (folder / "said").write_text("nobody is waiting for it")
    program(folder / "bin" / "flock", "#!/bin/sh\nexit 65\n")
    assert subprocess.run(SET_UP, cwd=folder, env=environment).returncode == 0
    assert (folder / "log").read_text().split() == ["made", "installed"]


def test_an_old_venv_that_cannot_be_removed_is_not_built_upon(
    folder: Path, environment: dict[str, str]
) -> None:
    program(folder / "bin" / "rm", "#!/bin/sh\nexit 1\n")
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(folder / "python", folder / ".venv" / "bin" / "python")
    (folder / "said").write_text("nobody is waiting for it")
    assert subprocess.run(SET_UP, cwd=folder, env=environment).returncode != 0
    assert not (folder / ".venv" / ".stamp").exists()
