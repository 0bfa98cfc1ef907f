"""Schemathesis over every operation of the API: `python -m tests.contract.api.fuzz [URL]`.

Without a URL it starts the embedded Atlas and a service of its own. `make fuzz` runs it for long,
`make test` for a few examples each.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.private import MARK

KEY = f"{MARK}-key-for-fuzzing"
ROOT = Path(__file__).resolve().parents[3]


def run(url: str, folder: Path, *, examples: int, seed: int | None, key: str) -> int:
    """The exit status of schemathesis: 0 when no operation broke its own description."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)),
        # An example may be right in form and still name what is not there.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--workers", "1", "--request-timeout", "60", "--continue-on-failure", "--no-color"),
        *("--generation-database", "none", "--suppress-health-check", "all"),
    ]
    if seed is not None:
        command += ["--seed", str(seed)]
    if key:
        command += ["--header", f"X-API-Key: {key}"]
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return subprocess.run(command, cwd=folder, env=env, check=False).returncode


def main() -> int:
    from app.keys import entry
    from tests.conftest import Atlas
    from tests.contract.api.conftest import launch, stop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="a running service; default: start one")
    parser.add_argument("--max-examples", type=int, default=400)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--key", default="", help="a key of that service, of the role admin")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.url:
            url = options.url.rstrip("/")
            return run(
                url, folder, examples=options.max_examples, seed=options.seed, key=options.key
            )
        atlas = Atlas(folder / "atlas")
        env = {"MONGODB_URI": atlas.uri, "MONGODB_DATABASE": f"fuzz_{secrets.token_hex(4)}"}
        try:
            subprocess.run(
                [sys.executable, "-m", "migrations", "up", "--wait"],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "FACE_MODEL": "facenet128", **env},
                check=True,
            )
            env["API_KEYS"] = entry("fuzz", "admin", KEY)
            service = launch(folder / "web.log", env, wait="/readyz")
            try:
                return run(
                    service.url, folder, examples=options.max_examples, seed=options.seed, key=KEY
                )
            finally:
                stop(service.process)
                worst = re.findall(r'.*"unexpected_error".*', (folder / "web.log").read_text())
                print("\n".join(worst[:5]))  # noqa: T201 - what a command is for
        finally:
            atlas.stop()


if __name__ == "__main__":
    sys.exit(main())
