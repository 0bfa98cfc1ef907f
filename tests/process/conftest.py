"""Fixtures of the tests that start processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests import media_server
from tests.cms import Cms
from tests.indexing import prepared


@pytest.fixture
def cms(
    database: Database[dict[str, Any]], atlas: str, models_dir: Path, samples_dir: Path
) -> Iterator[Cms]:
    photos = [
        sorted(person.iterdir())[number].read_bytes()
        for number in range(3)
        for person in sorted((samples_dir / "gallery").iterdir())
    ]
    index = prepared(database, atlas, models_dir)
    client: MongoClient[dict[str, Any]] = MongoClient(atlas, tz_aware=True)
    name = f"{database.name}_cms"
    with client, media_server.serving() as media:
        index.env |= {
            "CMS_SOURCE": "mongo",
            "CMS_SOURCE_NAME": "cms",
            "CMS_MONGODB_DATABASE": name,
            "CMS_MONGODB_COLLECTION": "media",
            "CMS_VISIBLE_STATUSES": "published",
            "MEDIA_ALLOWED_HOSTS": media.origin,
        }
        yield Cms(client[name]["media"], media, index, photos)
        client.drop_database(name)
