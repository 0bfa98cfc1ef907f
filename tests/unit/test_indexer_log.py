"""What the worker logs of a fault of its own: the places in the code, and not the text."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from faces.errors import DatabaseUnavailable, StorageFull
from indexer import cli, log


@pytest.fixture
def as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.usefixtures("as_before")
def test_an_unexpected_error_is_logged_by_class_and_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure()
    try:
        raise KeyError("canary: somebody's name")
    except KeyError:
        structlog.get_logger("likeness.jobs").exception("job_failed", job_id="j")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["error"], line["job_id"]) == ("job_failed", "KeyError", "j")
    assert "test_indexer_log.py" in line["frames"][-1]
    assert "canary" not in str(line)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("canary: somebody's name"), "Internal error (KeyError)"),
        (DatabaseUnavailable("It is away."), "MONGODB_URI"),
        (StorageFull("There is no room."), "storage_full"),
    ],
)
def test_a_command_that_fails_says_so_in_a_sentence_and_gives_nothing_away(
    error: Exception,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_status", failing)
    assert cli.main(["status"]) == 1
    out, err = capsys.readouterr()
    assert said in err
    assert not out
    assert "canary" not in err


def test_a_reader_that_has_seen_enough_is_no_fault(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(cli, "_status", failing)
    monkeypatch.setattr(log, "configure", lambda level: None)
    monkeypatch.setattr("os.dup2", lambda new, old: None)
    assert cli.main(["status"]) == 0
    assert not capfd.readouterr().err
