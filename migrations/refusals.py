"""Atlas's own refusals of index commands, as sentences that say what to do."""

from __future__ import annotations

import json

from pymongo.errors import OperationFailure

from faces.errors import Conflict, DatabaseUnavailable, LikenessError
from migrations.step import Command


def explain(error: OperationFailure, command: Command) -> LikenessError | None:
    """Our error for a refused index command, or None when it is not one of search indexes'."""
    text = str(error).lower()
    code = error.code or 0
    if code == 68:
        return Conflict("An index of this name with another definition appeared: run this again.")
    if ("maximum" in text and "index" in text) or ("limit" in text and "index" in text):
        return Conflict(
            "The cluster holds as many search indexes as its tier allows (3 on M0, 10 on Flex, "
            "over all databases): drop one that is not needed, an old model's by "
            "`python -m migrations model prune`, or take a larger tier."
        )
    if "quota" in text or "disk space" in text or "storage space" in text:
        return Conflict(
            "The cluster has no room for the index: `python -m migrations size` shows what it "
            "needs. Free space or take a larger tier."
        )
    if code == 13 or "not authorized" in text or "not allowed" in text:
        return DatabaseUnavailable(
            "The database user may not manage search indexes. Give it the role readWrite (or "
            "dbAdmin) on this database, or set MIGRATIONS_MONGODB_URI to a user that has it, or "
            + by_hand(command)
        )
    if code in (59, 115, 31082):
        return DatabaseUnavailable(
            "This deployment does not take search index commands from a driver, as with older M0 "
            "clusters and servers without Atlas Search. On Atlas, " + by_hand(command)
        )
    return None


def by_hand(command: Command) -> str:
    """How to make the index on Atlas's page, with the definition as JSON."""
    name, definition = "", command.get("definition")
    if "indexes" in command:
        name, definition = command["indexes"][0]["name"], command["indexes"][0]["definition"]
    else:
        name = command.get("name", "")
    return (
        "create it by hand: open the cluster, Atlas Search, Create Search Index, Vector Search, "
        f"JSON editor; collection likeness_faces, name {name}, definition:\n"
        + json.dumps(definition, indent=2)
    )
