"""Leases on server time: one holder at a time, and an epoch that grows with each grant.

A lease alone is unsafe after a pause: every write made under one carries its `Fence`, and the
store refuses it once another holder has a later epoch.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from faces.database import JOBS, LEASES, Db, Document, Raced, Session, translate
from faces.errors import LeaseLost

JOB_FENCE = "job/"
"""A fence of this prefix is a job's claim; its epoch stands in the job's document."""


_TRIES = 5


@dataclass(frozen=True, slots=True)
class Holder:
    """A process: where it runs, its pid and its start time, which together name one run of it."""

    host: str
    pid: int
    started: int
    role: str = ""

    @classmethod
    def this_process(cls, role: str = "") -> Holder:
        """The calling process."""
        return cls(_host(), os.getpid(), _started(os.getpid()) or 0, role)

    def gone(self) -> bool:
        """Whether it certainly no longer runs; false for processes of other machines."""
        return self.host == _host() and self.started != 0 and _started(self.pid) != self.started

    def document(self) -> Document:
        """As stored."""
        return {"host": self.host, "pid": self.pid, "started": self.started, "role": self.role}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Holder:
        """The inverse of `document`."""
        return cls(document["host"], document["pid"], document["started"], document.get("role", ""))


@dataclass(frozen=True, slots=True)
class Fence:
    """The proof of a lease that a write carries."""

    name: str
    epoch: int


Guard: TypeAlias = Callable[[Session], None]
"""Raises when the caller may not write any more."""


class Lease:
    """A granted lease. `renew` it well within its time; leaving the `with` block releases it."""

    def __init__(self, db: Db, name: str, epoch: int, ttl_s: float) -> None:
        self._db = db
        self.name = name
        self.epoch = epoch
        self.ttl_s = ttl_s

    @property
    def fence(self) -> Fence:
        """What writes under this lease carry."""
        return Fence(self.name, self.epoch)

    def renew(self) -> None:
        """Holds it for another full time. Raises LeaseLost when another holder has it."""
        with translate():
            changed = self._db[LEASES].update_one(
                {"_id": self.name, "epoch": self.epoch}, [{"$set": _until(self.ttl_s)}]
            )
        if not changed.matched_count:
            raise LeaseLost

    def release(self) -> None:
        """Frees it for the next holder; does nothing when it is lost already."""
        with translate():
            self._db[LEASES].update_one(
                {"_id": self.name, "epoch": self.epoch}, {"$set": {"expires_ms": 0}}
            )

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases:
    """Grants leases that are documents of one collection."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def acquire(self, name: str, holder: Holder, ttl_s: float) -> Lease | None:
        """The lease for `ttl_s` seconds of server time, or None while another holder has it.

        A holder that ran on this machine and died loses it at once.
        """
        with translate():
            token = uuid.uuid4().hex
            document = self._take(name, holder, token, ttl_s)
            if document["token"] == token:
                return Lease(self._db, name, document["epoch"], ttl_s)
            if Holder.of(document["holder"]).gone():
                # Only the grant that was seen to be dead is ended, never a newer one.
                self._db[LEASES].update_one(
                    {"_id": name, "epoch": document["epoch"]}, {"$set": {"expires_ms": 0}}
                )
                document = self._take(name, holder, token, ttl_s)
                if document["token"] == token:
                    return Lease(self._db, name, document["epoch"], ttl_s)
        return None

    def holder(self, name: str) -> Holder | None:
        """Who holds the lease now, or None."""
        with translate():
            rows = list(
                self._db[LEASES].aggregate([{"$match": {"_id": name}}, {"$set": {"live": _LIVE}}])
            )
        if not rows or not rows[0]["live"]:
            return None
        return Holder.of(rows[0]["holder"])

    def _take(self, name: str, holder: Holder, token: str, ttl_s: float) -> Document:
        free: Document = {"$not": [_LIVE]}
        # Counted from the moment of the first grant: where somebody removed the lease, what items
        # remember of an earlier one stays behind, and nobody has an epoch for the second time.
        grant = {
            "epoch": {
                "$cond": ["$free", {"$add": [{"$ifNull": ["$epoch", _NOW_MS]}, 1]}, "$epoch"]
            },
            "holder": {"$cond": ["$free", {"$literal": holder.document()}, "$holder"]},
            "token": {"$cond": ["$free", token, "$token"]},
            "granted_at": {"$cond": ["$free", "$$NOW", "$granted_at"]},
            "expires_ms": {"$cond": ["$free", _until(ttl_s)["expires_ms"], "$expires_ms"]},
        }
        update: list[Document] = [{"$set": {"free": free}}, {"$set": grant}, {"$unset": "free"}]
        for _ in range(_TRIES):
            try:
                document = self._db[LEASES].find_one_and_update(
                    {"_id": name}, update, upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:
                continue  # another process made the document first
            if document is not None:
                return document
        raise Raced


def check_fence(db: Db, fence: Fence | None, session: Session) -> None:
    """Raises LeaseLost when the fence's lease has a later epoch, or its job has ended, as seen by
    the transaction."""
    if fence is None:
        return
    job = fence.name.startswith(JOB_FENCE)
    held: Document = {"_id": fence.name.removeprefix(JOB_FENCE), "epoch": fence.epoch}
    if job:
        held["state"] = "running"  # given up by another worker, it keeps its epoch
    found = db[JOBS if job else LEASES].find_one(held, {"_id": 1}, session=session)
    if found is None:
        raise LeaseLost


def one_after_another(db: Db, name: str, session: Session) -> None:
    """Lets transactions that begin with the same `name` not pass each other unseen.

    Each writes the same document: of two at once, one has to begin anew. Raises Raced.
    """
    try:
        db[LEASES].update_one(
            {"_id": name},
            {"$set": {"kind": "start"}, "$inc": {"count": 1}},
            upsert=True,
            session=session,
        )
    except DuplicateKeyError as error:
        raise Raced from error


_NOW_MS: Document = {"$toLong": "$$NOW"}
_LIVE: Document = {"$gt": [{"$ifNull": ["$expires_ms", 0]}, _NOW_MS]}


def _until(ttl_s: float) -> Document:
    return {"expires_ms": {"$add": [_NOW_MS, int(ttl_s * 1000)]}, "heartbeat_at": "$$NOW"}


def _host() -> str:
    """This machine, boot and pid namespace: two containers of one machine differ."""
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))
    try:
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        namespace = "-"
    return "/".join((socket.gethostname(), boot or "-", namespace))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """The process's start time in clock ticks since boot; None when it does not run."""
    text = _read(Path(f"/proc/{pid}/stat"))
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
