"""The services of the API's tests, a browser, and the audit of what it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.api.conftest import (  # the fixtures of the API's tests
    gallery,
    migrated,
    probes,
    service,
    start,
)
from tests.ui.browser import Page

__all__ = ["gallery", "migrated", "probes", "service", "start"]
VAR = Path(__file__).resolve().parents[2] / "var"
SHOTS = VAR / "screenshots"
AXE = VAR / "ui" / "node_modules" / "axe-core" / "axe.min.js"
DRAWN = "[...document.querySelectorAll('img')].every((i) => i.complete || i.loading === 'lazy')"


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    if not AXE.exists():
        pytest.fail("axe-core is not there: `make test-ui` installs it with npm")
    return AXE.read_text()


@pytest.fixture
def page() -> Iterator[Page]:
    """A tab of a new browser; no test may leave a complaint on its console."""
    made = Page()
    yield made
    complaints = made.complaints
    made.close()
    assert not complaints


@pytest.fixture
def shot(page: Page, axe: str) -> Callable[[str], None]:
    """Audits what is shown, light and dark, and keeps screenshots under var/screenshots."""

    def take(name: str) -> None:
        page.until(DRAWN)
        for scheme, ending in ((True, "-dark"), (False, "")):
            page.dark(scheme)
            assert page.audit(axe) == [], f"{name}{ending}"
            page.screenshot(SHOTS / f"{name}{ending}.png")

    return take
