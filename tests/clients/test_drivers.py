"""The embedded Atlas under clients as their makers ship them, each with a day's work to do."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.clients.conftest import HERE, HOME, PYTHON

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]
DAYS = {
    "MongoDB driver for Node.js, Mongoose": ["node", HERE / "drive_node.mjs"],
    "PyMongo's AsyncMongoClient, Motor, LangChain": [PYTHON, HERE / "drive_python.py"],
}


@pytest.mark.parametrize("command", DAYS.values(), ids=DAYS.keys())
def test_a_day_goes_as_on_atlas(command: list[str], atlas: str) -> None:
    if not (PYTHON.exists() and (HOME / "node_modules" / "mongodb").is_dir()):
        pytest.fail("the clients are not installed: run `make test-clients`")
    env = {"PATH": os.environ["PATH"], "HOME": str(HOME), "CLIENTS_MODULES": str(HOME)}
    done = subprocess.run(
        [*command, atlas], env=env, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stderr
