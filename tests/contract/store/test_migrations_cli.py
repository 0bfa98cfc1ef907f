"""The command line of migrations: exit codes, and one plain sentence when something is wrong."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faces import tombstones
from faces.database import FACES, MIGRATIONS, Db, Document
from faces.errors import DatabaseUnavailable
from faces.models import files
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from migrations import census, cli
from migrations.cli import main
from tests.contract.store.conftest import connected
from tests.faces_made import row_of_faces

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Db]:
    """A fresh database that the environment names; no model files are there."""
    name = f"t_{secrets.token_hex(6)}"
    monkeypatch.setenv("MONGODB_URI", place)
    monkeypatch.setenv("MONGODB_DATABASE", name)
    monkeypatch.setenv("FACE_MODEL", "facenet128")
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    with connected(place) as client:
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def command(here: Db, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_from_nothing_to_agreement(command: Command, here: Db) -> None:
    code, out, _ = command("status")
    assert (code, "none is active" in out, "not applied" in out) == (1, True, True)
    code, out, _ = command("plan")
    sent = [json.loads(line) for line in out.splitlines() if not line.startswith("#")]
    assert code == 0
    assert [next(iter(one)) for one in sent][-1] == "createSearchIndexes"
    assert here.list_collection_names() == []
    assert command("up", "--wait")[0] == 0
    assert command("status")[0] == 0
    code, out, _ = command("up")
    assert (code, out) == (0, "Nothing to do.\n")


def test_drift_is_shown_and_exits_1(command: Command, here: Db) -> None:
    command("up", "--wait")
    live = next(iter(here[FACES].aggregate([{"$listSearchIndexes": {}}])))
    fields = [f for f in live["latestDefinition"]["fields"] if f["path"] != "facets"]
    definition = {"fields": fields}
    here.command({"updateSearchIndex": FACES, "name": live["name"], "definition": definition})
    code, out, _ = command("status")
    assert code == 1
    assert '+ {"path": "facets", "type": "filter"}' in out
    code, out, _ = command("plan")
    assert "MiB more disk" in out
    assert command("up")[0] == 0
    assert command("status")[0] == 0


def test_a_plan_counts_the_search_indexes_of_all_databases(
    command: Command, here: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = here.client[f"{here.name}_other"]
    field = {"type": "vector", "path": "v", "numDimensions": 3, "similarity": "cosine"}
    other["things"].insert_one({"v": [1.0, 2.0, 3.0]})
    other.command(
        {
            "createSearchIndexes": "things",
            "indexes": [{"name": "x", "type": "vectorSearch", "definition": {"fields": [field]}}],
        }
    )
    try:
        seen = census.take(here)
        assert seen.unseen == ()
        assert seen.count >= 1
        code, out, _ = command("plan")
        assert code == 0
        # Other tests of this worker have indexes on the same server.
        (line,) = [line for line in out.splitlines() if "on the cluster afterwards" in line]
        assert int(line.split()[1]) == seen.count + 1
        monkeypatch.setattr(census, "MOST", 0)
        assert f"{other.name}.things" in census.take(here).unseen
        code, out, _ = command("plan")
        assert "could not be looked into" in out
    finally:
        here.client.drop_database(other.name)


def test_the_build_is_noted_when_the_models_files_are_there(
    command: Command, here: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("up", "--wait")
    found = Store(here).active_model()
    assert found is not None
    assert found.build == ""
    monkeypatch.setattr(files, "build_sha256", lambda folder, key: f"build of {key}")
    assert command("up")[0] == 0
    found = Store(here).active_model()
    assert found is not None
    assert found.build == "build of facenet128"
    monkeypatch.setattr(files, "build_sha256", lambda folder, key: "another")
    command("up")
    found = Store(here).active_model()
    assert found is not None
    assert found.build == "build of facenet128", "a known build is never changed"


def test_a_differing_face_model_is_a_warning(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("up")
    monkeypatch.setenv("FACE_MODEL", "sface")
    code, _, err = command("up")
    assert code == 0
    assert "which wins" in err
    assert "migrations model sface" in err


def test_steps_of_a_newer_release_are_a_warning_unless_breaking(command: Command, here: Db) -> None:
    command("up")
    newer = {
        "_id": "0099_pre_newer",
        "kind": "step",
        "checksum": "x",
        "applied_at": Store(here).now(),
        "duration_ms": 1,
        "by": "x",
        "release": "9",
        "breaking": None,
    }
    here[MIGRATIONS].insert_one(newer)
    code, _, err = command("up")
    assert code == 0
    assert "0099_pre_newer" in err
    here[MIGRATIONS].update_one({"_id": "0099_pre_newer"}, {"$set": {"breaking": "9.0"}})
    code, _, err = command("up")
    assert code == 1
    assert "return to release 9.0" in err


def test_tombstones_travel_as_lines(command: Command, here: Db, tmp_path: Path) -> None:
    command("up")
    store = Store(here)
    ref = MediaRef("default", "é/1", "api", "é/1")
    made = store.put_item(ref, MediaInfo(), row_of_faces(1, 2), content="s")
    store.delete_face(made.faces[0].face_id)
    file = tmp_path / "stones.jsonl"
    assert command("tombstones", "export", str(file))[0] == 0
    assert len(file.read_text("utf-8").splitlines()) == 1
    code, out, _ = command("tombstones", "import", str(file))
    assert code == 0
    assert "imported 1 tombstones; deleted 0 items and 0 faces" in out
    file.write_text("not json\n", "utf-8")
    code, _, err = command("tombstones", "import", str(file))
    assert (code, err) == (1, "Line 1 is not an exported tombstone.\n")
    assert command("tombstones", "import", str(tmp_path / "absent"))[0] == 1


def test_an_export_that_fails_leaves_the_file_as_it_was(
    command: Command, here: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("up")
    absent = tmp_path / "absent" / "stones.jsonl"
    code, _, err = command("tombstones", "export", str(absent))
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be written: No such file or directory" in err
    file = tmp_path / "stones.jsonl"
    file.write_text("of yesterday", "utf-8")

    def cut_off(db: Db) -> Iterator[Document]:
        yield {"_id": "first"}
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(tombstones, "export", cut_off)
    assert command("tombstones", "export", str(file))[0] == 1
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("stones.jsonl", "of yesterday")
    ]


def test_an_export_goes_where_a_link_leads_and_is_for_the_same_readers(tmp_path: Path) -> None:
    """As root `/dev/stdout` itself became a file, where the shell had it lead to one."""
    file, link = tmp_path / "stones.jsonl", tmp_path / "latest"
    file.write_text("of yesterday", "utf-8")
    file.chmod(0o600)
    link.symlink_to(file)
    with cli._whole(link) as out:
        out.write("of today")
    assert link.is_symlink()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("of today", 0o600)
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_an_export_goes_into_a_pipe() -> None:
    """As that of `tombstones export /dev/stdout | gzip`."""
    end, begin = os.pipe()
    try:
        with cli._whole(Path(f"/dev/fd/{begin}")) as out:
            out.write("of today")
        assert os.read(end, 100) == b"of today"
    finally:
        os.close(end)
        os.close(begin)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model", "no-such-model"), "There is no model of that key"),
        (("model", "rollback"), "no model to roll back to"),
        (("model", "flip"), "No switch is being prepared"),
        (("up", "--to", "0000_pre_unknown"), "There is no such step"),
        (("model", "sface"), "sface"),  # its files are not here, and no worker lives
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    command: Command, here: Db, arguments: tuple[str, ...], said: str
) -> None:
    command("up", "--wait")
    ref = MediaRef("default", "a", "api", "a")
    Store(here).put_item(ref, MediaInfo(), row_of_faces(1), content="s")
    code, _, err = command(*arguments)
    assert code == 1
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_without_database_or_model(
    command: Command, here: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACE_MODEL", "auto")
    code, _, err = command("up")
    assert code == 1
    assert "faces.models fetch" in err
    monkeypatch.setenv("MONGODB_URI", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200")
    monkeypatch.setenv("MONGODB_TIMEOUT_MS", "300")
    code, _, err = command("status")
    assert code == 1
    assert "cannot be reached" in err
    monkeypatch.delenv("MONGODB_URI")
    assert command("status")[0] == 1
    assert command("size", "--faces", "1000")[0] == 0
    assert command("size", "--faces", "0")[0] == 2
