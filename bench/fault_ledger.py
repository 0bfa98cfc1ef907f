"""The client's ledger: what was sent, what was acknowledged, and what must therefore be there."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from bench.fault_system import System, Wrong, eventually

BASE = "/v1/collections/default"
ENDED = ("succeeded", "failed", "cancelled")


class Item:
    """One picture that only the client writes.

    `sure` is the photo of the last acknowledged state, None when absent; `maybe` holds the states
    that requests without an answer may have led to.
    """

    def __init__(self) -> None:
        self.sure: str | None = None
        self.maybe: set[str | None] = set()
        self.face: str | None = None
        self.erased: set[str] = set()


class Client:
    """Sends operations through the service's API and keeps the fsynced ledger of them.

    Several threads may use it, each for an item of its own.
    """

    def __init__(self, system: System, photos: Mapping[str, bytes], folder: Path) -> None:
        self.system = system
        self.photos = dict(photos)
        self.items: dict[str, Item] = {}
        self.erased: set[str] = set()
        self.deleted: dict[str, set[str]] = {}
        self.subjects: dict[str, str] = {}
        self.maybe_subjects: set[str] = set()
        self.statuses: dict[str, int] = {}
        self.slowest = 0.0
        self._lock = threading.Lock()
        self._file = (folder / "ledger.jsonl").open("a", encoding="utf-8")
        self._http = httpx2.Client(base_url=f"http://127.0.0.1:{system.port}", timeout=30)

    def learn(self, enough: int = 8) -> None:
        """Keep the first photos in which exactly one face is found."""
        kept: dict[str, bytes] = {}
        for name, data in self.photos.items():
            status, body = self.call("POST", "/v1/detect", files={"image": ("p.jpg", data)})
            if status == 200 and len(body["faces"]) == 1:
                kept[name] = data
            if len(kept) == enough:
                break
        self.photos = kept

    def close(self) -> None:
        """Close the ledger and the connections."""
        self._http.close()
        self._file.close()

    def call(self, method: str, path: str, **given: Any) -> tuple[int, Any]:
        """Status and JSON; status 0 when no answer came. A 500 or a hang is Wrong at once."""
        began = time.monotonic()
        try:
            answer = self._http.request(method, path, **given)
        except httpx2.TransportError as error:
            if isinstance(error, httpx2.ReadTimeout):
                raise Wrong(f"{method} {path} had no answer within 30 s") from None
            self._count("no answer")
            return 0, {}
        self.slowest = max(self.slowest, time.monotonic() - began)
        try:
            body = answer.json()
        except ValueError:
            said = f"{answer.status_code} without JSON: {answer.text[:80]!r}"
            raise Wrong(f"{method} {path} was answered {said}") from None
        code = str(answer.status_code) + (f" {body['code']}" if "code" in body else "")
        self._count(code)
        if answer.status_code == 500:
            raise Wrong(f"{method} {path} was answered 500")
        return answer.status_code, body

    def put(self, media_id: str, photo: str) -> bool:
        """Whether the upload of a photo with one face was acknowledged."""
        item = self.items.setdefault(media_id, Item())
        self._note("put", media_id, photo)
        # A face's id follows from its picture: the same one put again after its deletion has it.
        self.deleted.pop(media_id, None)
        item.maybe.add(photo)
        status, body = self.call(
            "PUT", f"{BASE}/media/{media_id}", files={"image": ("p.jpg", self.photos[photo])}
        )
        if status not in (200, 201):
            self._refused("put", status, body)
            return False
        self._note("acknowledged put", media_id, photo)
        if item.sure != photo or item.maybe - {photo}:
            item.face = None
        item.sure, item.maybe = photo, set()
        faces = [face["face_id"] for face in body["faces"]]
        expected = 0 if photo in item.erased else 1
        if len(faces) != expected:
            raise Wrong(f"{media_id}: {len(faces)} faces acknowledged instead of {expected}")
        if faces and item.face not in (None, faces[0]):
            raise Wrong(f"{media_id}: the face's id changed")
        item.face = faces[0] if faces else None
        return True

    def delete(self, media_id: str) -> bool:
        """Whether the deletion was acknowledged."""
        item = self.items[media_id]
        self._note("delete", media_id)
        item.maybe.add(None)
        status, body = self.call("DELETE", f"{BASE}/media/{media_id}")
        if status not in (200, 404):
            self._refused("delete", status, body)
            return False
        self._note("acknowledged delete", media_id)
        if item.face:
            self.deleted.setdefault(media_id, set()).add(item.face)
        item.sure, item.maybe, item.face = None, set(), None
        return True

    def name(self, subject: str, media_id: str) -> bool:
        """Whether naming the face of an item was acknowledged."""
        item = self.items[media_id]
        self._note("name", media_id, subject)
        self.call("POST", f"{BASE}/subjects", json={"subject_id": subject, "name": subject})
        self.maybe_subjects.add(media_id)
        status, body = self.call(
            "POST", f"{BASE}/subjects/{subject}/faces", json={"face_ids": [item.face]}
        )
        if status != 200:
            self._refused("name", status, body)
            return False
        self._note("acknowledged name", media_id, subject)
        self.maybe_subjects.discard(media_id)
        self.subjects[media_id] = subject
        return True

    def erase(self, subject: str) -> str | None:
        """The job that erases a person, when it was acknowledged."""
        self._note("erase", subject)
        status, body = self.call("POST", f"{BASE}/subjects/{subject}/erase")
        if status != 202:
            self._refused("erase", status, body)
            return None
        self._note("acknowledged erase", subject)
        for media_id in [m for m, s in self.subjects.items() if s == subject]:
            item = self.items[media_id]
            assert item.face is not None
            assert item.sure is not None
            self.erased.add(item.face)
            item.erased.add(item.sure)
            item.face = None
            del self.subjects[media_id]
        return str(body["job_id"])

    def start(self, kind: str) -> str | None:
        """The id of a started job, when it was acknowledged."""
        self._note("job", kind)
        status, body = self.call("POST", "/v1/jobs", json={"kind": kind})
        if status != 202:
            self._refused(kind, status, body)
            return None
        self._note("acknowledged job", kind, body["job_id"])
        return str(body["job_id"])

    def wait(self, job: str, within: float = 180.0) -> dict[str, Any]:
        """An ended job. Raises Wrong when it does not end, or is lost."""
        found: dict[str, Any] = {}

        def over() -> bool:
            nonlocal found
            status, found = self.call("GET", f"/v1/jobs/{job}")
            if status == 404:
                raise Wrong(f"the acknowledged job {job} is lost")
            return status == 200 and found["state"] in ENDED

        try:
            eventually(over, f"the job {job} did not end", within, 0.2)
        except Wrong as error:
            raise Wrong(f"{error}: {found.get('state') or found.get('code')}") from None
        return found

    def backfill(self, within: float = 180.0) -> dict[str, Any]:
        """A reconcile that succeeded."""
        job = self.start("backfill")
        if job is None:
            raise Wrong("a backfill could not be started")
        ended = self.wait(job, within)
        if ended["state"] != "succeeded":
            raise Wrong(f"a backfill {ended['state']}: {ended.get('last_error')}")
        return ended

    @property
    def gone(self) -> set[str]:
        """The ids of faces that may not be anywhere."""
        return self.erased.union(*self.deleted.values())

    def sha(self, photo: str) -> str:
        """The SHA-256 of a photo, as stored."""
        return hashlib.sha256(self.photos[photo]).hexdigest()

    def _refused(self, what: str, status: int, body: Any) -> None:
        """Only what a client may try again is a proper answer to a fault."""
        if status not in (0, 502, 503, 504, 409, 404):
            raise Wrong(f"{what} was answered {status} {body.get('code')}")
        if status in (503, 504) and not body.get("code"):
            raise Wrong(f"{what} was answered {status} without a code")

    def _count(self, key: str) -> None:
        with self._lock:
            self.statuses[key] = self.statuses.get(key, 0) + 1

    def _note(self, *words: str) -> None:
        with self._lock:
            self._file.write(json.dumps([round(time.time(), 3), *words]) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


def written(folder: Path) -> int:
    """How many operations the ledger holds as acknowledged."""
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return sum(1 for line in lines if json.loads(line)[1].startswith("acknowledged"))
