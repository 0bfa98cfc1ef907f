"""Which encoder this process has at the moment. Models load in a thread behind the bound port.

The database's active model is what must be loaded; until it is known, the configured one is. While
a switch is being prepared the next model is loaded beside it, and after the flip it takes over
without a gap. A request keeps the pipeline with which it began.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from faces.errors import (
    EncoderUnavailable,
    FaceRecognitionDisabled,
    LikenessError,
    Loading,
    ModelMismatch,
)

if TYPE_CHECKING:
    from faces.loading import AnyPipeline

State = Literal["disabled", "loading", "ready", "unavailable", "mismatch"]
CHECK_SECONDS = 0.5
BEAT_SECONDS = 2.0
RETRY_SECONDS = 15.0
ANY_MODEL = "*"
"""What a process says that encodes nothing: it stands in the way of no model."""
JOIN_SECONDS = 1.0
"""At the end the thread may be waiting for a database that is away: nobody waits for it."""
UNDECIDED = ""
"""Stands for the model that nobody has chosen yet."""
KEEP_SECONDS = 10.0
"""A model that is neither active nor next stays loaded for so long: a flip may be undone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The keys of the model to serve with and of the one to have ready; None: not known, none."""

    active: str | None
    upcoming: str | None = None


class Files(Protocol):
    """The model files of this machine."""

    def present(self, key: str) -> bool:
        """Whether the files that the model needs are there."""
        ...

    def fetch(self, key: str | None, stopping: threading.Event) -> str | None:
        """Get them; without a key also decide on the model.

        None when they are there now, else a sentence that says why not.
        """
        ...


Beat = Callable[[list[str], str | None], None]


class _Loaded:
    """A pipeline, how many requests use it, and since when nobody wants it."""

    def __init__(self, pipeline: AnyPipeline) -> None:
        self.pipeline = pipeline
        self.users = 0
        self.unwanted_since: float | None = None


class Engine:
    """Loads and holds pipelines.

    `wanted` is asked twice a second, `load` makes a pipeline, `beat` tells the database which
    models are loaded and what keeps the next one from being so.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        wanted: Callable[[], Wanted],
        load: Callable[[str], AnyPipeline],
        files: Files,
        beat: Beat | None = None,
    ) -> None:
        self._wanted = wanted
        self._load = load
        self._files = files
        self._beat = beat
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._serving: str | None = None
        self._stopping = threading.Event()
        self._retry_at: dict[str, float] = {}
        self._problem: str | None = None
        self._beaten = 0.0
        self.beating = False
        self._thread: threading.Thread | None = None
        self._log = structlog.get_logger("likeness.engine")
        self.state: State = "loading" if enabled else "disabled"
        self.reason = (
            "The models are still loading."
            if enabled
            else "Face recognition is switched off (FACE_RECOGNITION_ENABLED=false)."
        )

    @property
    def model(self) -> str | None:
        """The key of the model that is served with."""
        return self._serving

    @property
    def build(self) -> str | None:
        """The build of the encoder that is served with."""
        loaded = self._loaded.get(self._serving or "")
        return loaded.pipeline.build if loaded and self.state == "ready" else None

    def start(self) -> None:
        """Begin loading in the background; a process that encodes nothing only says so."""
        if self._thread is None and (self.state != "disabled" or self._beat is not None):
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def load_now(self) -> None:
        """Load before returning, for LAZY_LOAD_ML=false."""
        if self.state != "disabled":
            self._step()

    def stop(self) -> None:
        """End the thread and close the pipelines."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        with self._lock:
            loaded, self._loaded = list(self._loaded.values()), {}
        for one in loaded:
            one.pipeline.close()

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
    def pipeline(self, key: str | None = None) -> Iterator[AnyPipeline]:
        """The pipeline of a model (None: of the one that is served with) for one request.

        Raises as `check` does, and Loading when the model `key` is not loaded.
        """
        self.check()
        with self._lock:
            loaded = self._loaded.get(key or self._serving or "")
            if loaded is None:
                raise Loading("The service is just switching to another model.", retry_after=2)
            loaded.users += 1
        try:
            yield loaded.pipeline
        finally:
            with self._lock:
                loaded.users -= 1

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Exception as error:
                # Whatever it is, the port stays open and the reason is told; then we try again.
                name = type(error).__name__
                self._fail(None, f"The models could not be loaded ({name}).", name)
            self._stopping.wait(CHECK_SECONDS)

    def _step(self) -> None:
        if self.state == "disabled":
            self._tell([ANY_MODEL])
            return
        wanted = self._wanted()
        if wanted.active is None:
            self._decide()
        elif self._have(wanted.active):
            self._serve(wanted.active)
        if wanted.upcoming is None:
            self._problem = None
        else:
            self._prepare(wanted.upcoming)
        self._drop(wanted)
        self._tell(sorted(self._loaded))

    def _decide(self) -> None:
        """Nobody has chosen a model yet: have it done, or say that it has to be."""
        if time.monotonic() < self._retry_at.get(UNDECIDED, 0.0):
            return
        problem = self._files.fetch(None, self._stopping)
        if problem is not None:
            self._fail(UNDECIDED, problem, "ModelFileError")

    def _have(self, key: str) -> bool:
        """Whether the model is loaded now; if not, `state` and `reason` say why."""
        if key in self._loaded:
            return True
        if time.monotonic() < self._retry_at.get(key, 0.0):
            return False
        problem = self._get(key)
        if problem is not None:
            self._fail(key, problem, "ModelFileError")
        return problem is None

    def _prepare(self, key: str) -> None:
        if key in self._loaded or time.monotonic() < self._retry_at.get(key, 0.0):
            return
        self._problem = self._get(key)
        if self._problem is not None:
            self._retry_at[key] = time.monotonic() + RETRY_SECONDS

    def _get(self, key: str) -> str | None:
        """Load a model. None when it is loaded, else a sentence that says why it is not."""
        if not self._files.present(key):
            if self._serving is None:
                self.state = "loading"
                self.reason = f"The model {key} is being fetched; this happens once."
            problem = self._files.fetch(key, self._stopping)
            if problem is not None:
                return problem
        began = time.monotonic()
        try:
            pipeline = self._load(key)
        except (LikenessError, OSError) as error:
            detail = error.detail if isinstance(error, LikenessError) else type(error).__name__
            return (
                f"The encoder cannot be used: {detail} "
                f"`python -m faces.models verify` shows what is there, "
                f"`python -m faces.models fetch {key}` gets what is missing."
            )
        except MemoryError:
            # Of the next model, too: what serves goes on serving, and the switch hears of it.
            return (
                f"There is not enough memory for {key} beside what is loaded: take a larger "
                "machine, or fewer processes on it."
            )
        with self._lock:
            self._loaded[key] = _Loaded(pipeline)
        ms = round((time.monotonic() - began) * 1000)
        self._log.info("model_loaded", model=key, ms=ms)
        return None

    def _serve(self, key: str) -> None:
        """Serve with a loaded model, when its encoder is well and makes the right vectors."""
        pipeline = self._loaded[key].pipeline
        try:
            pipeline.check()
        except Loading as error:
            self.state, self.reason = "loading", error.detail
            return
        except ModelMismatch as error:
            self.state, self.reason = "mismatch", error.detail
            return
        except LikenessError as error:
            self._fail(None, error.detail, type(error).__name__)
            return
        if pipeline.model != key:
            self.state = "mismatch"
            self.reason = (
                f"The database's active model is {key}, but the configured encoder makes vectors "
                f"of {pipeline.model}. Configure an encoder for {key}, or switch the database "
                f"with `python -m migrations model {pipeline.model}`."
            )
            return
        self._serving, self.state, self.reason = key, "ready", ""

    def _drop(self, wanted: Wanted) -> None:
        """Close what nobody has wanted for a while and nobody uses."""
        now = time.monotonic()
        gone: list[_Loaded] = []
        with self._lock:
            for key, loaded in list(self._loaded.items()):
                if key in (wanted.active, wanted.upcoming, self._serving):
                    loaded.unwanted_since = None
                    continue
                loaded.unwanted_since = loaded.unwanted_since or now
                if now - loaded.unwanted_since > KEEP_SECONDS and not loaded.users:
                    gone.append(self._loaded.pop(key))
        for loaded in gone:
            loaded.pipeline.close()

    def _tell(self, models: list[str]) -> None:
        now = time.monotonic()
        if self._beat is None or now - self._beaten < BEAT_SECONDS:
            return
        self._beaten = now
        try:
            self._beat(models, self._problem)
            self.beating = True
        except LikenessError as error:
            self.beating = False
            self._log.warning("heartbeat_failed", error=type(error).__name__)

    def _fail(self, key: str | None, reason: str, error: str) -> None:
        if reason != self.reason:
            self._log.error("encoder_unavailable", error=error, reason=reason)
        self.state, self.reason = "unavailable", reason
        if key is not None:
            self._retry_at[key] = time.monotonic() + RETRY_SECONDS
