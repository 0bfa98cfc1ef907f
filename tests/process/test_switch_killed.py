"""A switch, a rollback and a prune that are killed at every point between their writes: the same
command again finishes them, and searches are answered throughout."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern

from faces.database import FACES, Db
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from faces.watch import list_indexes
from migrations.runner import Runner
from migrations.step import discover
from tests.armed_migrations import PICTURE
from tests.conftest import ROOT
from tests.faces_made import MODEL, row_of_faces
from tests.process.test_model_switch import Searches, wait_for

SHA = hashlib.sha256(PICTURE).hexdigest()


class Tool:
    """`python -m migrations` on a database of made-up faces."""

    def __init__(self, uri: str, db: Db, folder: Path) -> None:
        self.db = db
        self.store = Store(db)
        self._environment = {
            **os.environ,
            "MONGODB_URI": uri,
            "MONGODB_DATABASE": db.name,
            "FACE_MODEL": MODEL,
            "VAR_DIR": str(folder),
        }

    def _run(self, point: str, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.armed_migrations", point, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def killed(self, point: str, *arguments: str) -> None:
        """It reaches the point and dies there."""
        code, out = self._run(point, *arguments)
        assert code == -signal.SIGKILL, (point, out)

    def ends(self, *arguments: str) -> str:
        """What it prints when it succeeds."""
        code, out = self._run("none", *arguments)
        assert code == 0, out
        return out

    @property
    def active(self) -> str:
        found = self.store.active_model()
        assert found is not None
        return found.key


@pytest.fixture
def tool(atlas: str, tmp_path: Path) -> Iterator[Tool]:
    with MongoClient[dict[str, Any]](atlas, tz_aware=True) as client:
        db = client.get_database(
            f"t_{secrets.token_hex(4)}", write_concern=WriteConcern(w="majority")
        )
        runner = Runner(db, discover(), lambda line: None)
        active = runner.up(lambda: (MODEL, "b1")).active
        assert active is not None
        runner.wait([active.index], 60)
        made = Tool(atlas, db, tmp_path)
        for n in range(3):
            ref = MediaRef("default", f"m{n}", "api", f"m{n}")
            seeds = (2 * n, 2 * n + 1)
            made.store.put_item(ref, MediaInfo(), row_of_faces(*seeds), content=SHA)
        yield made
        client.drop_database(db)


def test_killed_anywhere_the_same_command_again_finishes(tool: Tool) -> None:
    face_id = tool.store.faces("default", limit=1).items[0].face_id
    with Searches(tool.db, face_id) as searches:
        wait_for(lambda: any(len(row) == 5 for _, row in searches.answers))
        searches.errors.clear()  # while the index took up the first faces
        searches.answers.clear()

        for point in ("embedded", "before_flip", "in_flip"):
            tool.killed(point, "model", "sface")
            assert tool.active == MODEL, point
        tool.killed("flipped", "model", "sface")
        assert tool.active == "sface"
        assert "sface is the active model" in tool.ends("model", "sface")
        assert tool.store.jobs.active("reembed") is None, "the killed command's job was left"

        for point in ("noted", "in_flip"):
            tool.killed(point, "model", "rollback")
            assert tool.active == "sface", point
        tool.killed("flipped", "model", "rollback")
        assert tool.active == MODEL
        assert f"{MODEL} is the active model" in tool.ends("model", "rollback")
        assert tool.active == MODEL, "a repeated rollback went forth again"

        for point in ("forgotten", "dropped", "unset"):
            tool.killed(point, "model", "prune")
        tool.ends("model", "prune")
        seen = len(searches.answers)
        wait_for(lambda: len(searches.answers) > seen + 20)

    assert searches.errors == []
    assert all(len(row) == 5 for _, row in searches.answers)
    models = [model for model, _ in searches.answers]
    changes = [model for n, model in enumerate(models) if n == 0 or models[n - 1] != model]
    assert changes == [MODEL, "sface", MODEL]
    assert {tuple(face["embeddings"]) for face in tool.db[FACES].find()} == {(MODEL,)}
    wait_for(lambda: set(list_indexes(tool.db)) == {"faces_facenet128_v1"})
    assert Runner(tool.db, discover(), lambda line: None).plan().empty


def test_what_is_pruned_is_not_embedded_again_by_a_job_that_was_killed(tool: Tool) -> None:
    tool.killed("embedded", "model", "sface")
    assert tool.store.jobs.active("reembed") is not None
    tool.ends("model", "prune")
    assert tool.store.jobs.active("reembed") is None
    assert {tuple(face["embeddings"]) for face in tool.db[FACES].find()} == {(MODEL,)}
