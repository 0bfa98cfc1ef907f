"""The list of licences is current, and the audit calls nothing sound that it did not look up."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A command of `bin` as a module."""
    spec = util.spec_from_file_location(name, ROOT / "bin" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_packages_and_cards_declare() -> None:
    done = subprocess.run(
        [sys.executable, "bin/licences.py", "--check"], cwd=ROOT, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


def test_nothing_copyleft_is_deployed() -> None:
    page = (ROOT / "docs" / "licences.md").read_text().partition("## Not deployed")[0]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) > 40
    for row in rows:
        assert not any(word in row.upper() for word in ("GPL", "AFFERO", "MPL", "NOT DECLARED")), (
            row
        )


def package(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", **more}


HOLE = {"id": "CVE-2026-1", "fix_versions": ["1.1"]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([package("a", vulns=[]), package("b", vulns=[])], 0, "2 packages, no known"),
        ([package("a", vulns=[]), package("b", vulns=[HOLE])], 1, "b 1.0 has CVE-2026-1; mended"),
        ([package("a", vulns=[]), package("b", skip_reason="not found")], 2, "1 of 2 packages"),
        ([package("a", skip_reason="not found")], 2, "NOT AUDITED"),
        ([package("a", skip_reason="x"), package("b", vulns=[HOLE])], 1, "CVE-2026-1"),
        ([], 2, "NOT AUDITED"),
        (None, 2, "was not reachable"),
    ],
)
def test_what_was_not_looked_up_is_not_sound(
    packages: list[dict[str, Any]] | None, status: int, said: str
) -> None:
    answer = None if packages is None else {"dependencies": packages}
    judged, told = load("audit").judge("requirements-x.txt", answer)
    assert judged == status
    assert said in told
