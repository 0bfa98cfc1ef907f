"""The database in trouble under a running service: stepping down, silent, and cut off mid-commit.

Reads and repeatable writes go on within the deadline. What cannot is `database_unavailable` within
seconds, nothing hangs, and the service recovers by itself.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import httpx2
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.conftest import Atlas
from tests.contract.api.conftest import Start, migrate, until_searchable

pytestmark = pytest.mark.xdist_group("api-trouble")
Check = Callable[..., dict[str, object]]
Kind = Literal["search", "list", "face", "put", "subject", "job"]
PATIENCE = 30.0
"""How long a client may wait for an answer while the database is away."""


class Wire:
    """A TCP forwarder that can go silent, or reset a connection once a command was carried out."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.silent = threading.Event()
        self.reset_after = b""
        self.resets = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            outer = socket.create_connection(self._target)
            self._open += [inner, outer]
            struck = threading.Event()
            self._begin(self._pump, inner, outer, True, struck)
            self._begin(self._pump, outer, inner, False, struck)

    def _pump(
        self, source: socket.socket, target: socket.socket, asking: bool, struck: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.silent.is_set():
                    continue  # neither side ever hears of it
                if asking and self.reset_after and self.reset_after in data:
                    self.reset_after = b""
                    struck.set()
                if not asking and struck.is_set():
                    self.resets += 1
                    target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break  # the server has done it; its answer never arrives
                target.sendall(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        source.close()

    def heal(self) -> None:
        """Forward again. Connections that lost bytes are closed, as a network would in the end."""
        self.silent.clear()
        was, self._open = self._open, []
        for side in was:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.heal()
        for thread in self._threads:
            thread.join(60)


@dataclass(frozen=True)
class Setup:
    """A service that reaches a breakable database over a breakable wire."""

    client: httpx2.Client
    wire: Wire
    db: Database[dict[str, Any]]
    photo: bytes
    vector: list[float]

    @contextlib.contextmanager
    def failing(self, *commands: str, times: int | None = 1, **how: Any) -> Iterator[None]:
        """The next `times` such commands (None: all) fail as `how` says."""
        mode: Any = "alwaysOn" if times is None else {"times": times}
        admin = self.db.client.admin
        how["failCommands"] = commands
        admin.command("configureFailPoint", "failCommand", mode=mode, data=how)
        try:
            yield
        finally:
            admin.command("configureFailPoint", "failCommand", mode="off")

    def put(self, name: str) -> httpx2.Response:
        path = f"/v1/collections/default/media/{name}"
        return self.client.put(path, files={"image": self.photo})

    def stored(self, name: str) -> tuple[int, int]:
        """How often an item and its faces are stored, past the service."""
        query = {"media_id": name}
        media, faces = self.db["likeness_media"], self.db["likeness_faces"]
        live = {**query, "state": {"$ne": "gone"}}
        return media.count_documents(live), faces.count_documents(query)

    def ask(self, kind: Kind) -> tuple[httpx2.Response, float]:
        """One request of a kind, and how long it took."""
        began = time.monotonic()
        match kind:
            case "search":
                answer = self.client.post("/v1/search", json={"vector": self.vector})
            case "list":
                answer = self.client.get("/v1/collections/default/media")
            case "face":
                answer = self.client.get("/v1/collections/default/faces?limit=1")
            case "subject":
                body = {"subject_id": secrets.token_hex(4)}
                answer = self.client.post("/v1/collections/default/subjects", json=body)
            case "job":
                answer = self.client.post("/v1/jobs", json={"kind": "backfill"})
            case "put":
                answer = self.put(secrets.token_hex(4))
        return answer, time.monotonic() - began


@pytest.fixture(scope="module")
def setup(
    tmp_path_factory: pytest.TempPathFactory,
    start: Start,
    models_dir: Path,
    samples_dir: Path,
) -> Iterator[Setup]:
    atlas = Atlas(tmp_path_factory.mktemp("breakable"), "--enable-test-commands")
    place = urlsplit(atlas.uri)
    wire = Wire(place.hostname or "", place.port or 0)
    try:
        env = migrate(atlas.uri)
        # A server that steps down tells its monitors; this one only pretends to: they have to ask.
        options = "directConnection=true&serverMonitoringMode=poll&heartbeatFrequencyMS=500"
        uri = f"mongodb://127.0.0.1:{wire.port}/?{options}"
        service = start("/readyz", **{**env, "MONGODB_URI": uri})
        photo = sorted((samples_dir / "gallery" / "madonna").iterdir())[0].read_bytes()
        with (
            service.client() as client,
            MongoClient[dict[str, Any]](atlas.uri) as direct,
        ):
            embedded = client.post("/v1/embed", files={"image": photo}).json()
            vector = embedded["faces"][0]["embedding"]
            made = Setup(client, wire, direct[env["MONGODB_DATABASE"]], photo, vector)
            until_searchable(client, made.put("first").json()["faces"][0]["face_id"])
            yield made
    finally:
        wire.close()
        atlas.stop()


FAULTS: dict[str, dict[str, Any]] = {
    "closed": {"closeConnection": True},
    "stepped down": {"errorCode": 189},
    "not primary": {"errorCode": 10107},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["search", "list", "face"])
def test_a_read_outlives_a_step_down(setup: Setup, kind: Kind, fault: str) -> None:
    with setup.failing("find", "aggregate", **FAULTS[fault]):
        answer, seconds = setup.ask(kind)
    assert answer.status_code == 200, answer.text
    assert seconds < PATIENCE


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["put", "subject", "job"])
def test_a_repeatable_write_outlives_a_step_down(setup: Setup, kind: Kind, fault: str) -> None:
    how = dict(FAULTS[fault])
    if "errorCode" in how:
        how["errorLabels"] = ["RetryableWriteError", "TransientTransactionError"]
    with setup.failing("bulkWrite", "insert", "update", **how):
        answer, seconds = setup.ask(kind)
    assert answer.status_code in (201, 202), answer.text
    assert seconds < PATIENCE


def test_a_database_without_a_primary_is_named_within_seconds(setup: Setup, problem: Check) -> None:
    every = ("find", "aggregate", "insert", "update", "bulkWrite", "commitTransaction")
    with setup.failing(*every, times=None, errorCode=10107):
        all_unavailable(setup, problem)
    recovered(setup)


def test_a_silent_database_hangs_nobody(setup: Setup, problem: Check) -> None:
    setup.wire.silent.set()
    try:
        all_unavailable(setup, problem)
        # Known to be away by now, so nobody waits for it.
        end = time.monotonic() + 60
        while setup.ask("list")[1] > 3:
            assert time.monotonic() < end
        all_unavailable(setup, problem, within=4.5)  # less than anybody would wait for it
        began = time.monotonic()
        assert setup.client.get("/healthz").status_code == 200
        assert setup.client.get("/readyz").json()["checks"]["database"] == "unavailable"
        assert time.monotonic() - began < 4.5
    finally:
        setup.wire.heal()
    recovered(setup)


def test_a_commit_whose_answer_is_lost_happened_once(setup: Setup) -> None:
    before = setup.wire.resets
    setup.wire.reset_after = b"commitTransaction"
    answer = setup.put("lost")
    assert setup.wire.resets == before + 1, "the fault did not strike"
    assert answer.status_code == 201, answer.text
    faces = len(answer.json()["faces"])
    assert setup.stored("lost") == (1, faces)
    again = setup.put("lost")
    assert (again.status_code, again.json()["unchanged"]) == (200, True)
    setup.wire.reset_after = b"commitTransaction"
    gone = setup.client.delete("/v1/collections/default/media/lost")
    assert gone.json() == {"media_id": "lost", "faces_deleted": faces}
    assert setup.stored("lost") == (0, 0)


def test_a_write_whose_answer_is_lost_happened_once(setup: Setup) -> None:
    before = setup.wire.resets
    subject = secrets.token_hex(4)
    setup.wire.reset_after = subject.encode()
    body = {"subject_id": subject}
    answer = setup.client.post("/v1/collections/default/subjects", json=body)
    assert setup.wire.resets == before + 1
    assert answer.status_code == 201, answer.text
    assert setup.db["likeness_subjects"].count_documents({"subject_id": subject}) == 1


def all_unavailable(setup: Setup, problem: Check, *, within: float = PATIENCE) -> None:
    """Ask for everything at once: each is `database_unavailable`, within so many seconds."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    with ThreadPoolExecutor(len(kinds)) as pool:
        for answer, seconds in pool.map(setup.ask, kinds):
            problem(answer, 503, "database_unavailable")
            assert answer.headers["retry-after"]
            assert seconds < within


def recovered(setup: Setup) -> None:
    """Wait until the service serves again, by itself."""
    end = time.monotonic() + 60
    while True:
        answer, _ = setup.ask("search")
        if answer.status_code == 200 and setup.client.get("/readyz").status_code == 200:
            return
        assert time.monotonic() < end, answer.text
        time.sleep(0.1)
