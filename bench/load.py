"""`python -m bench load`: searches, uploads and a backfill at once, on loopback, for a while.

Then one key floods far over its rate limit, and another must not feel it. Ends with status 1 on
an answer that may not be, on an upload that was acknowledged and is not there, on a backfill that
stood still, and on a process that leaks.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2

from bench import flood
from bench.crowd import Crowd
from bench.fault_ledger import BASE, Client
from bench.fault_system import Wrong
from bench.load_system import Measured, Plain, gallery, run, vectors, with_a_face
from bench.report import Row, say
from bench.vitals import Slope

ITEMS = 50
"""How many ids each uploading client uses, over and over."""
LISTED = 200
MOST_A_MINUTE = 20.0
"""MiB that a process may add in a minute once it is warm; more, beyond chance, is a leak. Less may
be pages that it shared with a child that ended: what grows slowly is for the soak to tell."""


class Uploads:
    """What was sent under which id, and what the service acknowledged last."""

    def __init__(self, photos: Sequence[bytes]) -> None:
        self._photos = photos
        self._lock = threading.Lock()
        self.acknowledged: dict[str, tuple[str, set[str]]] = {}
        self._unsure: set[str] = set()

    def act(self, client: httpx2.Client, turn: int) -> httpx2.Response:
        """Put another picture under one of the client's ids."""
        # Bytes behind the end of a picture are ignored, and make it another picture.
        data = self._photos[turn % len(self._photos)] + turn.to_bytes(8, "big")
        media_id = f"load-{turn % 100}-{turn // 100 % ITEMS}"
        with self._lock:
            self._unsure.add(media_id)
        answer = client.put(f"{BASE}/media/{media_id}", files={"image": ("p.jpg", data)})
        if answer.is_success:
            faces = {face["face_id"] for face in answer.json()["faces"]}
            with self._lock:
                self._unsure.discard(media_id)
                self.acknowledged[media_id] = (hashlib.sha256(data).hexdigest(), faces)
        elif answer.status_code < 500 or answer.json().get("code") == "busy":
            with self._lock:  # refused: what was there is there
                self._unsure.discard(media_id)
        return answer

    def lost(self, system: Plain) -> list[str]:
        """A sentence for each acknowledged upload that is not stored as it was acknowledged."""
        found = []
        for media_id, (sha, faces) in sorted(self.acknowledged.items()):
            if media_id in self._unsure:
                continue
            key = {"collection": "default", "media_id": media_id}
            row = system.db.likeness_media.find_one(key)
            stored = {face["_id"] for face in system.db.likeness_faces.find(key, {"_id": 1})}
            if row is None or row["state"] != "done" or row["sha256"] != sha:
                found.append(f"the acknowledged upload of {media_id} is lost")
            elif stored != faces:
                found.append(f"{media_id}: {len(stored)} faces instead of the {len(faces)} "
                             "acknowledged")  # fmt: skip
        return found


def main(argv: Sequence[str]) -> int:
    """Exit status 0 when nothing was answered wrongly and nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="searching by photo (%(default)s)")
    parser.add_argument("--vectors", type=int, default=2, help="searching by vector (%(default)s)")
    parser.add_argument("--uploads", type=int, default=2, help="uploading (%(default)s)")
    given = parser.parse_args(argv)

    def measure(system: Plain, folder: Path) -> Measured:
        rows, wrong = _measure(system, folder, given)
        more, less = flood.measure(system, max(10.0, min(30.0, given.seconds / 10)))
        return rows + more, wrong + less

    return run("load", measure)


def _measure(system: Plain, folder: Path, given: argparse.Namespace) -> Measured:
    client = Client(system, gallery(), folder)
    photos = with_a_face(client)
    known = vectors(client, photos)
    files = [{"image": ("p.jpg", data)} for data in photos.values()]
    uploads, crowd = Uploads(list(photos.values())), Crowd(system.port)

    def by_photo(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.post("/v1/search", files=files[turn % len(files)], data={"limit": "5"})

    def by_vector(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.post("/v1/search", json={"vector": known[turn % len(known)], "limit": 5})

    say(f"load: {given.clients} clients search by photo, {given.vectors} by vector, "
        f"{given.uploads} upload, backfills, for {given.seconds:.0f} s")  # fmt: skip
    vitals = system.vitals()
    crowd.start("upload", given.uploads, uploads.act)
    time.sleep(2)  # so that there is something to find
    crowd.start("search by photo", given.clients, by_photo)
    crowd.start("search by vector", given.vectors, by_vector)
    done = _backfills(client, photos, given.seconds)
    crowd.join()
    vitals.close()
    client.close()
    rows = crowd.rows(goal_p99=2000.0)
    rows.append(Row("backfill, items looked at", round(done / given.seconds, 1), "/s", "higher"))
    lost = uploads.lost(system)
    rows.append(Row("uploads acknowledged, and there", len(uploads.acknowledged) - len(lost),
                    "ids", "higher", goal=float(len(uploads.acknowledged))))  # fmt: skip
    wrong = crowd.wrong() + lost + ([] if done else ["the backfill stood still"])
    more, growing = growth(vitals.slopes(given.seconds / 3))
    return rows + vitals.peaks() + more, wrong + growing


def growth(slopes: dict[str, dict[str, Slope]]) -> tuple[list[Row], list[str]]:
    """What each process of ours added in a minute, and a sentence for each that leaks."""
    rows, wrong = [], []
    for name, figures in slopes.items():
        if name.startswith("atlas"):
            continue
        rise, error = figures["memory"].per_hour / 60, figures["memory"].error / 60
        rows.append(Row(f"{name}, memory in a minute", round(rise, 1), "MiB",
                        note=f"+- {error:.1f}, after the first third"))  # fmt: skip
        if rise - 3 * error > MOST_A_MINUTE:
            wrong.append(f"{name}: memory grows by {rise:.0f} MiB a minute")
    return rows, wrong


def _backfills(client: Client, photos: dict[str, bytes], seconds: float) -> int:
    """How many items backfills looked at in that time, each of a listing that has all changed."""
    names, chance = sorted(photos), random.Random(1)
    done, job, turn, began = 0, "", 0, time.monotonic()
    while time.monotonic() - began < seconds:
        if not job:
            listing = {f"cms-{n}": names[(n + turn) % len(names)] for n in range(LISTED)}
            client.system.list(listing, photos)
            turn += 1
            job = client.start("backfill") or ""
        else:
            status, state = client.call("GET", f"/v1/jobs/{job}")
            if status == 200 and state["state"] in ("failed", "cancelled"):
                raise Wrong(f"a backfill {state['state']}: {state.get('last_error')}")
            if status == 200 and state["state"] == "succeeded":
                done, job = done + int(state["done"] or 0), ""
        time.sleep(1 + chance.random() / 10)
    if job:
        status, state = client.call("GET", f"/v1/jobs/{job}")
        done += int(state.get("done") or 0) if status == 200 else 0
    return done
