"""Fixtures that every test may use: folders, a clean environment, an embedded Atlas."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from faces.settings import Settings
from tests.overhearing import Overhearing

ROOT = Path(__file__).resolve().parent.parent
# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("likeness", deadline=None)
hypothesis.settings.load_profile("likeness")
FETCH = "run `python -m faces.models fetch --samples`, or make test"


def pytest_configure(config: pytest.Config) -> None:
    """Listen to everything that is said, for private values: see tests/overhearing.py."""
    config.pluginmanager.register(Overhearing(), "overhearing")


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Take the product's variables out of the environment, so that a test sets what it needs."""
    kept = {}
    for name in list(Settings.model_fields):
        if (value := os.environ.pop(name.upper(), None)) is not None:
            kept[name.upper()] = value
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The fetched models."""
    path = ROOT / "var" / "models"
    if not path.is_dir():
        pytest.fail(f"{path} is missing: {FETCH}")
    return path


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """The fetched sample photos: gallery/<person>/<file> and probes/<person>/<file>."""
    path = ROOT / "var" / "samples"
    if not path.is_dir():
        pytest.fail(f"{path} is missing: {FETCH}")
    return path


class Atlas:
    """An embedded Atlas that runs while the tests of this worker do."""

    def __init__(self, data: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "localatlas", "serve", "--data", str(data), *arguments]
        self.data = data
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.uri = self.process.stdout.readline().strip()
        if not self.uri.startswith("mongodb://"):
            self.stop()
            pytest.fail("the embedded Atlas did not start; its message is on stderr")

    def stop(self) -> None:
        """End it and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an embedded Atlas with an empty data folder."""
    data = tmp_path_factory.mktemp("atlas")
    running = Atlas(data)
    yield running.uri
    running.stop()
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def database(atlas: str) -> Iterator[Database[dict[str, Any]]]:
    """A database of its own on the embedded Atlas, dropped afterwards."""
    with MongoClient[dict[str, Any]](atlas, tz_aware=True) as client:
        name = f"t_{secrets.token_hex(6)}"
        yield client[name]
        client.drop_database(name)
