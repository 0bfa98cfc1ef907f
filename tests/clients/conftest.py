"""Three clients as their makers ship them, each behind one way to make a call."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.contract.api import conftest as api
from tests.contract.rekognition.conftest import KEYS, service

__all__ = ["service"]
HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1] / "var" / "clients"
PYTHON = HOME / "venv" / "bin" / "python"
AWS = HOME / "venv" / "bin" / "aws"

start = api.start
migrated = api.migrated


class Refused(Exception):
    """The client raised the service's error of this name."""


class Speaker(Protocol):
    """A client that makes calls."""

    def call(self, operation: str, **given: Any) -> dict[str, Any]:
        """The answer. Raises Refused."""
        ...

    def pages(self, operation: str, size: int, **given: Any) -> list[dict[str, Any]]:
        """All pages by the client's own paginator; one where it joins them itself."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def environment(url: str, access_key: str, secret: str) -> dict[str, str]:
    """What points a client at the service: nothing in its code."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(HOME),
        "AWS_ENDPOINT_URL_REKOGNITION": url + "/aws",
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CLIENTS_MODULES": str(HOME),
    }


class Lines:
    """A child that reads calls and writes answers, a line each."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, operation: str, **given: Any) -> Any:
        return self._ask({"operation": operation, "given": given})

    def pages(self, operation: str, size: int, **given: Any) -> Any:
        return self._ask({"operation": operation, "given": given, "page_size": size})

    def _ask(self, call: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        if "error" in told:
            raise Refused(told["error"])
        return told["answer"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Cli:
    """The AWS CLI, a process for each call."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = {**env, "AWS_PAGER": "", "AWS_DEFAULT_OUTPUT": "json"}

    def call(self, operation: str, **given: Any) -> Any:
        return self._run(operation, given)

    def pages(self, operation: str, size: int, **given: Any) -> list[Any]:
        return [self._run(operation, given, "--page-size", str(size))]

    def _run(self, operation: str, given: dict[str, Any], *options: str) -> Any:
        command = [str(AWS), "rekognition", _dashed(operation), *options]
        for name, value in given.items():
            if isinstance(value, dict) and "$file" in value.get("Bytes", {}):
                # The command's own way to hand over a local picture.
                option = {"SourceImage": "source-image", "TargetImage": "target-image"}
                command += [
                    f"--{option.get(name, 'image')}-bytes",
                    f"fileb://{value['Bytes']['$file']}",
                ]
            else:
                text = value if isinstance(value, str) else json.dumps(value)
                command += [f"--{_dashed(name)}", text]
        done = subprocess.run(
            command, env=self._env, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            found = re.search(r"An error occurred \((\w+)\)", done.stderr)
            assert found, done.stderr
            raise Refused(found[1])
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def close(self) -> None:
        """Nothing is open."""


def _dashed(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def speaker(name: str, env: dict[str, str]) -> Speaker:
    """The client of this name."""
    if name == "boto3":
        return Lines([str(PYTHON), str(HERE / "speak_boto3.py")], env)
    if name == "js":
        return Lines(["node", str(HERE / "speak_js.mjs")], env)
    return Cli(env)


@pytest.fixture(scope="module", params=["boto3", "js", "cli"])
def client_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(client_name: str, service: api.Service) -> Iterator[Speaker]:
    """A client with the admin key."""
    if not (PYTHON.exists() and AWS.exists() and (HOME / "node_modules").is_dir()):
        pytest.fail("the clients are not installed: run `make test-clients`")
    made = speaker(client_name, environment(service.url, "AKADMIN", KEYS["AKADMIN"][0]))
    yield made
    made.close()
