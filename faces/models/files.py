"""Where the model files are, what is written down about them, and whether they still are right.

Beside each made file stands a record, `<file>.json`: size, SHA-256, and what it was made from and
how. It names a build without hashing 90 MB at each start; `verify` does the hashing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from faces.errors import ModelFileError
from faces.models.cards import CARDS, DETECTOR, DetectorCard, ModelCard, card

ACTIVE = "active"
NO_ROOM = 73
"""The exit status of `python -m faces.models` when the disk is full (EX_CANTCREAT of sysexits)."""
RECIPE_VERSION = 1
"""Grows when the same source gives other bytes than before, so that files are made anew."""


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """What a made file is."""

    key: str
    size: int
    sha256: str
    made_from: str
    recipe: str
    recipe_version: int


def encoder_path(models_dir: Path, key: str) -> Path:
    """Where a model's ONNX file is, or will be; raises ConfigError for an unknown key."""
    return models_dir / card(key).file


def detector_path(models_dir: Path) -> Path:
    """Where the detector's ONNX file is, or will be."""
    return models_dir / DETECTOR.file


def source_path(models_dir: Path, name: str) -> Path:
    """Where a file as published is kept, for checking and making anew."""
    return models_dir / "sources" / name


def record_path(file: Path) -> Path:
    """Where the record of a made file is."""
    return file.with_name(file.name + ".json")


def read_record(file: Path) -> BuildRecord | None:
    """The record of a made file; None when there is none that can be read."""
    try:
        values = json.loads(record_path(file).read_text("utf-8"))
        return BuildRecord(**values)
    except (OSError, ValueError, TypeError):
        return None


def write_record(file: Path, record: BuildRecord) -> None:
    """Writes the record of a made file, whole or not at all."""
    write_atomically(record_path(file), json.dumps(asdict(record), indent=1).encode() + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path` by one with this content; never leaves a part of it."""

    def write(part: Path) -> None:
        part.write_bytes(content)

    make_atomically(path, write)


def make_atomically(path: Path, make: Callable[[Path], object]) -> None:
    """Lets `make` write a temporary file beside `path` and puts it in place when that worked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, text = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    os.close(handle)
    part = Path(text)
    try:
        make(part)
        part.chmod(0o644)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_sha256(models_dir: Path, key: str) -> str:
    """The SHA-256 of a model's file, from its record, not hashed anew.

    Raises ModelFileError when the file is missing or of another size, with the command that helps.
    """
    file = encoder_path(models_dir, key)
    record = read_record(file)
    if record is None or not file.is_file() or file.stat().st_size != record.size:
        raise ModelFileError(
            f"The file of model {key} is missing or incomplete."
            f" Run `python -m faces.models fetch {key}`."
        )
    return record.sha256


def checked(models_dir: Path, made: ModelCard | DetectorCard) -> Path:
    """A made file whose bytes are those that its record names.

    Raises ModelFileError when it is missing or its bytes are others: a graph with one wrong weight
    still loads, and gives vectors that find the wrong people.
    """
    file = models_dir / made.file
    record = read_record(file)
    if record is None or not file.is_file() or sha256_of(file) != record.sha256:
        raise ModelFileError(
            f"{made.file} is missing or damaged. Run `python -m faces.models fetch` to mend it."
        )
    return file


def recorded_choice(models_dir: Path) -> str | None:
    """The model key that `auto` became here; None when nothing was decided yet."""
    try:
        key = (models_dir / ACTIVE).read_text("utf-8").strip()
    except OSError:
        return None
    return key if key in CARDS else None


def record_choice(models_dir: Path, key: str) -> None:
    """Writes down what `auto` became."""
    write_atomically(models_dir / ACTIVE, f"{key}\n".encode())


def problem(models_dir: Path, made: ModelCard | DetectorCard) -> str | None:
    """What is wrong with a made file, as a plain sentence; None when its bytes are right."""
    file = models_dir / made.file
    if not file.is_file():
        return f"{made.file} is not there"
    record = read_record(file)
    expected = made.sha256 or (record.sha256 if record else None)
    if expected is None or record is None:
        return f"{made.file} has no record of what it should be"
    if record.recipe_version != RECIPE_VERSION or record.made_from != made.made_from:
        return f"{made.file} was made by an earlier version"
    size = file.stat().st_size
    if size != record.size:
        return f"{made.file} has {size} bytes, not {record.size}"
    found = sha256_of(file)
    if found != expected:
        return f"{made.file} has SHA-256 {found}, not {expected}"
    return None
