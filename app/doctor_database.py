"""The doctor's look at the database: reach, privileges, index, clock, last run."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.doctor import Level, Line
from faces.database import FACES, JOBS, Client, Db, connect, database, overridden, translate
from faces.errors import LikenessError
from faces.models.cards import CARDS
from faces.search import index_definition
from faces.settings import Settings
from faces.store_models import ModelStore

NEEDED = frozenset({"find", "insert", "update", "remove", "listSearchIndexes"})
INDEX_ACTIONS = frozenset({"createSearchIndexes", "updateSearchIndex", "dropSearchIndex"})
LATE = dt.timedelta(hours=36)
CLOCK_SECONDS = 5.0
M0_BYTES = 512 * 1024 * 1024


def examine(settings: Settings) -> Iterator[Line]:
    """All checks of the database; one that cannot be made ends them, as the rest would fail too."""
    try:
        client = connect(settings, "web")
    except LikenessError as error:
        yield Line("failure", "database", error.detail, "correct MONGODB_URI")
        return
    try:
        db = database(client, settings)
        yield from _examine(settings, client, db)
    except LikenessError as error:
        yield Line("failure", "database", error.detail, FIX_REACH)
    finally:
        client.close()


FIX_REACH = (
    "check MONGODB_URI, the user's password, and in Atlas the network access list (a dyno has no "
    "fixed address: allow 0.0.0.0/0, or use a static-address add-on)"
)


def _examine(settings: Settings, client: Client, db: Db) -> Iterator[Line]:
    began = time.time()
    with translate():
        hello = client.admin.command("hello")
    took = time.time() - began
    kind = "a replica set" if hello.get("setName") else "a server without replica set"
    yield Line("ok", "database", f"reached in {took * 1000:.0f} ms: {kind}")
    secret = settings.mongodb_uri
    if secret is not None and (names := overridden(secret.get_secret_value())):
        yield Line(
            "warning",
            "database",
            f"the URI's {', '.join(names)} is replaced by the service's own",
            "take it out of MONGODB_URI",
        )
    if isinstance(local := hello.get("localTime"), dt.datetime):
        yield clock(local, began + took / 2)
    with translate():
        status = client.admin.command("connectionStatus", showPrivileges=True)
    yield from privileges(status.get("authInfo", {}), db.name, settings)
    yield from _index(settings, db)
    yield from _storage(db)
    yield _last_run(db)


def clock(server: dt.datetime, ours: float) -> Line:
    """Whether the two clocks agree; `server` may lack a zone, it is UTC."""
    theirs = server if server.tzinfo else server.replace(tzinfo=dt.UTC)
    apart = abs(theirs.timestamp() - ours)
    if apart <= CLOCK_SECONDS:
        return Line("ok", "clock", "agrees with the database's")
    fix = "set this machine's clock (signed hooks and schedules depend on it)"
    return Line("warning", "clock", f"{apart:.0f} s off the database's", fix)


def privileges(auth: Mapping[str, Any], name: str, settings: Settings) -> Iterator[Line]:
    """Whether the user may do what web and worker do, and not needlessly more."""
    if not auth.get("authenticatedUsers"):
        yield Line("ok", "privileges", "the database has no access control")
        return
    allowed = actions(auth.get("authenticatedUserPrivileges", ()), name)
    if missing := sorted(NEEDED - allowed):
        yield Line(
            "failure",
            "privileges",
            f"the user of MONGODB_URI lacks: {', '.join(missing)}",
            f"give it readWrite on {name} (in Atlas: built-in role readWrite@{name})",
        )
    else:
        yield Line("ok", "privileges", "what web and worker need is granted")
    own = settings.migrations_mongodb_uri is None
    if own and (missing := sorted(INDEX_ACTIONS - allowed)):
        yield Line(
            "failure",
            "privileges",
            f"migrations use the same user, which lacks: {', '.join(missing)}",
            "set MIGRATIONS_MONGODB_URI to a user that may change search indexes",
        )


def actions(granted: Iterable[Mapping[str, Any]], name: str) -> frozenset[str]:
    """What the privileges allow on the collections of the database `name`."""
    found: set[str] = set()
    for privilege in granted:
        resource = privilege.get("resource", {})
        everywhere = resource.get("anyResource") or resource.get("db") == ""
        if everywhere or (resource.get("db") == name and resource.get("collection") == ""):
            found.update(privilege.get("actions", ()))
    return frozenset(found)


def _index(settings: Settings, db: Db) -> Iterator[Line]:
    if not settings.face_recognition_enabled:
        yield Line("ok", "vector index", "not needed: FACE_RECOGNITION_ENABLED is false")
        return
    active = ModelStore(db).active()
    if active is None:
        fix = "run `python -m migrations up`"
        yield Line("failure", "vector index", "the database has no active model yet", fix)
        return
    if settings.face_model not in (None, "auto", active.key):
        yield Line(
            "warning",
            "model",
            f"FACE_MODEL differs from the database's active model {active.key}, which is used",
            f"set FACE_MODEL={active.key}, or switch with `python -m migrations model`",
        )
    with translate():
        found = {entry["name"]: entry for entry in db[FACES].list_search_indexes()}
    entry = found.get(active.index)
    if entry is None:
        fix = "run `python -m migrations up`"
        yield Line("failure", "vector index", f"{active.index} is not there", fix)
        return
    card = CARDS.get(active.key)
    yield index_state(entry)
    if card is not None:
        wanted = index_definition(active.key, card.dimensions, active.quantization)
        if not same_definition(entry.get("latestDefinition", {}), wanted):
            yield Line(
                "failure",
                "vector index",
                f"{active.index} is defined otherwise than this version needs",
                "run `python -m migrations plan`, then `up`",
            )


def index_state(entry: Mapping[str, Any]) -> Line:
    """What an entry of $listSearchIndexes says about serving."""
    status = entry.get("status", "unknown")
    if entry.get("queryable"):
        level: Level = "ok" if status == "READY" else "warning"
        fix = "" if level == "ok" else "it serves; look at the cluster's search nodes if it stays"
        return Line(level, "vector index", f"{entry.get('name')} is queryable ({status})", fix)
    fix = "wait while it is built; on FAILED see Atlas, and the tier's limit of indexes (M0: 3)"
    return Line("failure", "vector index", f"not queryable ({status})", fix)


def same_definition(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two definitions say the same, whatever the order and the defaults spelled out."""

    def key(field: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        kept = {name: value for name, value in field.items() if value != "none"}
        return tuple(sorted((k, str(v)) for k, v in kept.items() if k in FIELDS))

    return {key(field) for field in found.get("fields", ())} == {
        key(field) for field in wanted.get("fields", ())
    }


FIELDS = ("type", "path", "numDimensions", "similarity", "quantization")


def _storage(db: Db) -> Iterator[Line]:
    with translate():
        stats = db.command("dbStats")
    used = int(stats.get("dataSize", 0)) + int(stats.get("indexSize", 0))
    if used > 0.8 * M0_BYTES:
        yield Line(
            "warning",
            "storage",
            f"{used // (1024 * 1024)} MB of data and indexes",
            "an M0 cluster holds 512 MB: choose a larger tier before it is full",
        )
    else:
        yield Line("ok", "storage", f"{used / (1024 * 1024):.1f} MB of data and indexes")


def _last_run(db: Db) -> Line:
    with translate():
        job = db[JOBS].find_one(
            {"kind": "backfill", "state": "succeeded"}, sort=[("finished_at", -1)]
        )
    if job is None:
        fix = "run `python -m indexer once`, or start the worker"
        return Line("warning", "last run", "no run of the indexer has succeeded yet", fix)
    return last_run(job["finished_at"], dt.datetime.now(dt.UTC))


def last_run(finished: dt.datetime, now: dt.datetime) -> Line:
    """How long ago the index was last in step with the CMS."""
    ago = now - (finished if finished.tzinfo else finished.replace(tzinfo=dt.UTC))
    hours = ago.total_seconds() / 3600
    if ago <= LATE:
        return Line("ok", "last run", f"{hours:.1f} hours ago")
    fix = "is the worker running? On Eco dynos, schedule `python -m indexer once --deadline 50m`"
    return Line("warning", "last run", f"{hours:.0f} hours ago", fix)
