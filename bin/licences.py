"""`python bin/licences.py`: write docs/licences.md, what is deployed and under which licence.

The licences are what the installed packages and the model cards declare; `--check` only compares.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
sys.path.insert(0, str(ROOT))

from faces.models.cards import CARDS, DETECTOR  # noqa: E402 - the project is no package

HEAD = """# Licences of what is deployed

Written by `python bin/licences.py` from `requirements-heroku.txt`, the packages' own
declarations and the model cards; `make test` compares it. Likeness itself is under the Apache
License 2.0 (`LICENSE`).

## Packages that run in production

| package | version | licence, as declared |
|---|---|---|
"""
MODELS = """
## Models

None is part of the repository: `python -m faces.models fetch` gets them from their publishers.

| model | licence | declared by | trained on | commercial use |
|---|---|---|---|---|
"""
TAIL = """
## Not deployed

What tests, benchmarks and `make run` need besides is in `requirements-dev.txt`. One of it is
copyleft: the engine of the embedded Atlas, secantusdb (GPL-2.0-only). It runs as a process of its
own for development, no code of Likeness imports it, and neither the slug nor the image holds it.
"""


def locked() -> dict[str, str]:
    """Name and version of every package in the lock that this machine's Python would install."""
    return {
        one.name: next(iter(one.specifier)).version
        for one in _lock()
        if one.marker is None or one.marker.evaluate()
    }


def others() -> list[str]:
    """Packages that the lock names for other platforms or other versions of Python only."""
    return sorted({one.name for one in _lock()} - set(locked()))


def _lock() -> list[Requirement]:
    text = (ROOT / "requirements-heroku.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^([A-Za-z0-9_.-]+==[^\\\n]+)", text, re.MULTILINE)
    return [Requirement(line.strip()) for line in lines]


def licence(package: str) -> str:
    """The licence that an installed package declares: an SPDX expression, if it has one."""
    told = metadata.metadata(package)
    if expression := told.get("License-Expression"):
        return expression
    classified = [
        line.rpartition(" :: ")[2]
        for line in told.get_all("Classifier") or []
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    return ", ".join(classified) or (told.get("License") or "not declared").splitlines()[0]


def page() -> str:
    """The whole page."""
    packages = "".join(f"| {n} | {v} | {licence(n)} |\n" for n, v in sorted(locked().items()))
    more = others()
    elsewhere = f"\nOn other platforms also: {', '.join(more)}.\n" if more else ""
    models = "".join(
        f"| `{card.key}` {card.name} | {card.licence} | {card.licence_declared_by} "
        f"| {card.training_data} | {card.commercial_use} |\n"
        for card in CARDS.values()
    )
    models += (
        f"| `{DETECTOR.key}` {DETECTOR.name} | {DETECTOR.licence} "
        f"| {DETECTOR.licence_declared_by} | {DETECTOR.training_data} | |\n"
    )
    return HEAD + packages + elsewhere + MODELS + models + TAIL


def main() -> int:
    """Write the page, or with `--check` exit 1 when it is not current."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write("docs/licences.md is not current: run `python bin/licences.py`.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
