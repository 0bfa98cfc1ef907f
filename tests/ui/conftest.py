"""The services of the API's tests, and a browser."""

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
SHOTS = Path(__file__).resolve().parents[2] / "var" / "screenshots"


@pytest.fixture
def page() -> Iterator[Page]:
    """A tab of a new browser; no test may leave a complaint on its console."""
    made = Page()
    yield made
    complaints = made.complaints
    made.close()
    assert not complaints


@pytest.fixture
def shot(page: Page) -> Callable[[str], None]:
    """Keeps a screenshot under var/screenshots."""
    return lambda name: page.screenshot(SHOTS / f"{name}.png")
