"""The ledger of applied steps, and running one step."""

from __future__ import annotations

import datetime as dt
import getpass
import importlib.metadata
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pymongo.errors import OperationFailure

from faces import documents
from faces.database import MIGRATIONS, Db, translate
from faces.errors import Conflict
from migrations.step import Command, Step

# Namespace exists; index not found; index (collection) not found: the command did its work before.
_DONE_BEFORE = {48, 27, 26}


@dataclass(frozen=True, slots=True)
class Applied:
    """A step in the ledger."""

    name: str
    checksum: str
    applied_at: dt.datetime
    duration_ms: int
    by: str
    release: str
    breaking: str | None


class Ledger:
    """Reads and writes the ledger."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def applied(self) -> dict[str, Applied]:
        """Applied steps by name."""
        with translate():
            rows = list(self._db[MIGRATIONS].find({"kind": "step"}).sort([("_id", 1)]))
        return {
            row["_id"]: Applied(
                row["_id"],
                row["checksum"],
                row["applied_at"],
                row["duration_ms"],
                row["by"],
                row["release"],
                row.get("breaking"),
            )
            for row in rows
        }

    def run_up(self, step: Step) -> int:
        """Applies a step and records it; how many milliseconds it took. Safe to repeat."""
        began = time.monotonic()
        self.send(step.up())
        took = round((time.monotonic() - began) * 1000)
        with translate():
            self._db[MIGRATIONS].update_one(
                {"_id": step.name},
                {
                    "$set": {
                        "kind": "step",
                        "checksum": step.checksum,
                        "applied_at": documents.utc(dt.datetime.now(dt.UTC)),
                        "duration_ms": took,
                        "by": who(),
                        "release": release(),
                        "breaking": step.breaking,
                    }
                },
                upsert=True,
            )
        return took

    def run_down(self, step: Step) -> None:
        """Reverts a step and takes it out of the ledger."""
        self.send(step.down())
        with translate():
            self._db[MIGRATIONS].delete_one({"_id": step.name})

    def note(self, name: str, what: Mapping[str, object]) -> None:
        """Records something that is no step: an index that was measured and accepted."""
        with translate():
            self._db[MIGRATIONS].update_one(
                {"_id": name},
                {
                    "$set": {
                        "kind": "note",
                        **what,
                        "at": documents.utc(dt.datetime.now(dt.UTC)),
                        "by": who(),
                        "release": release(),
                    }
                },
                upsert=True,
            )

    def send(self, commands: Sequence[Command]) -> None:
        """Sends commands in order; one that finds its work done is no error."""
        for command in (each for given in commands for each in _one_by_one(given)):
            with translate():
                try:
                    self._db.command(command)
                except OperationFailure as error:
                    if error.code not in _DONE_BEFORE:
                        raise


def _one_by_one(command: Command) -> list[Command]:
    """A command that drops several indexes as one for each.

    Together, one that is gone already would keep the others, and not every server takes a list.
    """
    names = command.get("index")
    if "dropIndexes" not in command or not isinstance(names, list):
        return [command]
    return [{**command, "index": name} for name in names]


def check_known(steps: Sequence[Step], applied: Mapping[str, Applied]) -> list[str]:
    """The applied steps that this code does not know, as after a rollback of the release.

    Raises Conflict for a step that changed after it was applied, and for an unknown one that is
    marked breaking.
    """
    known = {step.name: step for step in steps}
    for name, entry in applied.items():
        step = known.get(name)
        if step is not None and step.checksum != entry.checksum:
            raise Conflict(
                f"Step {name} was changed after it was applied by release {entry.release}: "
                "restore the file and put the change into a new step."
            )
        if step is None and entry.breaking:
            raise Conflict(
                f"The database has step {name}, which this release cannot work with: "
                f"return to release {entry.breaking} or later."
            )
    return sorted(set(applied) - set(known))


def who() -> str:
    """The user and machine that run the migration."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def release() -> str:
    """The version of this code."""
    try:
        return importlib.metadata.version("likeness")
    except importlib.metadata.PackageNotFoundError:
        return "source"
