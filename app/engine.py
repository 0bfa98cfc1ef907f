"""Which encoder this process has at the moment. Models load in a thread behind the bound port.

The database's active model is what must be loaded; until it is known, the configured one is. A
request keeps the pipeline with which it began; the one that was replaced closes after its last.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import structlog

from faces import processes
from faces.errors import (
    EncoderUnavailable,
    FaceRecognitionDisabled,
    LikenessError,
    Loading,
    ModelFileError,
    ModelMismatch,
)

if TYPE_CHECKING:
    from faces.loading import AnyPipeline as Pipeline

State = Literal["disabled", "loading", "ready", "unavailable", "mismatch"]
CHECK_SECONDS = 1.0
RETRY_SECONDS = 15.0
FETCH_SECONDS = 1800.0


class _Loaded:
    """A pipeline and how many requests use it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.users = 0
        self.retired = False


class Engine:
    """Loads and holds the pipeline.

    `wanted` gives the key of the model to have now (None: not known yet), `load` makes its
    pipeline, `present` says whether its files are there, `may_fetch` whether they may be fetched.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        wanted: Callable[[], str | None],
        load: Callable[[str], Pipeline],
        present: Callable[[str], bool] = lambda key: True,
        may_fetch: bool = False,
    ) -> None:
        self._wanted = wanted
        self._load = load
        self._present = present
        self._may_fetch = may_fetch
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._stop = threading.Event()
        self._fetched: set[str] = set()
        self._retry_at = 0.0
        self._thread: threading.Thread | None = None
        self._starter: subprocess.Popen[bytes] | None = None
        self._log = structlog.get_logger("likeness.engine")
        self.state: State = "loading" if enabled else "disabled"
        self.reason = (
            "The models are still loading."
            if enabled
            else "Face recognition is switched off (FACE_RECOGNITION_ENABLED=false)."
        )

    @property
    def model(self) -> str | None:
        """The key of the loaded model."""
        loaded = self._loaded
        return loaded.pipeline.model if loaded else None

    @property
    def build(self) -> str | None:
        """The build of the loaded encoder."""
        loaded = self._loaded
        return loaded.pipeline.build if loaded else None

    def start(self) -> None:
        """Begin loading in the background."""
        if self.state != "disabled" and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def load_now(self) -> None:
        """Load before returning, for LAZY_LOAD_ML=false."""
        if self.state != "disabled":
            self._step()

    def stop(self) -> None:
        """End the thread and close the pipeline."""
        self._stop.set()
        fetch = self._starter
        if fetch is not None:
            processes.stop([fetch], grace=2)
        if self._thread is not None:
            self._thread.join(5)
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.pipeline.close()

    def check(self) -> None:
        """Raises what a face route has to answer while the encoder is not usable."""
        if self.state == "disabled":
            raise FaceRecognitionDisabled(retry_after=3600)
        if self.state == "loading":
            raise Loading(self.reason, retry_after=2)
        if self.state == "unavailable":
            raise EncoderUnavailable(self.reason, retry_after=RETRY_SECONDS)
        if self.state == "mismatch":
            raise ModelMismatch(self.reason)

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline for the length of one request. Raises as `check` does."""
        self.check()
        with self._lock:
            loaded = self._loaded
            if loaded is None:
                raise Loading(retry_after=2)
            loaded.users += 1
        try:
            yield loaded.pipeline
        finally:
            with self._lock:
                loaded.users -= 1
                close = loaded.retired and loaded.users == 0
            if close:
                loaded.pipeline.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except Exception as error:
                # Whatever it is, the port stays open and the reason is told; then we try again.
                self._fail(f"The models could not be loaded ({type(error).__name__}).", error)
            self._stop.wait(CHECK_SECONDS)

    def _step(self) -> None:
        key = self._wanted()
        if key is None or time.monotonic() < self._retry_at:
            return
        loaded = self._loaded
        if loaded is not None and loaded.pipeline.model == key:
            self.state, self.reason = "ready", ""
            return
        if not self._present(key) and not self._fetch(key):
            return
        try:
            began = time.monotonic()
            pipeline = self._load(key)
        except (LikenessError, OSError) as error:
            detail = error.detail if isinstance(error, LikenessError) else ""
            self._fail(
                f"The encoder cannot be used: {detail or type(error).__name__} "
                f"Run `python -m faces.models fetch {key}`.",
                error,
            )
            return
        if pipeline.model != key:
            pipeline.close()
            self.state = "mismatch"
            self.reason = (
                f"The database's active model is {key}, but the configured encoder makes vectors "
                f"of {pipeline.model}. Configure an encoder for {key}, or switch the database "
                f"with `python -m migrations model {pipeline.model}`."
            )
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        self._swap(_Loaded(pipeline))
        self.state, self.reason = "ready", ""
        ms = round((time.monotonic() - began) * 1000)
        self._log.info("encoder_ready", model=key, build=pipeline.build[:12], ms=ms)

    def _swap(self, new: _Loaded) -> None:
        with self._lock:
            old, self._loaded = self._loaded, new
            close = old is not None and old.users == 0
            if old is not None:
                old.retired = True
        if old is not None and close:
            old.pipeline.close()

    def _fail(self, reason: str, error: Exception) -> None:
        if reason != self.reason:
            self._log.error("encoder_unavailable", error=type(error).__name__, reason=reason)
        self.state, self.reason = "unavailable", reason
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _fetch(self, key: str) -> bool:
        """Fetch the model's files once, as a process. Whether they are there now."""
        command = f"python -m faces.models fetch {key}"
        if not self._may_fetch or key in self._fetched:
            reason = f"The files of the model {key} are missing. Run `{command}`."
            self._fail(reason, ModelFileError())
            return False
        self._fetched.add(key)
        self.state = "loading"
        self.reason = f"The model {key} is being fetched; this happens once."
        self._log.info("model_fetch", model=key)
        self._starter = processes.start(
            [sys.executable, "-m", "faces.models", "fetch", key], stdout=subprocess.DEVNULL
        )
        try:
            status = self._starter.wait(FETCH_SECONDS)
        except subprocess.TimeoutExpired:
            processes.stop([self._starter], grace=2)
            status = -1
        self._starter = None
        if status != 0 and not self._stop.is_set():
            reason = f"Fetching the model {key} failed. Run `{command}` to see why."
            self._fail(reason, ModelFileError())
        return status == 0
