"""The sample photos: a gallery and probes of a few people, to try things out on this machine.

They lie as `gallery/<person>/<file>` and `probes/<person>/<file>`. A manifest beside them, itself
of a known SHA-256, says what each file must be.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from faces.errors import ModelFileError
from faces.models.cards import SAMPLE_FOLDERS
from faces.models.files import sha256_of, write_atomically

MANIFEST = "manifest.json"
MANIFEST_SHA256 = "e3cd519ad86b4273ed7e916150ce31cf53481f7ee96fdf34f872078a3429395b"
PHOTO_CAP = 8 << 20
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


def place(member: str) -> str | None:
    """Where in the samples an archive's member belongs, `part/person/file`; None: nowhere."""
    for part, (folder, _) in SAMPLE_FOLDERS.items():
        names = member.removeprefix(folder).split("/")
        if member.startswith(folder) and len(names) == 2 and all(map(_SAFE.fullmatch, names)):
            return "/".join((part, *names))
    return None


def unpack(samples_dir: Path, photos: Iterator[tuple[str, IO[bytes]]]) -> None:
    """Writes the photos among an archive's members, and the manifest last.

    Raises ModelFileError when they are not exactly the photos expected; then no photo is written.
    """
    found: dict[str, bytes] = {}
    for member, file in photos:
        where = place(member)
        if where is not None:
            found[where] = file.read(PHOTO_CAP)
    manifest = json.dumps(
        {
            where: [len(data), hashlib.sha256(data).hexdigest()]
            for where, data in sorted(found.items())
        },
        indent=0,
    ).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    if digest != MANIFEST_SHA256:
        raise ModelFileError(
            f"The sample photos are not the expected ones: {len(found)} files of SHA-256 {digest},"
            f" expected {sum(count for _, count in SAMPLE_FOLDERS.values())} of {MANIFEST_SHA256}."
        )
    for where, data in found.items():
        path = samples_dir / where
        if not _same(path, len(data), hashlib.sha256(data).hexdigest()):
            write_atomically(path, data)
    write_atomically(samples_dir / MANIFEST, manifest)


def _same(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256


def problem(samples_dir: Path) -> str | None:
    """What is wrong with the sample photos, as a plain sentence; None when nothing is."""
    try:
        manifest = (samples_dir / MANIFEST).read_bytes()
    except OSError:
        return "the sample photos are not there"
    if hashlib.sha256(manifest).hexdigest() != MANIFEST_SHA256:
        return "the manifest of the sample photos is not the expected one"
    entries: dict[str, tuple[int, str]] = json.loads(manifest)
    wrong = [w for w, (size, sha) in entries.items() if not _same(samples_dir / w, size, sha)]
    if wrong:
        return f"{len(wrong)} of {len(entries)} sample photos are missing or damaged"
    return None
