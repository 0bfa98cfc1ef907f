"""The examples of docs/api.md, run as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.contract.api.conftest import ROOT, Service

pytestmark = pytest.mark.xdist_group("api")
TEXT = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_work_in_their_order(service: Service, probes: dict[str, Path]) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "LIKENESS": service.url,
        "PHOTO": str(probes["madonna"]),
        "no_proxy": "*",
    }
    assert len(BLOCKS) > 12
    for language, code in BLOCKS:
        if language == "bash":
            # An example that answers with an error is a wrong example.
            code = code.replace("curl -s ", "curl -sS --fail-with-body ")
            code = 'export BASE="$LIKENESS/v1/collections/press/subjects"\n' + code
            command = ["bash", "-euo", "pipefail", "-c", code]
        else:
            command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert done.stdout or "export" in code


def test_every_route_and_code_is_told_of(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    for path in document["paths"]:
        last = [part for part in path.split("/") if part and not part.startswith("{")][-1]
        assert last in TEXT, path
    from app.problems import TITLES

    missing = [code for code in TITLES if code not in TEXT and code != "internal_error"]
    assert not missing
