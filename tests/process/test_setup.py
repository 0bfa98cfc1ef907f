"""The set-up that every make target begins with: two of them at once, in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

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


def test_two_at_once_install_once_and_both_go_on(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-dev.txt").touch()
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MAKEFLAGS")}
    argv = ["make", ".venv/.stamp", "PYTHON=./python"]
    with (tmp_path / "said").open("ab") as said:
        pair = [
            subprocess.Popen(argv, cwd=tmp_path, stdout=said, stderr=said, env=environment)
            for _ in range(2)
        ]
        try:
            assert [one.wait(60) for one in pair] == [0, 0]
        finally:
            for one in pair:
                one.kill()
                one.wait()
    assert (tmp_path / "log").read_text().split() == ["made", "installed"]
    assert (tmp_path / "said").read_text().count("waiting for another set-up") == 1
