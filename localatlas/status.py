"""What `localatlas status` prints about a data folder."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from localatlas.catalog import CATALOG, Catalog
from localatlas.startup import DataFolder, StartError

# Exit statuses, as `systemctl status` has them.
RUNNING, UNKNOWN, NOT_RUNNING = 0, 1, 3


def report(folder: DataFolder) -> tuple[int, list[str]]:
    """The exit status and the lines to print."""
    catalog = Catalog(folder.front / CATALOG)
    try:
        catalog.load()
    except StartError as error:
        return UNKNOWN, [f"localatlas: {error}"]
    holder = folder.holder() if folder.held() else None
    if holder is None or "uri" not in holder:
        lines = [f"localatlas: nothing runs on {folder.path}"]
        states = ["not running"] * len(catalog)
    else:
        uri = str(holder["uri"])
        lines = [f"localatlas: process {holder['pid']} serves {folder.path} at {uri}"]
        states = [_state(uri, one.database, one.collection, one.name) for one in catalog]
    for entry, state in zip(catalog, states, strict=True):
        lines.append(f"  {entry.database}.{entry.collection} {entry.name}: {state}")
    return (NOT_RUNNING if holder is None or "uri" not in holder else RUNNING), lines


def _state(uri: str, database: str, collection: str, name: str) -> str:
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=2000) as client:
            for index in client[database][collection].list_search_indexes(name):
                return f"{index['status']}, {'' if index['queryable'] else 'not '}queryable"
    except OperationFailure as error:
        return "needs a login to tell" if error.code == 13 else "could not be asked"
    except PyMongoError:
        return "does not answer"
    return "its collection is gone"
