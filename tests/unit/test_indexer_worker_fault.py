"""A worker of which a part has died: it must not go on looking alive."""

from __future__ import annotations

import threading
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from faces.settings import Settings
from indexer.worker import Worker


@pytest.mark.parametrize("part", ["_look", "_catch_up", "_measuring"])
def test_a_worker_that_lost_a_part_ends_and_says_so(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def faulty(_: Worker) -> None:
        raise KeyError(part)

    for name in ("_look", "_catch_up", "_retries", "_measuring"):
        monkeypatch.setattr(Worker, name, lambda _: None)
    monkeypatch.setattr(Worker, part, faulty)
    settings = Settings(cms_source="folder", cms_folder=tmp_path)
    store, stopping = MagicMock(), threading.Event()
    guard = threading.Timer(120, stopping.set)
    guard.start()
    assert Worker(settings, store, stopping).run() is False
    guard.cancel()


def test_a_worker_that_is_stopped_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_look", lambda _: None)
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    assert Worker(Settings(), MagicMock(), stopping).run() is True
