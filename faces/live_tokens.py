"""Where a change stream of a source goes on after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faces.database import LEASES, Db, translate


class LiveTokens:
    """Resume tokens by source name."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def load(self, source: str) -> Mapping[str, Any] | None:
        """The token of the last event that was dealt with, or None."""
        with translate():
            row = self._db[LEASES].find_one({"_id": _key(source)})
        return row.get("token") if row else None

    def save(self, source: str, token: Mapping[str, Any]) -> None:
        """Remember that everything up to `token` is dealt with."""
        with translate():
            self._db[LEASES].update_one(
                {"_id": _key(source)}, {"$set": {"kind": "live", "token": token}}, upsert=True
            )

    def forget(self, source: str) -> None:
        """Start anew the next time."""
        with translate():
            self._db[LEASES].delete_one({"_id": _key(source)})


def _key(source: str) -> str:
    return f"live-token/{source}"
