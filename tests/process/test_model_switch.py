"""A model upgrade on real photos, with searches running throughout and the tool killed at each
stage: facenet128 to sface and back."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern

from faces.database import FACES, Db
from faces.errors import LikenessError
from faces.finder import Finder
from faces.search import SearchRequest
from faces.store import Store
from faces.watch import Watch
from tests.conftest import ROOT, Atlas

PEOPLE, PHOTOS = 3, 3
PATIENCE = 900 if os.environ.get("CONTRACT_URI") else 120


class Service:
    """A migrated, indexed folder of photos and the commands that work on it."""

    def __init__(self, uri: str, folder: Path, models: Path) -> None:
        self.folder = folder
        self.name = f"t_{secrets.token_hex(4)}"
        self.environment = {
            **os.environ,
            "MONGODB_URI": uri,
            "MONGODB_DATABASE": self.name,
            "FACE_MODEL": "facenet128",
            "MODEL_DIR": str(models),
            "CMS_SOURCE": "folder",
            "CMS_FOLDER": str(folder),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        """Exit code and all output."""
        with self.start(*command) as process:
            out, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, out

    def kill_at(self, pattern: str, *command: str) -> None:
        """Runs a command and kills it when a line matches."""
        with self.start(*command) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if re.search(pattern, line):
                    process.kill()
                    break
            process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL, f"{pattern} was never said"


class Searches:
    """Searches by a stored face, again and again; every answer is kept, and every error."""

    def __init__(self, db: Db, face_id: str) -> None:
        self._finder = Finder(db, Watch(db))
        self._face = face_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[str, tuple[tuple[str, float], ...]]] = []
        self.errors: list[str] = []

    def __enter__(self) -> Searches:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            try:
                found = self._finder.by_face(SearchRequest(limit=5), self._face)
            except LikenessError as error:
                self.errors.append(repr(error))
            else:
                row = tuple((m.face_id, round(m.similarity, 4)) for m in found.faces[0])
                self.answers.append((found.model, row))


@pytest.fixture
def service(tmp_path: Path, models_dir: Path, samples_dir: Path) -> Iterator[tuple[Service, Db]]:
    folder = tmp_path / "photos"
    for person in sorted((samples_dir / "gallery").iterdir())[:PEOPLE]:
        (folder / person.name).mkdir(parents=True)
        for photo in sorted(person.iterdir())[:PHOTOS]:
            shutil.copy(photo, folder / person.name / photo.name)
    real = os.environ.get("CONTRACT_URI")
    atlas = None if real else Atlas(tmp_path / "atlas")
    uri = real or (atlas.uri if atlas else "")
    service = Service(uri, folder, models_dir)
    try:
        code, out = service.run("migrations", "up", "--wait")
        assert code == 0, out
        code, out = service.run("indexer", "once")
        assert code == 0, out
        with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
            made = client.get_database(service.name, write_concern=WriteConcern(w="majority"))
            yield service, made
            client.drop_database(made)
    finally:
        if atlas is not None:
            atlas.stop()


def unchanging(db: Db) -> dict[str, tuple[Any, ...]]:
    """What an upgrade must not touch, by face."""
    return {
        face["_id"]: (face["subject_id"], face["metadata"], face["box"], face["created_at"])
        for face in db[FACES].find()
    }


def test_there_and_back_without_a_wrong_answer(service: tuple[Service, Db]) -> None:
    likeness, db = service
    store = Store(db)
    faces = store.faces("default", limit=1000).items
    assert len(faces) >= PEOPLE * PHOTOS
    store.subjects.create("default", "ann", "Ann")
    store.subjects.assign("default", "ann", [faces[0].face_id])
    gone = next(face for face in faces if face.media_id != faces[0].media_id)
    of_gone = [face for face in faces if face.media_id == gone.media_id]
    (likeness.folder / gone.media_id).unlink()
    before = unchanging(db)

    with Searches(db, faces[0].face_id) as searches:
        for stage in ("createSearchIndexes", "embedding", r"embedded [1-9]"):
            likeness.kill_at(stage, "migrations", "model", "sface")

        # Two at once finish what the killed ones began; both say that a face is left.
        runs = [likeness.start("migrations", "model", "sface") for _ in range(2)]
        for run in runs:
            out, _ = run.communicate(timeout=PATIENCE)
            assert run.returncode == 1, out
            assert f"--leave-behind {len(of_gone)}" in out
        active = store.active_model()
        assert active is not None
        assert active.key == "facenet128"

        leave = ("--leave-behind", str(len(of_gone)))
        likeness.kill_at("preparing", "migrations", "model", "sface", *leave)
        code, out = likeness.run("migrations", "model", "sface", *leave)
        assert code == 0, out
        assert "sface is the active model" in out
        code, out = likeness.run("migrations", "status")
        assert code == 0, out
        assert f"{len(of_gone)} face(s) have no vector" in out
        flipped = len(searches.answers)
        wait_for(lambda: len(searches.answers) > flipped + 150)

        likeness.kill_at("preparing", "migrations", "model", "rollback")
        code, out = likeness.run("migrations", "model", "rollback")
        assert code == 0, out
        back = len(searches.answers)
        wait_for(lambda: len(searches.answers) > back + 150)
        code, out = likeness.run("migrations", "model", "prune")
        assert code == 0, out
        pruned = len(searches.answers)
        wait_for(lambda: len(searches.answers) > pruned + 50)

    assert searches.errors == []
    assert all(len(row) == 5 for _, row in searches.answers)
    models = [model for model, _ in searches.answers]
    changes = [model for n, model in enumerate(models) if n == 0 or models[n - 1] != model]
    assert changes == ["facenet128", "sface", "facenet128"]
    for model in set(models):
        assert len({row for name, row in searches.answers if name == model}) == 1
    assert unchanging(db) == before
    assert {tuple(face["embeddings"]) for face in db[FACES].find()} == {("facenet128",)}


def wait_for(holds: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
