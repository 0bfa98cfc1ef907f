"""A vector index whose build really fails in the embedded Atlas: what says so and what mends it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern

from faces.database import FACES, Db
from faces.finder import Finder
from faces.search import SearchRequest
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from faces.watch import IndexState, Watch, list_indexes
from migrations.cli import main
from tests.conftest import ROOT
from tests.faces_made import row_of_faces, vector

INDEX = "faces_facenet128_v1"
Command = Callable[..., tuple[int, str]]


class Failing:
    """A database on an Atlas of its own that fails builds when it is told to."""

    def __init__(self, db: Db, marker: Path) -> None:
        self.db = db
        self.marker = marker

    @property
    def index(self) -> IndexState:
        return list_indexes(self.db)[INDEX]

    def until(self, status: str, *, queryable: bool) -> None:
        end = time.monotonic() + 60
        while (self.index.status, self.index.queryable) != (status, queryable):
            assert time.monotonic() < end, self.index
            time.sleep(0.05)


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    data = tmp_path / "atlas"
    command = [sys.executable, "-m", "tests.failing_atlas", "serve", "--data", str(data)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            uri = process.stdout.readline().strip()
            name = f"t_{secrets.token_hex(4)}"
            monkeypatch.setenv("MONGODB_URI", uri)
            monkeypatch.setenv("MONGODB_DATABASE", name)
            monkeypatch.setenv("FACE_MODEL", "facenet128")
            monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
            with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
                made = client.get_database(name, write_concern=WriteConcern(w="majority"))
                yield Failing(made, data / "fail")
        finally:
            process.terminate()
            process.wait(60)
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, "".join(capsys.readouterr())

    return run


def test_a_rebuild_that_fails_goes_on_serving_and_up_mends_it(
    failing: Failing, command: Command
) -> None:
    assert command("up", "--wait")[0] == 0
    store = Store(failing.db)
    ref = MediaRef("default", "a", "api", "a")
    store.put_item(ref, MediaInfo(), row_of_faces(1), content="s")
    finder = Finder(failing.db, Watch(failing.db))

    def served() -> bool:
        (row,) = finder.vectors(SearchRequest(), [vector(1)]).faces
        return [match.media_id for match in row] == ["a"]

    end = time.monotonic() + 60
    while not served():
        assert time.monotonic() < end
        time.sleep(0.05)

    # Somebody redefines the index by hand, and that build fails.
    failing.marker.touch()
    fields = [f for f in failing.index.definition["fields"] if f["path"] != "facets"]
    failing.db.command(
        {"updateSearchIndex": FACES, "name": INDEX, "definition": {"fields": fields}}
    )
    failing.until("FAILED", queryable=True)
    assert served()
    state = Watch(failing.db).problems()["index_state"]
    assert "last build" in state
    assert "still answers" in state
    code, said = command("status")
    assert code == 1
    assert f"{INDEX}: FAILED, queryable" in said
    assert '+ {"path": "facets", "type": "filter"}' in said
    assert "still answers" in said

    # The repair's own build fails, too: the definition is right now, the state is not.
    assert command("up")[0] == 0
    failing.until("FAILED", queryable=True)
    code, said = command("plan")
    assert f"the last build of {INDEX} failed" in said
    assert "still answers" in said
    assert '"updateSearchIndex"' in said
    code, said = command("up", "--wait")
    assert code == 1, said
    assert "last build" in said
    assert served()

    failing.marker.unlink()
    assert command("up", "--wait")[0] == 0
    failing.until("READY", queryable=True)
    assert command("status")[0] == 0
    assert served()
    assert Watch(failing.db).problems() == {}


def test_a_first_build_that_fails_is_told_at_once_and_mended(
    failing: Failing, command: Command
) -> None:
    failing.marker.parent.mkdir(exist_ok=True)
    failing.marker.touch()
    code, said = command("up", "--wait")
    assert code == 1
    assert "last build" in said
    assert "cannot answer yet" in said
    assert "cannot answer yet" in Watch(failing.db).problems()["vector_index"]
    assert command("status")[0] == 1
    failing.marker.unlink()
    assert command("up", "--wait")[0] == 0
    assert failing.index.status == "READY"
