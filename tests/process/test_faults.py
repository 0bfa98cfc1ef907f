"""`make faults` holds on a sound system, and notices each kind of wrong that it looks for."""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import AutoReconnect, OperationFailure

from bench import fault_checks
from bench.fault_commands import uncovered
from bench.fault_kills import web_struck
from bench.fault_ledger import Client
from bench.fault_proxy import Kind
from bench.fault_rows import Scenario
from bench.fault_system import System, Wrong
from bench.fault_work import nothing
from bench.faults import main, photos

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("faults")
    system = System(folder / "system")
    try:
        system.up()
        client = Client(system, photos(), folder)
        client.learn(4)
        nothing(client, random.Random(0))  # so that each test finds faces, in whatever order
        fault_checks.recovered(client)
        yield client
        client.close()
    finally:
        system.down()


def test_a_sound_system_holds(client: Client) -> None:
    nothing(client, random.Random(1))
    fault_checks.recovered(client)
    fault_checks.check(client)
    sent = client.system.sent()
    assert {"bulkWrite", "findAndModify", "commitTransaction"} <= sent
    assert not uncovered(sent), "a command that no row of `make faults` fails"


def test_a_web_process_that_is_killed_after_a_commit_loses_nothing(client: Client) -> None:
    web_struck("after commitTransaction", signal.SIGKILL, client, random.Random(2))
    fault_checks.recovered(client)
    fault_checks.check(client)


@pytest.mark.parametrize(
    ("kind", "raised", "carried_out"),
    [
        ("unsent", AutoReconnect, 0),
        ("unanswered", AutoReconnect, 1),
        ("error", OperationFailure, 0),
    ],
)
def test_the_proxy_fails_a_single_command(
    client: Client, kind: Kind, raised: type[Exception], carried_out: int
) -> None:
    proxy = client.system.database_proxy
    uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
    with MongoClient[dict[str, Any]](uri, retryWrites=False) as through:
        there = through["faults-proxy"][kind]
        proxy.set(kind, commands=["insert"], count=1, code=112)
        with pytest.raises(raised):
            there.insert_one({})
        assert there.count_documents({}) == carried_out
        there.insert_one({})  # it was asked to strike once
        proxy.heal()


Sabotage = Callable[[Database[dict[str, Any]], dict[str, Any]], object]


@pytest.mark.parametrize(
    ("sabotage", "noticed"),
    [
        (lambda db, face: db.likeness_faces.delete_one({"_id": face["_id"]}), "lost"),
        (lambda db, face: db.likeness_faces.insert_one({**face, "_id": "x"}), "doubled"),
        (lambda db, face: db.likeness_faces.update_one(
            {"_id": face["_id"]}, {"$set": {"subject_id": "nobody"}}), "came from nowhere"),
        (lambda db, face: db.likeness_media.update_one(
            {"media_id": face["media_id"]}, {"$set": {"state": "gone"}}), "acknowledged state"),
    ],
    ids=["lost", "doubled", "named", "gone"],
)  # fmt: skip
def test_what_is_wrong_is_noticed(client: Client, sabotage: Sabotage, noticed: str) -> None:
    db = client.system.db
    key = next(key for key, item in client.items.items() if item.face)
    face = db.likeness_faces.find_one({"media_id": key, "source": "api"})
    media = db.likeness_media.find_one({"media_id": key, "source": "api"})
    assert face is not None
    assert media is not None
    sabotage(db, face)
    try:
        with pytest.raises(Wrong, match=noticed):
            fault_checks.check(client)
    finally:
        db.likeness_faces.delete_many({"_id": "x"})
        db.likeness_faces.replace_one({"_id": face["_id"]}, face, upsert=True)
        db.likeness_media.replace_one({"_id": media["_id"]}, media, upsert=True)


def test_a_face_that_comes_back_is_noticed(client: Client) -> None:
    face = client.system.db.likeness_faces.find_one({"source": "cms"})
    assert face is not None
    client.erased.add(face["_id"])
    with pytest.raises(Wrong, match="are back"):
        fault_checks.check(client)
    client.erased.discard(face["_id"])


def test_a_planted_fault_is_shrunk_to_the_step_that_has_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of three steps the last loses a face: the command that is printed holds that one alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where ledger and logs are kept

    def put(client: Client, chance: random.Random) -> None:
        client.put("own-0", chance.choice(sorted(client.photos)))

    def lose(client: Client, chance: random.Random) -> None:
        put(client, chance)
        client.system.db.likeness_faces.delete_many({"source": "api"})

    rows = [Scenario("one", put), Scenario("planted", lose), Scenario("two", put)]
    assert main(["--steps", "two;one;planted", "--seed", "5"], rows) == 1
    said = capsys.readouterr().out
    assert "NO: own-0: 0 faces instead of 1: lost" in said
    assert "smallest that still fails: make faults STEPS='planted#2' SEED=5" in said
