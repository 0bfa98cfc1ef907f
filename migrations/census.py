"""How many search indexes the whole cluster has, as far as this user may look."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pymongo.errors import OperationFailure

from faces.database import Db, translate

T = TypeVar("T")
MOST = 300
"""Collections that are looked into; each is a round trip."""
_SYSTEM = ("admin", "config", "local")


@dataclass(frozen=True, slots=True)
class Census:
    """`count` search indexes were seen; `unseen` names what could not be looked into."""

    count: int
    unseen: tuple[str, ...] = ()


def take(db: Db) -> Census:
    """Counts the search indexes of every collection that this user sees, of all databases.

    What the server refuses to list is named and no error. Raises DatabaseUnavailable.
    """
    count, looked = 0, 0
    unseen: list[str] = []
    names = _listed(db.client.list_database_names)
    if names is None:
        unseen.append("other databases")
    for database in sorted({db.name, *(names or ())} - set(_SYSTEM)):
        there = db.client[database]
        collections = _listed(partial(there.list_collections, filter={"type": "collection"}))
        if collections is None:
            unseen.append(f"database {database}")
            continue
        for row in collections:
            name = row["name"]
            if name.startswith("system."):
                continue
            looked += 1
            found = None
            if looked <= MOST:
                found = _listed(partial(there[name].aggregate, [{"$listSearchIndexes": {}}]))
            if found is None:
                unseen.append(f"{database}.{name}")
            else:
                count += len(found)
    return Census(count, tuple(unseen))


def _listed(ask: Callable[[], Iterable[T]]) -> list[T] | None:
    """What is listed, or None when the server refuses to list it to this user."""
    with translate():
        try:
            return list(ask())
        except OperationFailure as error:
            if error.timeout:
                raise
            return None


def lines(seen: Census, created: int) -> list[str]:
    """What a plan that creates so many indexes says of the cluster's limits."""
    count = seen.count + created
    found = [
        f"{count} search index(es) on the cluster afterwards, in all databases that this user sees",
        "M0 takes 3, Flex 10, over all databases",
    ]
    if seen.unseen:
        shown = ", ".join(seen.unseen[:5]) + (", …" if len(seen.unseen) > 5 else "")
        found.append(f"not counted, as it could not be looked into: {shown}")
    return found
