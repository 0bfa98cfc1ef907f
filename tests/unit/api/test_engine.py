"""What the engine says while there is no model to load."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from app.engine import Engine, Wanted
from app.modelfiles import ModelFiles
from faces.errors import EncoderUnavailable


class NoFiles:
    """Model files that are not there and cannot be fetched."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def present(self, key: str) -> bool:
        return False

    def fetch(self, key: str | None, stopping: threading.Event) -> str | None:
        self.asked.append(key)
        return "Run `this command`."


@pytest.mark.parametrize("key", [None, "facenet128"])
def test_without_a_model_it_names_the_command_and_does_not_load_for_ever(key: str | None) -> None:
    files = NoFiles()
    engine = Engine(
        enabled=True, wanted=lambda: Wanted(key), load=lambda _: pytest.fail("loaded"), files=files
    )
    engine.load_now()
    engine.load_now()
    with pytest.raises(EncoderUnavailable, match="this command"):
        engine.check()
    assert files.asked == [key]  # it is asked again after a while, not at once
    engine.stop()


@pytest.mark.parametrize(("may_fetch", "remote"), [(False, False), (True, True)])
def test_who_may_not_fetch_is_told_how_to_choose(
    tmp_path: Path, may_fetch: bool, remote: bool
) -> None:
    files = ModelFiles(tmp_path, may_fetch=may_fetch, remote=remote)
    told = files.fetch(None, threading.Event())
    assert "FACE_MODEL" in str(told)
