"""Write the three hash-locked requirement files from one resolution of pyproject.toml.

Each file opens with the SHA-256 of its input, which `tests/unit/test_locks.py` compares offline.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "# input-sha256: "


def inputs(pyproject: dict[str, Any]) -> dict[str, list[str]]:
    """The direct requirements of each lock file, by file name."""
    runtime: list[str] = pyproject["project"]["dependencies"]
    build: list[str] = pyproject["dependency-groups"]["build"]
    dev: list[str] = pyproject["dependency-groups"]["dev"]
    return {
        "requirements-dev.txt": runtime + build + dev,
        "requirements-build.txt": build,
        "requirements-heroku.txt": runtime,
    }


def digest(requirements: list[str]) -> str:
    """SHA-256 (hex) of a list of direct requirements."""
    return hashlib.sha256(json.dumps(requirements).encode()).hexdigest()


def compile_lock(requirements: list[str], constraint: Path | None) -> str:
    """The locked text for `requirements`, versions held to those of `constraint`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes"]
        command += ["--no-header", "--no-config", "--no-annotate", "--python-version", "3.11"]
        command += ["--universal", str(source)]
        if constraint:
            command += ["--constraint", str(constraint)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Resolve the development set first; the smaller sets are constrained by it."""
    wanted = inputs(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    constraint: Path | None = None
    for name, requirements in wanted.items():
        text = compile_lock(requirements, constraint)
        path = ROOT / name
        path.write_text(f"{MARK}{digest(requirements)}\n{text}")
        constraint = constraint or path
        sys.stderr.write(f"lock: wrote {name}\n")


if __name__ == "__main__":
    main()
