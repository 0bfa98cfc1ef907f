"""A model file is what its record says, or it is not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from faces.errors import ModelFileError
from faces.models import cards, files

CARD = cards.card("facenet128")


def put(folder: Path, content: bytes) -> Path:
    path = folder / CARD.file
    path.write_bytes(content)
    record = files.BuildRecord(CARD.key, len(content), files.sha256_of(path), "a", "b", 1)
    files.write_record(path, record)
    return path


def test_right_bytes_are_used(tmp_path: Path) -> None:
    path = put(tmp_path, b"weights")
    assert files.checked(tmp_path, CARD) == path


@pytest.mark.parametrize("content", [b"weightz", b"weight", b"", None])
def test_other_bytes_are_not(tmp_path: Path, content: bytes | None) -> None:
    path = put(tmp_path, b"weights")
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"faces\.models fetch"):
        files.checked(tmp_path, CARD)


def test_a_file_without_a_record_is_not_used(tmp_path: Path) -> None:
    files.record_path(put(tmp_path, b"weights")).unlink()
    with pytest.raises(ModelFileError):
        files.checked(tmp_path, CARD)
