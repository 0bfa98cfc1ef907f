"""A real service with access keys, spoken to through botocore alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import pytest

from tests.contract.api import conftest as api
from tests.private import MARK

KEYS = {
    "AKADMIN": (f"{MARK}-admin-secret", "admin"),
    "AKINDEX": (f"{MARK}-index-secret", "index"),
    "AKSEARCH": (f"{MARK}-search-secret", "search"),
    "AKBOUND": (f"{MARK}-bound-secret", "admin:bound-one+bound-two"),
}
Rekognition = Any
Speak = Callable[..., Rekognition]

start = api.start
migrated = api.migrated


@pytest.fixture(scope="session")
def service(start: api.Start, migrated: dict[str, str]) -> api.Service:
    """A ready service whose dialect has four access keys, and whose /v1 has none."""
    entries = ",".join(f"{key}:{secret}:{role}" for key, (secret, role) in KEYS.items())
    return start("/readyz", AWS_DIALECT_KEYS=entries, **migrated)


def client_for(
    url: str, access_key: str = "AKADMIN", secret: str | None = None, **options: Any
) -> Rekognition:
    """botocore's own client of the dialect, without retries."""
    session = botocore.session.Session()
    session.set_credentials(access_key, secret or KEYS[access_key][0], options.get("token"))
    config = botocore.config.Config(
        retries={"total_max_attempts": options.get("attempts", 1)},
        proxies={},
        read_timeout=60,
        parameter_validation=options.get("checked", True),
    )
    return session.create_client(
        "rekognition",
        region_name="eu-west-1",
        endpoint_url=url + options.get("path", "/aws"),
        config=config,
    )


@pytest.fixture(scope="session")
def speak(service: api.Service) -> Iterator[Speak]:
    """Makes clients, which are closed at the end."""
    made: list[Rekognition] = []

    def make(access_key: str = "AKADMIN", secret: str | None = None, **options: Any) -> Rekognition:
        client = client_for(service.url, access_key, secret, **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="session")
def rekognition(speak: Speak) -> Rekognition:
    """A client of the admin key."""
    return speak()


@pytest.fixture(scope="session")
def photos(samples_dir: Path) -> dict[str, list[bytes]]:
    """Some photos of each person: the gallery's first five and, last, a probe."""
    found: dict[str, list[bytes]] = {}
    for folder in sorted((samples_dir / "gallery").iterdir()):
        paths = sorted(folder.iterdir())[:5]
        paths += sorted((samples_dir / "probes" / folder.name).iterdir())[:1]
        found[folder.name] = [path.read_bytes() for path in paths]
    return found
