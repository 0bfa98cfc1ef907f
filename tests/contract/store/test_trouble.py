"""A database in trouble: connections that close, primaries that step down, commands that hang.

Reads and repeatable writes go on within the deadline, once; what cannot is `DatabaseUnavailable`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WTimeoutError,
)

from faces.database import (
    FACES,
    LEASES,
    MEDIA,
    Db,
    connect,
    database,
    in_transaction,
    overridden,
    translate,
)
from faces.errors import (
    ConfigError,
    Conflict,
    DatabaseUnavailable,
    InvalidRequest,
    StorageFull,
)
from faces.leases import Holder
from faces.settings import Settings, load
from faces.store import Store
from faces.types import MediaInfo, MediaRef
from migrations.runner import Runner
from migrations.step import discover
from tests.conftest import Atlas
from tests.faces_made import MODEL, row_of_faces

REF = MediaRef("default", "a", "api", "a")


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an embedded Atlas that takes `configureFailPoint`."""
    atlas = Atlas(tmp_path_factory.mktemp("breakable"), "--enable-test-commands")
    # A server that steps down tells its monitors; this one only pretends to, so they have to ask.
    joint = "&" if "?" in atlas.uri else "/?"
    yield f"{atlas.uri}{joint}serverMonitoringMode=poll&heartbeatFrequencyMS=500"
    atlas.stop()


def settings(uri: str, **more: Any) -> Settings:
    return Settings(
        mongodb_uri=uri,  # type: ignore[arg-type]  # as the environment gives it
        mongodb_database=f"t_{secrets.token_hex(4)}",
        **more,
    )


@pytest.fixture
def db(breakable: str) -> Iterator[Db]:
    with connect(configured := settings(breakable, mongodb_timeout_ms=4000), "web") as client:
        made = database(client, configured)
        runner = Runner(made, discover(), lambda line: None)
        runner.up(lambda: (MODEL, "b1"))
        yield made
        client.drop_database(made)


@contextmanager
def failing(db: Db, *commands: str, times: int | None = 1, **how: Any) -> Iterator[None]:
    """The next `times` such commands (None: all) fail as `how` says."""
    admin = db.client.admin
    mode: Any = "alwaysOn" if times is None else {"times": times}
    admin.command(
        "configureFailPoint", "failCommand", mode=mode, data={"failCommands": commands, **how}
    )
    try:
        yield
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")


STEPPED_DOWN = {"errorCode": 189, "errorLabels": ["RetryableWriteError"]}
FAULTS: dict[str, dict[str, Any]] = {
    "closed": {"closeConnection": True},
    "stepped down": {"errorCode": 189},
    "shutting down": {"errorCode": 91},
    "not primary": {"errorCode": 10107},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", ["find", "aggregate"])
def test_a_read_is_tried_again_once(db: Db, command: str, fault: str) -> None:
    store = Store(db)
    with failing(db, command, **FAULTS[fault]):
        store.items("default")
    with failing(db, command, **FAULTS[fault]):
        store.jobs.page(10, None)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", ["bulkWrite", "find", "commitTransaction"])
def test_a_put_happens_exactly_once(db: Db, command: str, fault: str) -> None:
    store = Store(db)
    labels = ["TransientTransactionError"] if command != "commitTransaction" else []
    if command == "commitTransaction":
        labels = ["UnknownTransactionCommitResult", "RetryableWriteError"]
    how = dict(FAULTS[fault])
    if "errorCode" in how:
        how["errorLabels"] = labels
    with failing(db, command, **how):
        result = store.put_item(REF, MediaInfo(), row_of_faces(1, 2), content="s")
    assert len(result.faces) == 2
    assert db[FACES].count_documents({}) == 2
    stored = db[MEDIA].find_one({})
    assert stored is not None
    assert (stored["rev"], stored["face_count"]) == (1, 2)


@pytest.mark.parametrize("code", [13, 59, 115, 8000])
def test_a_tier_that_takes_no_bulk_command_is_written_step_by_step(db: Db, code: int) -> None:
    with failing(db, "bulkWrite", times=None, errorCode=code):
        result = Store(db).put_item(REF, MediaInfo(), row_of_faces(1, 2), content="s")
    assert len(result.faces) == db[FACES].count_documents({}) == 2


def test_a_put_that_cannot_be_done_says_so_and_leaves_nothing(db: Db) -> None:
    store = Store(db)
    with (
        failing(
            db,
            "bulkWrite",
            "insert",
            times=None,
            errorCode=189,
            errorLabels=["TransientTransactionError"],
        ),
        pytest.raises(DatabaseUnavailable),
    ):
        store.put_item(REF, MediaInfo(), row_of_faces(1), content="s")
    assert db[FACES].count_documents({}) == db[MEDIA].count_documents({}) == 0


def test_a_command_that_hangs_ends_at_the_deadline(db: Db) -> None:
    store = Store(db)
    began = time.monotonic()
    with (
        failing(db, "find", times=None, blockConnection=True, blockTimeMS=6_000),
        pytest.raises(DatabaseUnavailable),
    ):
        store.items("default")
    assert time.monotonic() - began < 60


def test_a_full_disk_is_told_apart(db: Db) -> None:
    store = Store(db)
    with failing(db, "update", errorCode=14031), pytest.raises(StorageFull, match="quota"):
        store.ensure_collection("x")


def test_jobs_and_leases_come_through_a_closed_connection(db: Db) -> None:
    store = Store(db)
    job_id = store.jobs.enqueue("a", None, {})
    holder = Holder("elsewhere", 1, 1)
    with failing(db, "findAndModify", closeConnection=True):
        claimed = store.jobs.claim(["a"], holder)
    assert claimed is not None
    assert (claimed["_id"], claimed["attempts"]) == (job_id, 1)
    with failing(db, "findAndModify", closeConnection=True):
        lease = store.leases.acquire("x", holder, 60)
    assert lease is not None
    assert lease.epoch == db[LEASES].find_one({"_id": "x"})["epoch"]  # type: ignore[index]


class TestTranslating:
    @pytest.mark.parametrize(
        ("error", "ours"),
        [
            (ServerSelectionTimeoutError("host:27017"), DatabaseUnavailable),
            (AutoReconnect("host:27017"), DatabaseUnavailable),
            (WaitQueueTimeoutError("x"), DatabaseUnavailable),
            (WTimeoutError("x", 64), DatabaseUnavailable),
            (ConfigurationError("The DNS query name does not exist"), DatabaseUnavailable),
            (OperationFailure("user secret", 13), DatabaseUnavailable),
            (OperationFailure("user secret", 18), DatabaseUnavailable),
            (OperationFailure("you are over your space quota", 8000), StorageFull),
            (OperationFailure("user secret", 8000), DatabaseUnavailable),
            (OperationFailure("user secret", 4242), DatabaseUnavailable),
            (DuplicateKeyError("dup key: secret", 11000), Conflict),
            (OverflowError("MongoDB can only handle up to 8-byte ints"), InvalidRequest),
            (UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed"), InvalidRequest),
        ],
    )
    def test_driver_errors(self, error: Exception, ours: type[Exception]) -> None:
        with pytest.raises(ours) as raised, translate():
            raise error
        assert raised.value.__cause__ is error
        assert "secret" not in str(raised.value)
        assert "host" not in str(raised.value)

    def test_other_errors_pass(self) -> None:
        with pytest.raises(KeyError), translate():
            raise KeyError("ours")


class TestConnecting:
    def test_needs_no_database_and_names_no_host(self) -> None:
        absent = "mongodb://user:pass@127.0.0.1:1/?serverSelectionTimeoutMS=100"
        with connect(settings(absent, mongodb_timeout_ms=300), "web") as client:
            store = Store(client.get_database("x"))
            with pytest.raises(DatabaseUnavailable) as raised:
                store.items("default")
        assert "127.0.0.1" not in raised.value.detail

    @pytest.mark.parametrize("uri", ["http://x", "mongodb://?x", "mongodb://a:b@c:d:e"])
    def test_a_uri_that_cannot_be_is_refused_without_repeating_it(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MONGODB_URI", uri)
        with pytest.raises(ConfigError) as raised:
            load()
        assert uri not in raised.value.detail

    def test_without_a_uri(self) -> None:
        with pytest.raises(ConfigError, match="MONGODB_URI is not set"):
            connect(Settings(), "web")

    @pytest.mark.parametrize(
        ("uri", "name"),
        [
            ("mongodb://h/cms?w=1", "cms"),
            ("mongodb://h/", "likeness"),
            ("mongodb://h", "likeness"),
            ("mongodb+srv://user:pa%2Fss@cluster.example.net/media", "media"),
        ],
    )
    def test_the_database_is_the_uris_else_likeness(self, uri: str, name: str) -> None:
        configured = Settings(mongodb_uri=uri)  # type: ignore[arg-type]  # as above
        with connect(configured, "web") as client:
            assert database(client, configured).name == name

    def test_reads_and_writes_are_ours_whatever_the_uri_says(self, breakable: str) -> None:
        uri = breakable + "&readPreference=secondary&w=0&retryWrites=false"
        assert overridden(uri) == ["readpreference", "retrywrites", "w"]
        with connect(configured := settings(uri), "worker") as client:
            made = database(client, configured)
            assert made.write_concern.document == {"w": "majority"}
            assert made.read_preference.mongos_mode == "primary"
            assert client.options.retry_writes
            assert client.options.pool_options.max_pool_size == 4


def test_a_transaction_that_always_loses_gives_up_in_time(db: Db) -> None:
    def work(session: Any) -> None:
        db[MEDIA].update_one({"_id": "x"}, {"$inc": {"n": 1}}, session=session)
        # Somebody else writes the same object each time, in between.
        with MongoClient[dict[str, Any]](*address, directConnection=True) as other:
            other[db.name][MEDIA].update_one({"_id": "x"}, {"$inc": {"n": 1}})
        db[MEDIA].update_one({"_id": "x"}, {"$inc": {"n": 1}}, session=session)

    address = db.client.address
    assert address is not None
    db[MEDIA].insert_one({"_id": "x", "n": 0})
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        in_transaction(db, work, deadline=1.0)
    assert time.monotonic() - began < 20
