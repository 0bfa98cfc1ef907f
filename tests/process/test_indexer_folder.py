"""`indexer once` on a folder of real photos, as its user sees it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from faces.leases import Holder, Leases
from tests.indexing import Index, prepared


@pytest.fixture
def index(database: Database[dict[str, Any]], atlas: str, models_dir: Path) -> Index:
    return prepared(database, atlas, models_dir)


@pytest.fixture
def photos(samples_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with the first photos of each person."""

    def make(each: int = 1, name: str = "photos") -> Path:
        folder = tmp_path / name
        for person in sorted((samples_dir / "gallery").iterdir()):
            target = folder / person.name
            target.mkdir(parents=True, exist_ok=True)
            for photo in sorted(person.iterdir())[:each]:
                shutil.copy2(photo, target / photo.name)
        return folder

    return make


def jpegs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_indexed_once_and_then_left_alone(
    index: Index, photos: Callable[..., Path]
) -> None:
    folder = photos(2)
    count = len(jpegs(folder))
    said = index.once("--folder", str(folder), "--source-name", "press")
    assert f"press → default: {count} pictures" in said
    media, faces = index.media(), index.faces()
    assert sorted(media) == sorted(str(p.relative_to(folder)) for p in jpegs(folder))
    assert {row["source"] for row in media.values()} == {"press"}
    assert len(faces) >= count
    before = index.state()
    again = index.once("--folder", str(folder), "--source-name", "press")
    assert f"0 indexed (0 faces), {count} unchanged" in again
    assert index.state() == before
    # Touched, the bytes are read but not encoded; faces and ids stay.
    for path in jpegs(folder):
        os.utime(path, (1, 1))
    index.once("--folder", str(folder), "--source-name", "press")
    assert index.faces() == faces


def test_only_what_this_source_lost_is_deleted(index: Index, photos: Callable[..., Path]) -> None:
    first, second = photos(1, "first"), photos(1, "second")
    index.once("--folder", str(first), "--source-name", "first", "--collection", "default")
    index.db.likeness_collections.insert_one(
        {**(index.db.likeness_collections.find_one({"_id": "default"}) or {}), "_id": "other"}
    )
    index.once("--folder", str(second), "--source-name", "second", "--collection", "other")
    lost = jpegs(first)[0]
    kept = index.faces(collection="other")
    lost.unlink()
    said = index.once("--folder", str(first), "--source-name", "first")
    assert "1 deleted" in said
    assert str(lost.relative_to(first)) not in index.media(source="first")
    assert not index.faces(media_id=str(lost.relative_to(first)), source="first")
    assert index.faces(collection="other") == kept


def test_an_id_that_another_source_owns_is_a_recorded_conflict(
    index: Index, photos: Callable[..., Path]
) -> None:
    folder = photos(1)
    index.once("--folder", str(folder), "--source-name", "first")
    before = index.state()
    said = index.once("--folder", str(folder), "--source-name", "second")
    assert f"{len(jpegs(folder))} with an id that is taken" in said
    assert "CMS_SOURCE_NAME=first" in said, "it says what to do about it"
    assert index.state() == before


def test_broken_files_are_named_and_stop_nothing(index: Index, photos: Callable[..., Path]) -> None:
    folder = photos(1)
    whole = len(jpegs(folder))
    photo = jpegs(folder)[0].read_bytes()
    (folder / "text.jpg").write_text("no picture")
    (folder / "half.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to("/etc/hostname")
    (folder / "dir.jpg").mkdir()
    (folder / "loop").symlink_to(folder)
    (folder / "notes.txt").write_text("passed over")
    said = index.once("--folder", str(folder))
    assert f"{whole} indexed" in said
    for name, reason in {
        "text.jpg": "unsupported_image",
        "half.jpg": "truncated",
        "empty.jpg": "empty",
        "pipe.jpg": "not_a_file",
        "link.jpg": "not_a_file",
    }.items():
        assert f"{name} ({reason})" in said
        assert index.media()[name]["error"]["class"] == reason
    assert "notes.txt" not in said
    assert not any(key.startswith("loop") for key in index.media())
    # Lasting failures are not tried again; a mended file is indexed.
    (folder / "text.jpg").write_bytes(photo)
    again = index.once("--folder", str(folder))
    assert "1 indexed" in again
    assert "3 still broken" in again
    assert "half.jpg (truncated)" in again
    assert index.media()["text.jpg"]["state"] == "done"
    told = index.once("--folder", str(folder), "--again")
    assert "2 failed, 2 still broken" in told, "a link and a pipe have no bytes to look at"


def test_the_brake_holds_a_mass_deletion_until_told(
    index: Index, photos: Callable[..., Path]
) -> None:
    folder = photos(5)
    count = len(jpegs(folder))
    assert count > 20
    index.once("--folder", str(folder), "--source-name", "press")
    before = index.state()
    for path in jpegs(folder):
        path.unlink()
    said = index.once("--folder", str(folder), "--source-name", "press")
    assert "--allow-deletes" in said
    assert index.state() == before
    index.once("--folder", str(folder), "--source-name", "press", "--allow-deletes")
    assert not index.media()
    assert not index.faces()


def test_what_the_api_deleted_stays_deleted(index: Index, photos: Callable[..., Path]) -> None:
    folder = photos(1)
    index.once("--folder", str(folder), "--source-name", "press")
    media_id = str(jpegs(folder)[0].relative_to(folder))
    index.store.delete_item("default", media_id, source="api", tombstone=True)
    said = index.once("--folder", str(folder), "--source-name", "press")
    assert "1 deleted through the API and left out" in said
    assert media_id not in index.media()
    assert not index.faces(media_id=media_id)


def test_a_held_lease_ends_the_run_with_status_3(index: Index, photos: Callable[..., Path]) -> None:
    folder = photos(1)
    lease = Leases(index.db).acquire("source:press", Holder.this_process("test"), 60)
    assert lease is not None
    said = index.once("--folder", str(folder), "--source-name", "press", status=3)
    assert "another process is indexing this source" in said
    assert not index.media()
    lease.release()
    index.once("--folder", str(folder), "--source-name", "press")
    assert index.media()


def test_a_missing_folder_and_a_missing_setup_are_plain_sentences(
    index: Index, tmp_path: Path
) -> None:
    said = index.once("--folder", str(tmp_path / "none"), status=1)
    assert said.startswith("indexer: The folder to index cannot be opened")
    assert "No source is configured" in index.once(status=1)
    empty = index.once("--folder", str(tmp_path), status=1, MONGODB_DATABASE="t_not_set_up")
    assert "python -m migrations up" in empty
    lost = {"CMS_SOURCE": "folder", "CMS_FOLDER": str(tmp_path / "none")}
    status = index.run("status", **lost)
    assert status.returncode == 0
    assert "source: The folder to index cannot be opened" in status.stdout
    assert "jobs" in status.stdout


def test_names_are_normalised_and_the_original_kept(
    index: Index, photos: Callable[..., Path], samples_dir: Path
) -> None:
    folder = photos(0)
    photo = next(path for path in (samples_dir / "gallery").rglob("*") if path.is_file())
    decomposed = "cafe\u0301.jpg"
    shutil.copy(photo, folder / decomposed)
    (folder / os.fsdecode(b"bad\xff.jpg")).write_bytes(photo.read_bytes())
    said = index.once("--folder", str(folder))
    item = index.media()["caf\u00e9.jpg"]
    assert item["source_key"] == decomposed
    assert "(bad_name)" in said
    assert "1 unchanged" in index.once("--folder", str(folder))

    # The same name in the other way of writing: said, and never fetched for nothing.
    shutil.copy(photo, folder / "caf\u00e9.jpg")
    said = index.once("--folder", str(folder))
    assert "1 with an id that is taken" in said
    assert "NFC" in said
    assert index.media()["caf\u00e9.jpg"]["source_key"] == decomposed
