"""Builds a run's parts from the settings. Heavy imports wait until something needs them."""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from faces.errors import ConfigError
from faces.settings import Settings
from faces.types import Analysis
from indexer.sources.base import Source

if TYPE_CHECKING:
    from faces.loading import AnyPipeline as Pipeline
    from indexer.sources.media import MediaReader
    from indexer.sources.records import Reader

LISTING_TIMEOUT_S = 30.0
SAMPLES = "samples"


class LazyPipeline:
    """The pipeline for the active model, loaded when the first picture comes."""

    def __init__(self, settings: Settings, model: str) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.model = model

    def analyse(self, data: bytes) -> Analysis:
        """All faces of the picture with their embeddings."""
        with self._lock:
            pipeline = self._pipeline
        return pipeline.analyse(data)

    def close(self) -> None:
        """End the decoder's process if one was started."""
        if "_pipeline" in self.__dict__:
            self._pipeline.close()

    @cached_property
    def _pipeline(self) -> Pipeline:
        from faces.loading import load_pipeline

        return load_pipeline(self._settings, self.model)


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
        if settings.cms_source_name == "api":
            raise ConfigError("CMS_SOURCE_NAME: `api` is the name of what is put by HTTP")
        return settings.cms_source_name
    return f"{source.kind}-{hashlib.sha256(source.namespace.encode()).hexdigest()[:8]}"


def _http(settings: Settings, url: str, stopping: threading.Event) -> Source:
    from faces.addresses import parse_origins
    from faces.fetch import Fetcher
    from indexer.sources.http import HttpSource

    origin = _origin(url, "CMS_HTTP_URL")
    listing = Fetcher(
        parse_origins([origin], setting="CMS_HTTP_URL"),
        timeout=LISTING_TIMEOUT_S,
        max_connections=2,
    )
    base = settings.cms_base_url or url
    return HttpSource(
        url, _reader(settings, base), listing, _media(settings, base, stopping), stopping
    )


def _mongo(settings: Settings, stopping: threading.Event) -> Source:
    from indexer.sources.connection import records_of
    from indexer.sources.mongo import MongoSource

    base = settings.cms_base_url
    return MongoSource(
        records_of(settings),
        _reader(settings, base),
        _media(settings, base, stopping),
        query=settings.cms_query,
    )


def _reader(settings: Settings, base: str | None) -> Reader:
    from indexer.sources.records import Fields, Reader

    return Reader(Fields.of(settings), base, frozenset(settings.cms_visible_statuses))


def _media(settings: Settings, base: str | None, stopping: threading.Event) -> MediaReader:
    """Reads pictures from MEDIA_ALLOWED_HOSTS and from where CMS_BASE_URL itself points."""
    from faces.addresses import parse_origins
    from faces.fetch import Fetcher
    from indexer.sources.media import MediaReader

    origins = parse_origins(settings.media_allowed_hosts)
    if base is not None:
        origins += parse_origins([_origin(base, "CMS_BASE_URL")], setting="CMS_BASE_URL")
    return MediaReader(Fetcher(origins), stopping)


def _origin(url: str, setting: str) -> str:
    """`scheme://host:port` of a configured URL: the operator wrote it, so it may be private."""
    import httpx2

    try:
        parsed: Any = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{setting}: must be an http or https URL")
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.raw_host.decode("ascii")
    port = parsed.port or {"http": 80, "https": 443}[parsed.scheme]
    return f"{parsed.scheme}://{host}:{port}"
