"""The pipelines that a run needs: for the active model, and for the next one while it is prepared.

Each is loaded when the first picture asks for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from faces.errors import ConfigError
from faces.records import ActiveModel
from faces.settings import Settings
from faces.types import Analysis
from indexer.gather import Gather

if TYPE_CHECKING:
    from faces.loading import AnyPipeline

FRESH_S = 1.0


class Models:
    """Analyses pictures with the models that the database asks for at the time."""

    def __init__(self, settings: Settings, read: Callable[[], ActiveModel | None]) -> None:
        self._settings = settings
        self._read = read
        self._lock = threading.Lock()
        self._pipelines: dict[str, AnyPipeline] = {}
        self._gathers: dict[str, Gather] = {}
        self._active: ActiveModel | None = None
        self._looked = -FRESH_S

    @property
    def model(self) -> str:
        """The key of the active model."""
        return self._current().key

    def forget(self) -> None:
        """Look anew which models are asked for."""
        with self._lock:
            self._looked = -FRESH_S

    def analyse(self, data: bytes) -> tuple[Analysis, ...]:
        """All faces with the active model's embeddings, and, while a switch to another model is
        prepared, the same faces in the same order with that model's.
        """
        active = self._current()
        main = self._look(active.key, data)
        upcoming = active.next
        if not active.preparing or upcoming is None or upcoming.key == active.key:
            return (main,)
        detections = [face.detection for face in main.faces]
        return (main, self._pipeline(upcoming.key).embed_known(data, detections))

    def _look(self, key: str, data: bytes) -> Analysis:
        pipeline = self._pipeline(key)
        if self._settings.encoder != "remote":
            return pipeline.analyse(data)
        with self._lock:
            if key not in self._gathers:
                self._gathers[key] = _gather(pipeline)
            gather = self._gathers[key]
        return gather.analyse(data)

    def close(self) -> None:
        """End the decoders' processes and let go of the models."""
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._pipelines.clear()
        self._gathers.clear()

    def _current(self) -> ActiveModel:
        with self._lock:
            now = time.monotonic()
            if self._active is None or now - self._looked >= FRESH_S:
                self._active = self._read()
                self._looked = now
            if self._active is None:
                raise ConfigError(
                    "The database is not set up yet: run `python -m migrations up` first."
                )
            return self._active

    def _pipeline(self, key: str) -> AnyPipeline:
        with self._lock:
            if key not in self._pipelines:
                from faces.loading import load_pipeline

                self._pipelines[key] = load_pipeline(self._settings, key)
            return self._pipelines[key]


def _gather(pipeline: AnyPipeline) -> Gather:
    from faces.remote import BATCH_BYTES, BATCH_PHOTOS, RemotePipeline

    assert isinstance(pipeline, RemotePipeline)  # noqa: S101 - for the type only
    return Gather(pipeline.analyse_many, most=BATCH_PHOTOS, most_bytes=BATCH_BYTES)
