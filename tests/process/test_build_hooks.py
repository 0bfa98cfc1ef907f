"""What the platform runs during a build, and the files that it reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def hook(app: Path, name: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A hook as the buildpack runs it: in the app's folder, with the app's variables."""
    return subprocess.run(
        ["/bin/bash", f"bin/{name}"],
        cwd=app,
        env={"PATH": os.environ["PATH"], "HOME": str(app), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name in ("bin/pre_compile", "bin/post_compile", "build.sh", "requirements-heroku.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "requirements-gpu.txt").write_text("numpy==1\n")
    return tmp_path


def test_the_locked_requirements_go_where_the_buildpack_looks(app: Path) -> None:
    assert hook(app, "pre_compile").returncode == 0
    assert (app / "requirements.txt").read_bytes() == (
        ROOT / "requirements-heroku.txt"
    ).read_bytes()


def test_the_file_that_the_variable_names_is_taken(app: Path) -> None:
    done = hook(app, "pre_compile", PIP_REQUIREMENTS_FILE="requirements-gpu.txt")
    assert done.returncode == 0
    assert (app / "requirements.txt").read_text() == "numpy==1\n"


def test_a_differing_requirements_file_is_replaced_with_a_warning(app: Path) -> None:
    (app / "requirements.txt").write_text("flask\n")
    done = hook(app, "pre_compile")
    assert done.returncode == 0
    assert "Warning: requirements.txt differs from requirements-heroku.txt" in done.stderr
    assert "flask" not in (app / "requirements.txt").read_text()


def test_the_copy_that_the_guide_makes_by_hand_is_no_cause_for_a_warning(app: Path) -> None:
    shutil.copy(app / "requirements-heroku.txt", app / "requirements.txt")
    done = hook(app, "pre_compile")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_variable_may_name_requirements_txt_itself(app: Path) -> None:
    (app / "requirements.txt").write_text("flask\n")
    done = hook(app, "pre_compile", PIP_REQUIREMENTS_FILE="requirements.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert (app / "requirements.txt").read_text() == "flask\n"


@pytest.mark.parametrize(
    "name", ["../secret.txt", "/etc/passwd", "missing.txt", "a/../../x", "bin"]
)
def test_a_file_outside_the_repository_is_refused(app: Path, name: str) -> None:
    (app.parent / "secret.txt").write_text("x")
    done = hook(app, "pre_compile", PIP_REQUIREMENTS_FILE=name)
    assert done.returncode == 1
    assert "does not name a file of this repository" in done.stderr
    assert not (app / "requirements.txt").exists()


def test_a_link_out_of_the_repository_is_refused(app: Path) -> None:
    (app.parent / "secret.txt").write_text("x")
    (app / "link.txt").symlink_to(app.parent / "secret.txt")
    assert hook(app, "pre_compile", PIP_REQUIREMENTS_FILE="link.txt").returncode == 1


# A python that only notes how it was called, and fails when told to.
PYTHON = """#!/bin/bash
echo "model=$FACE_MODEL $*" >> "$CALLS"
[[ "$*" != *"$BROKEN"* ]]
"""


@pytest.fixture
def calls(app: Path) -> Path:
    (app / "python").write_text(PYTHON)
    (app / "python").chmod(0o755)
    return app / "calls"


def build(app: Path, calls: Path, **env: str) -> subprocess.CompletedProcess[str]:
    defaults = {"PYTHON": str(app / "python"), "CALLS": str(calls), "BROKEN": "no such words"}
    return hook(app, "post_compile", **{**defaults, "TMPDIR": str(app), **env})


def test_a_build_fetches_the_default_model_and_verifies_it(app: Path, calls: Path) -> None:
    done = build(app, calls)
    assert done.returncode == 0, done.stderr
    lines = calls.read_text().splitlines()
    assert "--require-hashes" in lines[0]
    assert "-r requirements-build.txt" in lines[0]
    assert lines[1] == "model=facenet512 -m faces.models fetch --discard-sources"
    assert lines[2] == "model=facenet512 -m faces.models verify"
    assert "-m compileall" in lines[3]
    assert not list(app.glob("tmp*")), "what only the build needs stayed behind"


def test_a_build_refuses_a_model_that_is_chosen_by_chance(app: Path, calls: Path) -> None:
    done = build(app, calls, FACE_MODEL="auto")
    assert done.returncode == 1
    assert "name a model" in done.stderr
    assert not calls.exists()


def test_a_build_without_its_model_fails(app: Path, calls: Path) -> None:
    done = build(app, calls, BROKEN="faces.models fetch", FACE_MODEL="facenet128-int8")
    assert done.returncode == 1
    assert "facenet128-int8 could not be built in" in done.stderr
    assert "compileall" not in calls.read_text()
    assert not list(app.glob("tmp*"))


@pytest.mark.parametrize("env", [{"FACE_RECOGNITION_ENABLED": "False"}, {"ENCODER": "remote"}])
def test_an_instance_that_runs_no_model_builds_none(
    app: Path, calls: Path, env: dict[str, str]
) -> None:
    done = build(app, calls, **env)
    assert done.returncode == 0
    assert "no model is built in" in done.stdout
    assert "faces.models" not in calls.read_text()


def test_the_web_process_is_told_its_workers_and_its_patience() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert set(lines) == {"release", "web", "worker"}
    assert "--workers 1" in lines["web"]
    assert "--graceful 15" in lines["web"]


def test_the_app_manifest_names_real_settings_and_generates_a_key() -> None:
    manifest = json.loads((ROOT / "app.json").read_text())
    known = {
        line.split("=", 1)[0]
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert set(manifest["env"]) - known <= {"PIP_REQUIREMENTS_FILE"}
    assert manifest["env"]["API_KEY"]["generator"] == "secret"
    assert manifest["buildpacks"] == [{"url": "heroku/python"}]


def test_what_the_instance_needs_is_not_ignored() -> None:
    ignored = {
        line.removeprefix("/").rstrip("/") for line in (ROOT / ".slugignore").read_text().split()
    }
    needed = {"app", "faces", "indexer", "migrations", "Procfile", "build.sh", "bin"}
    needed |= {"requirements-heroku.txt", "requirements-build.txt", ".python-version"}
    assert not ignored & needed
    assert {"tests", "localatlas", "var"} <= ignored
    for name in ignored - {"var"}:
        assert (ROOT / name).exists(), f"{name} is ignored, but there is no such file"
