"""The doctor as a command, against a real database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from faces.search import index_name

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-that-must-not-be-seen"


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_migrated_database_is_well(atlas: str, database: Any, models_dir: Path) -> None:
    env = {
        "MONGODB_URI": f"{atlas}&readPreference=nearest",
        "MONGODB_DATABASE": database.name,
        "MODEL_DIR": str(models_dir),
        "FACE_MODEL": "facenet128-int8",
        "ENCODER_API_KEY": SECRET,
    }
    before = run("app", "doctor", **env)
    assert before.returncode == 1
    assert "run `python -m migrations up`" in before.stdout
    assert run("migrations", "up", "--wait", **env).returncode == 0
    done = run("app", "doctor", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{index_name('facenet128-int8')} is queryable (READY)" in done.stdout
    assert "readpreference is replaced" in done.stdout
    assert "no run of the indexer has succeeded yet" in done.stdout
    for hidden in (SECRET, atlas, "127.0.0.1"):
        assert hidden not in done.stdout + done.stderr


def test_an_index_of_another_shape_is_a_failure(
    atlas: str, database: Any, models_dir: Path
) -> None:
    env = {
        "MONGODB_URI": atlas,
        "MONGODB_DATABASE": database.name,
        "MODEL_DIR": str(models_dir),
        "FACE_MODEL": "facenet128-int8",
    }
    assert run("migrations", "up", "--wait", **env).returncode == 0
    faces = database["likeness_faces"]
    name = index_name("facenet128-int8")
    (index,) = list(faces.list_search_indexes(name))
    kept = [field for field in index["latestDefinition"]["fields"] if field["path"] != "hidden"]
    faces.update_search_index(name, {"fields": kept})
    done = run("app", "doctor", **env)
    assert done.returncode == 1
    assert "is defined otherwise than this version needs" in done.stdout


def test_a_database_that_is_away_is_a_failure_with_its_remedy() -> None:
    uri = f"mongodb://user:{SECRET}@127.0.0.1:9/?directConnection=true"
    done = run("app", "doctor", MONGODB_URI=uri, FACE_RECOGNITION_ENABLED="false")
    assert done.returncode == 1
    assert "network access list" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
