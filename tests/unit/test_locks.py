"""The lock files belong to pyproject.toml and name no place."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("lock", ROOT / "bin" / "lock.py")
assert SPEC is not None
assert SPEC.loader is not None
lock = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lock)

NAMES = ("requirements-heroku.txt", "requirements-build.txt", "requirements-dev.txt")


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_is_made_from_the_present_requirements(name: str) -> None:
    wanted = lock.inputs(tomllib.loads((ROOT / "pyproject.toml").read_text()))[name]
    first = (ROOT / name).read_text().splitlines()[0]
    assert first == f"{lock.MARK}{lock.digest(wanted)}", "run make lock"


@pytest.mark.parametrize("name", NAMES)
def test_every_locked_package_is_pinned_with_hashes_and_no_host_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert entries
    for entry in entries:
        assert "==" in entry.splitlines()[0]
        assert "--hash=sha256:" in entry
    assert "://" not in text
    assert "--index-url" not in text


def test_the_smaller_locks_agree_with_the_development_lock() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / name).read_text(), re.M))

    everything = versions("requirements-dev.txt")
    for name in NAMES[:2]:
        assert versions(name).items() <= everything.items()


def test_the_embedded_engine_stays_out_of_the_slug() -> None:
    assert "secantus" not in (ROOT / "requirements-heroku.txt").read_text().lower()
