"""What the indexer's tests share: a prepared database, commands, and what is stored afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo.database import Database

from faces.models.files import build_sha256
from faces.store import Store
from migrations.runner import Runner
from migrations.step import discover

MODEL = "facenet128"
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Index:
    """A database of the service, and the environment in which its commands run."""

    db: Database[dict[str, Any]]
    env: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(self.db)

    def environment(self, **more: str) -> dict[str, str]:
        """The process environment with the index's own settings."""
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self.env, **more}

    def run(
        self, *arguments: str, timeout: float = 60, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """One finished `python -m indexer …`."""
        return subprocess.run(
            [sys.executable, "-m", "indexer", *arguments],
            cwd=ROOT,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def once(self, *arguments: str, status: int = 0, **env: str) -> str:
        """What `indexer once` printed, after checking its exit status."""
        done = self.run("once", *arguments, **env)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """A running `python -m indexer …`; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "indexer", *arguments],
            cwd=ROOT,
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def media(self, **query: object) -> dict[str, dict[str, Any]]:
        """The live items, by media id."""
        query = {"state": {"$ne": "gone"}, **query}
        return {row["media_id"]: row for row in self.db.likeness_media.find(query)}

    def faces(self, **query: object) -> dict[str, dict[str, Any]]:
        """The faces, by id."""
        return {row["_id"]: row for row in self.db.likeness_faces.find(query)}

    def state(self) -> dict[str, Any]:
        """What must be equal after an interrupted and an uninterrupted run: no times, no revs."""
        media = {
            row["_id"]: (row["state"], row.get("sha256"), row.get("face_count"), row.get("etag"))
            for row in self.db.likeness_media.find({"state": {"$ne": "gone"}})
        }
        faces = {
            row["_id"]: (row["media_id"], row["image_id"], row["box"], row["embeddings"])
            for row in self.db.likeness_faces.find()
        }
        return {"media": media, "faces": faces}


def prepared(db: Database[dict[str, Any]], uri: str, models_dir: Path) -> Index:
    """The index on an empty database, migrated."""
    index = Index(
        db,
        {
            "MONGODB_URI": uri,
            "MONGODB_DATABASE": db.name,
            "MODEL_DIR": str(models_dir),
            "FACE_MODEL": MODEL,
        },
    )
    active = Runner(db, discover(), lambda line: None).up(
        lambda: (MODEL, build_sha256(models_dir, MODEL))
    )
    assert active.active is not None
    return index
