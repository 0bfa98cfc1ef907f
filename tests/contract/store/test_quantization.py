"""Changing an index's quantisation by command, and the gate that keeps a bad one from serving."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faces.database import FACES, MIGRATIONS, Db
from faces.finder import Finder
from faces.records import ActiveModel
from faces.search import SearchRequest
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from faces.watch import Watch, list_indexes
from migrations import recall, switching
from migrations.cli import main
from tests.contract.store.conftest import SECONDS, connected
from tests.faces_made import MODEL, row_of_faces, vector

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def here(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Db]:
    """A migrated database with twelve faces, which the environment names."""
    name = f"t_{secrets.token_hex(6)}"
    monkeypatch.setenv("MONGODB_URI", place)
    monkeypatch.setenv("MONGODB_DATABASE", name)
    monkeypatch.setenv("FACE_MODEL", MODEL)
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setattr(switching, "DRAIN_S", 0.0)
    with connected(place) as client:
        assert main(["up", "--wait"]) == 0
        for n in range(6):
            ref = MediaRef("default", f"m{n}", "api", f"m{n}")
            made = row_of_faces(2 * n, 2 * n + 1)
            Store(client[name]).put_item(ref, MediaInfo(), made, content="s")
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, "".join(capsys.readouterr())

    return run


def active(db: Db) -> ActiveModel:
    found = Store(db).active_model()
    assert found is not None
    return found


def finds(db: Db) -> None:
    """Every face is found by its own vector, with the similarity of the stored vectors."""
    finder = Finder(db, Watch(db))
    end = time.monotonic() + SECONDS
    while True:
        found = finder.vectors(SearchRequest(limit=1), [vector(n) for n in range(12)]).faces
        if [row[0].media_id for row in found if row] == [f"m{n // 2}" for n in range(12)]:
            break
        assert time.monotonic() < end, found
        time.sleep(0.05)
    for row in found:
        assert row[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_scalar_then_binary_and_back_each_on_an_index_of_its_own(
    here: Db, command: Command
) -> None:
    finds(here)
    before = {row["_id"]: row["embeddings"] for row in here[FACES].find()}
    for version, kind in enumerate(("scalar", "binary"), 2):
        code, said = command("model", MODEL, "--quantization", kind)
        assert code == 0, said
        assert "recall@10" in said
        now = active(here)
        assert (now.quantization, now.index) == (kind, f"faces_facenet128_v{version}")
        live = list_indexes(here)[now.index].definition["fields"][0]
        assert live["quantization"] == kind
        note = here[MIGRATIONS].find_one({"_id": f"index/{now.index}"})
        assert note is not None
        assert note["recall_at_10"] >= recall.LEAST
        finds(here)
        assert command("status")[0] == 0
    code, said = command("model", "rollback")
    assert code == 0, said
    assert active(here).quantization == "scalar"
    finds(here)
    # v3 is the binary one, to which it could be gone back: the next takes another name.
    code, said = command("model", MODEL)
    assert code == 0, said
    assert (active(here).quantization, active(here).index) == ("none", "faces_facenet128_v1")
    assert command("model", "prune")[0] == 0
    finds(here)
    assert {row["_id"]: row["embeddings"] for row in here[FACES].find()} == before


@pytest.mark.parametrize("kind", ["scalar", "binary"])
def test_an_index_that_finds_too_little_is_never_switched_to(
    here: Db, command: Command, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(recall, "measure", lambda db, model, exact: 0.979)
    for arguments in (("model", MODEL, "--quantization", kind), ("model", "flip")):
        code, said = command(*arguments)
        assert code == 1
        assert "0.979, below 0.98" in said.splitlines()[-1]
        assert active(here).quantization == "none"
    finds(here)
    other = "binary" if kind == "scalar" else "scalar"
    code, said = command("model", MODEL, "--quantization", other)
    assert code == 1
    assert f"quantization {kind} is being prepared" in said
    assert command("model", "prune")[0] == 0
    assert active(here).next is None
    assert command("status")[0] == 0
    finds(here)


def test_recall_is_measured_against_what_is_really_nearest(
    here: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(here)
    model = active(here)
    assert recall.measure(here, model, model) == 1.0
    nearest = recall._nearest

    def lossy(db: Db, model: ActiveModel, wanted: object, *, exact: bool) -> list[str]:
        found = nearest(db, model, wanted, exact=exact)  # type: ignore[arg-type]
        return found if exact else [*found[:-1], "not a face"]

    monkeypatch.setattr(recall, "_nearest", lossy)
    assert recall.measure(here, model, model) == pytest.approx(0.9)
