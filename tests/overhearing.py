"""The part of pytest that fails a run in which something private was said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.overheard import Ear, listening

_KEY = "overheard"


class Overhearing:
    """Listens while tests run, in every worker; one finding, and the run ends with status 1."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._ear: Ear | None = None
        self._found: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Begin with the first test, before its fixtures: not where tests are only handed out."""
        if self._ear is None:
            self._ear = self._open.enter_context(listening())

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Keep what this process itself printed and logged."""
        outcome: Any = yield
        for title, text in outcome.get_result().sections:
            if self._ear is not None and title.startswith("Captured"):
                self._ear.note(title, text)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Collect what a worker found."""
        self._found += getattr(node, "workeroutput", {}).get(_KEY, [])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge, once all fixtures are gone."""
        if self._ear is not None:
            self._found += self._ear.findings()
            self._open.close()
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_KEY] = self._found
        elif self._found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name what was found and where, never how it reads."""
        if self._found:
            terminalreporter.section("private values in logs or errors", sep="=", red=True)
            for line in sorted(set(self._found)):
                terminalreporter.write_line(line)
