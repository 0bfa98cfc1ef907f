"""The original bytes of an indexed picture, read again from where they are: a folder or a URL."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from faces.errors import FetchError
from faces.records import Item
from faces.settings import Settings

if TYPE_CHECKING:
    from faces.fetch import Fetcher
    from faces.latefetch import LateFetcher

SAMPLES_SOURCE = "samples"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def folders_of(settings: Settings) -> dict[str, Path]:
    """The folder behind each source name that these settings know."""
    found = {SAMPLES_SOURCE: settings.var_dir / "samples" / "gallery"}
    if settings.cms_source == "folder" and settings.cms_folder is not None:
        name = settings.cms_source_name
        if not name:
            digest = hashlib.sha256(str(settings.cms_folder.resolve()).encode()).hexdigest()
            name = f"folder-{digest[:8]}"
        found[name] = settings.cms_folder
    return found


class Originals:
    """Reads originals. `folders` maps a source's name to its root, `fetcher` reads URLs."""

    def __init__(self, folders: Mapping[str, Path], fetcher: Fetcher | LateFetcher) -> None:
        self._folders = dict(folders)
        self._fetcher = fetcher

    def read(self, item: Item, *, max_bytes: int) -> bytes | None:
        """The bytes behind an item, at most `max_bytes`; None when they cannot be had from here.

        They may have changed since the item was indexed: compare their SHA-256 where it matters.
        """
        root = self._folders.get(item.source)
        if root is not None:
            return _read_file(root, item.source_key, max_bytes)
        if item.url and self._fetcher.allowed(item.url):
            try:
                return self._fetcher.get(item.url, max_bytes=max_bytes).body
            except FetchError:
                return None
        return None


def _read_file(root: Path, key: str, max_bytes: int) -> bytes | None:
    try:
        with _open_below(root, key) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > max_bytes:
                return None
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read(max_bytes + 1)
    except (OSError, ValueError):
        return None
    return data if len(data) <= max_bytes else None


@contextlib.contextmanager
def _open_below(root: Path, key: str) -> Iterator[int]:
    """A descriptor of the file at `key`, reached from `root` without following a link below it."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError("the key leads out of the folder")
    fd = os.open(root.resolve(), _DIRECTORY)
    try:
        for index, part in enumerate(parts):
            inner = os.open(part, _FILE if index == len(parts) - 1 else _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)
