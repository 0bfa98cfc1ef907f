"""The services of the API's tests, a browser, and the audit of what it shows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.api.conftest import (  # the fixtures of the API's tests
    Service,
    Start,
    gallery,
    migrate,
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


@pytest.fixture(scope="session")
def staffed(
    start: Start, atlas: str, gallery: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """A ready service with a worker, which has indexed a folder in which one photo is broken."""
    folder = tmp_path_factory.mktemp("cms")
    for media_id, path in gallery.items():
        shutil.copy(path, folder / media_id.replace("/", "-"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    running = start(
        "/readyz",
        **migrate(atlas),
        INDEXER_EMBEDDED="true",
        CMS_SOURCE="folder",
        CMS_FOLDER=str(folder),
    )
    limit = time.monotonic() + 120
    with running.client() as client:
        while time.monotonic() < limit:
            jobs = client.get("/v1/jobs").json()["items"]
            if any(job["kind"] == "backfill" and job["state"] == "succeeded" for job in jobs):
                return running
            time.sleep(0.2)
    pytest.fail(f"the folder was not indexed: {jobs}\n{running.log.read_text()[-2000:]}")


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
