"""What the engine says while there is no model to load."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from app.engine import Engine, Wanted
from app.modelfiles import FIRST_PAUSE_S, ModelFiles
from faces import processes
from faces.errors import EncoderUnavailable
from faces.models.files import NO_ROOM, detector_path, encoder_path


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


def test_a_fetch_that_failed_is_tried_again_later_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, started = [0.0], []
    real = processes.start

    def start(argv: list[str], **how: Any) -> subprocess.Popen[bytes]:
        started.append(argv)
        return real([sys.executable, "-c", f"raise SystemExit({statuses[len(started) - 1]})"])

    monkeypatch.setattr(processes, "start", start)
    statuses = [NO_ROOM, 1, 0]
    files = ModelFiles(tmp_path, may_fetch=True, remote=False, clock=lambda: now[0])
    full = files.fetch("sface", threading.Event())
    assert "the disk of the models folder is full" in str(full)
    assert files.fetch("sface", threading.Event()) == full  # not at once
    assert len(started) == 1
    now[0] += FIRST_PAUSE_S
    assert "is full" not in str(files.fetch("sface", threading.Event()))
    now[0] += FIRST_PAUSE_S  # the second pause is longer
    files.fetch("sface", threading.Event())
    assert len(started) == 2
    encoder_path(tmp_path, "sface").touch()
    detector_path(tmp_path).touch()
    now[0] += FIRST_PAUSE_S
    assert files.fetch("sface", threading.Event()) is None
