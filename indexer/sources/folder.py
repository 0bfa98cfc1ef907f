"""Pictures in a folder: every regular file below a root, by its path relative to it.

Directories are opened one within the other by descriptor and without following links, so that no
link, and nothing swapped in while we look, leads out of the root. Names keep their bytes in the
source key; hidden names and other kinds of file than pictures by their suffix are passed over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from faces.errors import ConfigError
from indexer.sources.base import (
    Body,
    Entry,
    Gone,
    Listed,
    Listing,
    SourceUnreadable,
    Unreadable,
    Unusable,
    media_id_of,
)

PAGE = 200
# What cameras and editors call pictures. Whether a file is one is decided later, by its bytes.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".heic", ".heif", ".avif", ".tif",
     ".tiff", ".bmp")
)  # fmt: skip
_MAX_DEPTH = 64
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FolderSource:
    """The pictures below `root`. Raises ConfigError when `root` is not a readable folder."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        try:
            self._root = root.resolve(strict=True)
            self._fd = os.open(self._root, _DIRECTORY)
        except OSError as error:
            raise ConfigError(
                f"The folder to index cannot be opened ({errno.errorcode.get(error.errno or 0)}):"
                " check CMS_FOLDER or --folder."
            ) from error
        self.namespace = str(self._root)

    def close(self) -> None:
        """Close the root."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def total(self) -> int | None:
        """How many entries a listing has now."""
        return sum(1 for _ in self._walk(self._fd, "", 0))

    def pages(self, cursor: str | None) -> Iterator[Listing]:
        """All entries in the order of their paths, after the key `cursor`."""
        page: list[Listed] = []
        for entry in self._walk(self._fd, "", 0):
            if cursor is not None and _order(entry.key) <= _order(cursor):
                continue
            if len(page) == PAGE:
                # The next begins behind a name that its file has, and that sorts as the file does.
                own = next((e.key for e in reversed(page) if isinstance(e, Entry)), page[-1].key)
                yield Listing(tuple(page), own)
                page = []
            page.append(entry)
        yield Listing(tuple(page), None)

    def absent(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that name no file any more."""
        return set(keys) - set(self.lookup(keys))

    def lookup(self, keys: Sequence[str]) -> dict[str, Listed]:
        """The entries of these paths, as a listing has them; one that it has not is left out.

        What cannot be looked at at the moment is there, and unusable.
        """
        looked = {key: self._look(key) for key in keys}
        return {key: listed for key, listed in looked.items() if listed is not None}

    def _look(self, key: str) -> Listed | None:
        parts = key.split("/")
        if not _is_picture(parts[-1]) or any(p.startswith(".") or p == "" for p in parts):
            return None
        if "\0" in key or len(parts) > _MAX_DEPTH + 1:
            return None
        try:
            with self._parent(parts) as fd:
                found = os.stat(parts[-1], dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            return None if error.errno in _NOT_THERE else _unreadable(key)
        return None if stat.S_ISDIR(found.st_mode) else _entry(key, found)

    @contextlib.contextmanager
    def _parent(self, parts: Sequence[str]) -> Iterator[int]:
        """A descriptor of the folder of a path, reached from the root without following a link."""
        fd = os.dup(self._fd)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def read(self, entry: Entry, *, max_bytes: int, etag: str | None, modified: str | None) -> Body:
        """The file's bytes. `etag` and `modified` mean nothing here: the version says it all."""
        with self._open(entry.key) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable("not_a_file", "It is not a regular file.", permanent=True)
            if found.st_size > max_bytes:
                raise Unreadable(
                    "image_too_large", f"It has more than {max_bytes} bytes.", permanent=True
                )
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise Unreadable("image_too_large", "It grew while it was read.", permanent=False)
        return Body(data)

    @contextlib.contextmanager
    def _open(self, key: str) -> Iterator[int]:
        """A descriptor of the file at `key`, reached from the root without following a link."""
        parts = key.split("/")
        if not key or any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise Unreadable("bad_path", "The path leads out of the folder.", permanent=True)
        try:
            with self._parent(parts) as folder:
                fd = os.open(parts[-1], _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in (*_NOT_THERE, errno.ENXIO):
                raise Gone from error
            raise Unreadable("unreadable", "The file cannot be read.", permanent=False) from error
        try:
            yield fd
        except OSError as error:
            raise Unreadable("unreadable", "The file cannot be read.", permanent=False) from error
        finally:
            os.close(fd)

    def _walk(self, fd: int, prefix: str, depth: int) -> Iterator[Listed]:
        """Entries below an open directory, in the order of their paths."""
        try:
            with os.scandir(fd) as found:
                names = sorted(
                    (entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in found
                    if not entry.name.startswith(".")
                )
        except OSError as error:
            raise SourceUnreadable(
                f"A folder could not be listed ({errno.errorcode.get(error.errno or 0)});"
                " nothing was deleted."
            ) from error
        for name, is_directory in names:
            key = prefix + name
            try:
                if not is_directory:
                    if _is_picture(name):
                        yield _entry(key, os.stat(name, dir_fd=fd, follow_symlinks=False))
                    continue
                if depth == _MAX_DEPTH:
                    yield _unlistable(key, "It is a folder in too many others.")
                    continue
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                continue
            except PermissionError:
                # One folder or file of somebody else's must not stop all the others.
                yield (
                    _unlistable(key, "It is a folder that this process may not open.")
                    if is_directory
                    else _unreadable(key)
                )
                continue
            except OSError as error:
                raise SourceUnreadable(
                    f"A folder could not be opened ({errno.errorcode.get(error.errno or 0)});"
                    " nothing was deleted."
                ) from error
            try:
                yield from self._walk(inner, key + "/", depth + 1)
            finally:
                os.close(inner)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _unreadable(key: str) -> Unusable:
    """What is there and cannot be looked at; whatever is stored of it stays."""
    return _unusable(key, "unreadable", "It cannot be looked at: check who may read it.")


def _unlistable(key: str, detail: str) -> Unusable:
    return _unusable(key, "unreadable_folder", f"{detail} Nothing in it was looked at.")


def _unusable(key: str, reason: str, detail: str) -> Unusable:
    media_id = media_id_of(key) if _encodable(key) else None
    if media_id is None:
        return Unusable(_safe(key), _safe(key), reason, detail, reason)
    return Unusable(key, media_id, reason, detail, reason)


def _order(key: str) -> list[str]:
    return key.split("/")


def _entry(key: str, found: os.stat_result) -> Listed:
    version = f"{found.st_mtime_ns}-{found.st_size}"
    media_id = media_id_of(key) if _encodable(key) else None
    if media_id is None:
        return Unusable(
            _safe(key), _safe(key), "bad_name", "Its name cannot be a media id.", version
        )
    if not stat.S_ISREG(found.st_mode):
        return Unusable(key, media_id, "not_a_file", "It is not a regular file.", version)
    return Entry(key, media_id, version)


def _encodable(key: str) -> bool:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _safe(key: str) -> str:
    """A name for an entry whose own cannot be stored: printable, shortened, without surrogates.

    No other entry has it, whatever is replaced or left out, and no picture, as it ends otherwise.
    """
    text = key.encode("utf-8", "backslashreplace").decode("utf-8")
    shown = "".join(c if c.isprintable() else "?" for c in text)[:200]
    return f"{shown}~{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"
