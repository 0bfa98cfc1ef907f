"""`make audit`: look the locked packages up in the database of known vulnerabilities.

Exits 0 when every package was looked up and none is known to be vulnerable, 1 when one is, and 2
when the database did not answer for every package: what was not looked up is not called sound.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements-heroku.txt", "requirements-build.txt", "requirements-dev.txt")


def judge(name: str, answer: Mapping[str, Any] | None) -> tuple[int, str]:
    """The exit status and the sentences for one lock file, from what pip-audit wrote as JSON."""
    if answer is None:
        return 2, f"{name}: NOT AUDITED. The database of vulnerabilities was not reachable."
    packages = answer["dependencies"]
    bad = [
        f"{name}: {each['name']} {each['version']} has {hole['id']}; mended in "
        f"{', '.join(hole['fix_versions']) or 'no version yet'}"
        for each in packages
        for hole in each.get("vulns", ())
    ]
    if bad:
        return 1, "\n".join(bad)
    unknown = sum("skip_reason" in each for each in packages)
    if unknown or not packages:
        return 2, (
            f"{name}: NOT AUDITED. The database of vulnerabilities was not reachable for {unknown} "
            f"of {len(packages)} packages: what answered does not know them."
        )
    return 0, f"{name}: {len(packages)} packages, no known vulnerability"


def ask(lock: Path) -> Mapping[str, Any] | None:
    """What pip-audit says of a lock file; None when it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        sys.stderr.write("pip-audit had no answer within five minutes\n")
        return None
    try:
        answer: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.stderr.write(
            (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1] + "\n"
        )
        return None
    return answer


def main() -> int:
    """Audit the lock files, worst status of them all."""
    statuses = []
    for name in LOCKS:
        status, said = judge(name, ask(ROOT / name))
        statuses.append(status)
        sys.stdout.write(f"{said}\n")
    if 2 in statuses:
        sys.stdout.write(
            "audit: nothing can be said of what was not looked up. Run `make audit` where the "
            "package index's own database of vulnerabilities can be reached.\n"
        )
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
