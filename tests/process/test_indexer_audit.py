"""`indexer audit` finds each kind of contradiction, changes nothing, and mends when told."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from faces import tombstones
from tests.indexing import Index, prepared


@pytest.fixture
def index(
    database: Database[dict[str, Any]],
    atlas: str,
    models_dir: Path,
    samples_dir: Path,
    tmp_path: Path,
) -> Index:
    index = prepared(database, atlas, models_dir)
    photo = sorted((samples_dir / "gallery").rglob("*.jpg"))[0]
    for number in range(8):
        shutil.copy(photo, tmp_path / f"{number}.jpg")
    index.env |= {"CMS_SOURCE": "folder", "CMS_FOLDER": str(tmp_path)}
    index.once()
    return index


def face(index: Index, number: int) -> dict[str, Any]:
    found = index.db.likeness_faces.find_one({"media_id": f"{number}.jpg"})
    assert found is not None
    return found


def found(index: Index, *arguments: str) -> dict[str, int]:
    done = index.run("audit", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [line.split(":") for line in done.stdout.splitlines() if not line.startswith("Nothing")]
    return {line[0]: int(line[1].split()[0].strip(";")) for line in lines}


def test_each_contradiction_is_found_and_mended(index: Index) -> None:
    assert set(found(index).values()) == {0}
    db = index.db
    now = dt.datetime.now(dt.UTC)
    set_face = {"$set": {"subject_id": "nobody"}}
    db.likeness_media.delete_one({"media_id": "0.jpg"})  # orphan face
    db.likeness_faces.delete_one({"_id": face(index, 1)["_id"]})  # media without its face
    db.likeness_faces.update_one({"_id": face(index, 2)["_id"]}, {"$set": {"builds": {}}})
    db.likeness_media.update_one({"media_id": "3.jpg"}, {"$set": {"pipeline_version": "0"}})
    db.likeness_faces.update_one({"_id": face(index, 4)["_id"]}, set_face)
    tombstones.write(db, [tombstones.of_item("default", "5.jpg", now)])
    tombstones.write(db, [tombstones.of_face(face(index, 6), now)])
    db.likeness_faces.update_one(
        {"_id": face(index, 7)["_id"]}, {"$set": {"embeddings.facenet128": [1.0, 0.0]}}
    )
    wrong = {
        "orphan faces": 1,
        "media without faces": 1,
        "stale model": 1,
        "stale pipeline": 1,
        "dangling subjects": 1,
        "tombstone violations": 2,
        "wrong vectors": 1,
    }
    before = index.state()
    assert found(index) == wrong
    assert index.state() == before, "a dry run by default"
    assert found(index, "--fix") == wrong
    index.once()
    assert found(index) == dict.fromkeys(wrong, 0)
    assert "5.jpg" not in index.media()
    assert not index.faces(media_id="6.jpg")
    assert face(index, 4)["subject_id"] is None
    assert face(index, 1)
    assert face(index, 0), "the source still has it, so it is indexed again"
