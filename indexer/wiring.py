"""Builds a run's parts from the settings. Heavy imports wait until something needs them."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from faces.errors import ConfigError
from faces.settings import Settings
from indexer.sources.base import Source

if TYPE_CHECKING:
    from indexer.sources.media import MediaReader
    from indexer.sources.records import Reader

LISTING_TIMEOUT_S = 30.0


def source_of(settings: Settings, stopping: threading.Event) -> Source:
    """The configured source. Raises ConfigError, naming what is missing."""
    if settings.cms_source == "folder" and settings.cms_folder is not None:
        from indexer.sources.folder import FolderSource

        return FolderSource(settings.cms_folder)
    if settings.cms_source == "http" and settings.cms_http_url is not None:
        return _http(settings, settings.cms_http_url, stopping)
    if settings.cms_source == "mongo":
        return _mongo(settings, stopping)
    raise ConfigError(
        "No source is configured: set CMS_SOURCE to folder, mongo or http (with CMS_FOLDER, the"
        " CMS_MONGODB_… variables or CMS_HTTP_URL), or give --folder DIR."
    )


def name_of(settings: Settings, source: Source) -> str:
    """The source's name: CMS_SOURCE_NAME, else its kind and a digest of where it is."""
    if settings.cms_source_name:
        return settings.cms_source_name
    return f"{source.kind}-{hashlib.sha256(source.namespace.encode()).hexdigest()[:8]}"


def _http(settings: Settings, url: str, stopping: threading.Event) -> Source:
    from faces.addresses import origins_of
    from faces.fetch import Fetcher
    from indexer.sources.http import HttpSource

    listing = Fetcher(
        origins_of(url, setting="CMS_HTTP_URL"),
        timeout=LISTING_TIMEOUT_S,
        max_connections=2,
    )
    base = settings.cms_base_url or url
    return HttpSource(url, _reader(settings, base), listing, _media(settings, stopping), stopping)


def _mongo(settings: Settings, stopping: threading.Event) -> Source:
    from indexer.sources.connection import records_of
    from indexer.sources.mongo import MongoSource

    base = settings.cms_base_url
    return MongoSource(
        records_of(settings),
        _reader(settings, base),
        _media(settings, stopping),
        query=settings.cms_query,
    )


def _reader(settings: Settings, base: str | None) -> Reader:
    from indexer.sources.records import Fields, Reader

    return Reader(Fields.of(settings), base, frozenset(settings.cms_visible_statuses))


def _media(settings: Settings, stopping: threading.Event) -> MediaReader:
    from faces.addresses import media_origins
    from faces.fetch import Fetcher
    from indexer.sources.media import MediaReader

    return MediaReader(Fetcher(media_origins(settings)), stopping)
