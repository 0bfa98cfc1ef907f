"""Which processes are alive, by their own heartbeats on server time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faces.database import LEASES, Db, Document, translate
from faces.leases import Holder

WEB = "web"
WORKER = "worker"
BEAT_TTL_S = 15.0
"""A process that has not beaten for so long counts as dead; beat every 5 s."""
_FORGET_MS = 24 * 3600 * 1000
_NOW_MS: Document = {"$toLong": "$$NOW"}


@dataclass(frozen=True, slots=True)
class Process:
    """A live process. `models` are those whose vectors it can make."""

    name: str
    role: str
    models: tuple[str, ...]
    problem: str | None


class Presence:
    """Writes and reads heartbeats."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def beat(self, holder: Holder, models: Sequence[str] = (), problem: str | None = None) -> None:
        """Says that this process lives and which models it has loaded.

        `problem` says in a sentence why it cannot load the model that a switch prepares.
        """
        with translate():
            self._db[LEASES].update_one(
                {"_id": _key(holder)},
                [
                    {
                        "$set": {
                            "kind": "process",
                            "holder": {"$literal": holder.document()},
                            "models": {"$literal": sorted(models)},
                            "problem": {"$literal": problem},
                            "expires_ms": {"$add": [_NOW_MS, int(BEAT_TTL_S * 1000)]},
                            "heartbeat_at": "$$NOW",
                        }
                    }
                ],
                upsert=True,
            )

    def leave(self, holder: Holder) -> None:
        """Says that this process ends."""
        with translate():
            self._db[LEASES].delete_one({"_id": _key(holder)})

    def processes(self) -> list[Process]:
        """The live processes. Those that died long ago are forgotten."""
        left: Document = {"$subtract": ["$expires_ms", _NOW_MS]}
        with translate():
            rows = list(
                self._db[LEASES].aggregate(
                    [{"$match": {"kind": "process"}}, {"$set": {"left_ms": left}}]
                )
            )
            for row in rows:
                if row["left_ms"] < -_FORGET_MS:
                    self._db[LEASES].delete_one(
                        {"_id": row["_id"], "expires_ms": row["expires_ms"]}
                    )
        return [
            Process(row["_id"], row["holder"]["role"], tuple(row["models"]), row["problem"])
            for row in rows
            if row["left_ms"] > 0 and not Holder.of(row["holder"]).gone()
        ]

    def alive(self, role: str) -> bool:
        """Whether a process of this role lives."""
        return any(process.role == role for process in self.processes())


def _key(holder: Holder) -> str:
    return f"process/{holder.host}/{holder.pid}/{holder.started}/{holder.role}"
