"""Connections to MongoDB, the driver's errors (known in this file only), the transaction loop."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pymongo
import stamina
from bson.errors import InvalidDocument
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)
from pymongo.read_concern import ReadConcern

from faces.errors import ConfigError, Conflict, DatabaseUnavailable, InvalidRequest, StorageFull
from faces.pool import PoolWatch
from faces.settings import Settings

Document: TypeAlias = dict[str, Any]
Client: TypeAlias = MongoClient[Document]
Db: TypeAlias = Database[Document]
Session: TypeAlias = ClientSession
Role: TypeAlias = Literal["web", "worker", "migrations"]
T = TypeVar("T")

DEFAULT_NAME = "likeness"
FACES = "likeness_faces"
MEDIA = "likeness_media"
COLLECTIONS = "likeness_collections"
SUBJECTS = "likeness_subjects"
JOBS = "likeness_jobs"
JOB_FAILURES = "likeness_job_failures"
LEASES = "likeness_leases"
TOMBSTONES = "likeness_tombstones"
CROPS = "likeness_crops"
MODELS = "likeness_models"
MIGRATIONS = "likeness_migrations"
ALIASES = "likeness_aliases"
OWN_COLLECTIONS = (
    FACES,
    MEDIA,
    COLLECTIONS,
    SUBJECTS,
    JOBS,
    JOB_FAILURES,
    LEASES,
    TOMBSTONES,
    CROPS,
    MODELS,
    MIGRATIONS,
    ALIASES,
)

SEARCH_TIMEOUT_S = 7.0
TRANSACTION_S = 5.0
IN_FLIGHT_S = TRANSACTION_S + 0.5
"""After so long no transaction that was under way before can still be committed."""
_ABORT_S = 2.0
BULK = 500
"""The most single-document writes in one bulk_write."""

_POOL = {"web": 20, "worker": 4, "migrations": 4}
_FULL = {14031, 12501, 8000}
_REFUSED = {13: "lacks the privilege for a command", 18: "refuses the credentials"}


class Raced(PyMongoError):
    """Another writer changed the same object first; the transaction is to be run again."""


def connect(
    settings: Settings, role: Role, *, deadline: bool = True, pool: PoolWatch | None = None
) -> Client:
    """A client that has not connected yet; the caller closes it.

    `w=majority` and reads from the primary, whatever the URI says. Without `deadline` it has no
    `timeoutMS`: for change streams and long jobs. `pool` counts its connections.
    Raises ConfigError without a usable URI.
    """
    secret = settings.mongodb_uri
    if role == "migrations" and settings.migrations_mongodb_uri is not None:
        secret = settings.migrations_mongodb_uri
    if secret is None:
        raise ConfigError("MONGODB_URI is not set: set it to the address of your database.")
    stamina.instrumentation.set_on_retry_hooks(())  # a retried conflict is not worth a log line
    options: Document = {
        "connect": False,
        "appname": f"likeness-{role}",
        "maxPoolSize": settings.mongodb_max_pool or _POOL[role],
        "maxIdleTimeMS": 60_000,
        "serverSelectionTimeoutMS": min(5000, settings.mongodb_timeout_ms),
        "w": "majority",
        "readPreference": "primary",
        "retryWrites": True,
        "retryReads": True,
        "tz_aware": True,
    }
    if deadline:
        options["timeoutMS"] = settings.mongodb_timeout_ms
    if pool is not None:
        options["event_listeners"] = [pool]
    try:
        return MongoClient(secret.get_secret_value(), **options)
    except (InvalidURI, ConfigurationError, ValueError, TypeError):
        # The driver's message may quote the URI, which holds a password.
        raise ConfigError("MONGODB_URI cannot be used: it is not a valid MongoDB URI.") from None


def database(client: Client, settings: Settings) -> Db:
    """The service's database: MONGODB_DATABASE, else the URI's, else `likeness`."""
    name = settings.mongodb_database
    if not name and settings.mongodb_uri is not None:
        name = _uri_database(settings.mongodb_uri.get_secret_value())
    return client.get_database(
        name or DEFAULT_NAME,
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority"),
        # $vectorSearch accepts no other; what must be proven is read at majority where it is read.
        read_concern=ReadConcern("local"),
    )


def overridden(uri: str) -> list[str]:
    """The options of the URI that the service replaces by its own, by name."""
    try:
        names = {name.lower() for name, _ in parse_qsl(urlsplit(uri).query)}
    except ValueError:
        return []
    ours = {"readpreference", "w", "retrywrites", "retryreads", "readconcernlevel"}
    return sorted(names & ours)


@contextlib.contextmanager
def translate() -> Iterator[None]:
    """Turns the driver's errors into ours, chained; a detail never quotes a document or a URI."""
    try:
        yield
    except DuplicateKeyError as error:
        raise Conflict("An object with this id is there already.") from error
    except (InvalidDocument, DocumentTooLarge, OverflowError, UnicodeEncodeError) as error:
        raise InvalidRequest("A value cannot be stored: too large, or not Unicode.") from error
    except PyMongoError as error:
        raise _translated(error) from error


def _translated(error: PyMongoError) -> Exception:
    if isinstance(error, Raced):
        return DatabaseUnavailable("Too many writers changed this object at once: try again.")
    if isinstance(error, WaitQueueTimeoutError):
        return DatabaseUnavailable("All database connections are in use: try again.")
    if isinstance(error, OperationFailure):
        code = error.code or 0
        # Atlas answers 8000 for its own refusals; the only one that a write meets is the quota.
        if code in _FULL and (code != 8000 or "space" in str(error).lower()):
            return StorageFull(
                "The database refuses writes because its storage quota is used up: "
                "delete data or choose a larger tier."
            )
        if code in _REFUSED:
            return DatabaseUnavailable(
                f"The database {_REFUSED[code]}: check MONGODB_URI and the user's roles."
            )
        if error.timeout or isinstance(error, ExecutionTimeout):
            return DatabaseUnavailable("The database did not answer in time.")
        return DatabaseUnavailable(f"The database refused a command (code {code}).")
    if isinstance(error, ConnectionFailure) or error.timeout:
        return DatabaseUnavailable("The database cannot be reached or did not answer in time.")
    if isinstance(error, ConfigurationError):
        return DatabaseUnavailable("The database's address does not resolve.")
    return DatabaseUnavailable("The database failed.")


def in_transaction(db: Db, work: Callable[[Session], T], *, deadline: float = TRANSACTION_S) -> T:
    """What `work(session)` returns, committed at majority as one transaction.

    `work` runs again after a conflict with another writer (a transient error or `Raced`), until
    `deadline` seconds are over: it must do nothing but database work with the session. When the
    outcome of a commit stays unknown it runs again too, so it has to be safe to repeat.
    Raises what `translate` raises.
    """
    until = time.monotonic() + deadline
    with translate(), db.client.start_session() as session:
        for attempt in stamina.retry_context(
            on=_transient,
            attempts=None,
            timeout=deadline,
            wait_initial=0.005,
            wait_max=0.25,
            wait_jitter=0.05,
        ):
            with attempt:
                return _once(session, work, max(0.001, until - time.monotonic()))
    raise AssertionError("a retry context ends by returning or raising")


def _once(session: Session, work: Callable[[Session], T], seconds: float) -> T:
    try:
        with pymongo.timeout(seconds):
            session.start_transaction(
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern(w="majority"),
                read_preference=ReadPreference.PRIMARY,
            )
            result = work(session)
            for attempt in stamina.retry_context(
                on=_unknown_commit, attempts=3, wait_initial=0.02, wait_max=0.2, wait_jitter=0.02
            ):
                with attempt:
                    session.commit_transaction()
            return result
    except BaseException:
        if session.in_transaction:
            # Beyond the deadline, too: an open transaction would hold its objects for a minute.
            with pymongo.timeout(_ABORT_S):
                session.abort_transaction()
        raise


def _transient(error: Exception) -> bool:
    if isinstance(error, Raced):
        return True
    return isinstance(error, PyMongoError) and (
        error.has_error_label("TransientTransactionError")
        or error.has_error_label("UnknownTransactionCommitResult")
    )


def _unknown_commit(error: Exception) -> bool:
    return isinstance(error, PyMongoError) and error.has_error_label(
        "UnknownTransactionCommitResult"
    )


def insert_new(db: Db, where: str, document: Document) -> None:
    """Stores a new document. Raises Conflict when another has its `_id`.

    When the answer is lost the driver sends it again, and not every server knows it for the same:
    what is found then is told by its `birth`.
    """
    birth = secrets.token_hex(8)
    try:
        with translate():
            db[where].insert_one({**document, "birth": birth})
    except Conflict:
        with translate():
            mine = db[where].find_one({"_id": document["_id"], "birth": birth}, {"_id": 1})
        if mine is None:
            raise


def duplicate_of(error: DuplicateKeyError) -> tuple[str, ...]:
    """The fields of the unique index that refused a write."""
    details: Mapping[str, Any] = error.details or {}
    return tuple(details.get("keyPattern", {}))


def _uri_database(uri: str) -> str | None:
    try:
        path = urlsplit(uri).path
    except ValueError:
        return None
    return unquote(path.lstrip("/").split(".")[0]) or None
