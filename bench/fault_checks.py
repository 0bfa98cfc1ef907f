"""What must hold after every fault, by itself: nothing lost, doubled or resurrected."""

from __future__ import annotations

import itertools
from typing import Any

from bench.fault_ledger import Client
from bench.fault_system import Wrong, eventually
from faces.identity import SAME_FACE
from faces.types import Box

SETTLE_S = 180.0


def recovered(client: Client) -> float:
    """Seconds until the service is ready and no job is waiting or running, nobody helping."""
    system = client.system
    took = system.ready(SETTLE_S)

    def idle() -> bool:
        return not system.db.likeness_jobs.count_documents(
            {"state": {"$in": ["queued", "running"]}}
        )

    return took + eventually(idle, "jobs did not resume and end by themselves", SETTLE_S)


def check(client: Client) -> None:
    """Compare what is stored, what is found and what the audit says with the ledger."""
    client.backfill()
    _own_items(client)
    _cms_items(client)
    _faces(client)
    _search(client)
    _audit(client)


def _own_items(client: Client) -> None:
    db = client.system.db
    stored = {row["media_id"]: row for row in db.likeness_media.find({"source": "api"})}
    unknown = set(stored) - set(client.items)
    if unknown:
        raise Wrong(f"items that nobody sent: {sorted(unknown)}")
    for media_id, item in client.items.items():
        row = stored.get(media_id)
        live = row is not None and row["state"] != "gone"
        sha = row["sha256"] if row is not None and live else None
        possible = {item.sure, *item.maybe}
        seen = [p for p in possible if (client.sha(p) if p else None) == sha]
        if not seen:
            raise Wrong(f"{media_id}: stored is none of {possible}; an acknowledged state is lost")
        if item.sure != seen[0]:
            item.face = None
            client.subjects.pop(media_id, None)
        item.sure, item.maybe = seen[0], set()
        faces = list(db.likeness_faces.find({"media_id": media_id, "source": "api"}))
        expected = 1 if item.sure and item.sure not in item.erased else 0
        if len(faces) != expected:
            kind = "lost" if len(faces) < expected else "doubled or resurrected"
            raise Wrong(f"{media_id}: {len(faces)} faces instead of {expected}: {kind}")
        if not faces:
            continue
        if item.face not in (None, faces[0]["_id"]):
            raise Wrong(f"{media_id}: the face's id changed")
        item.face = faces[0]["_id"]
        subject = faces[0]["subject_id"]
        if media_id in client.maybe_subjects:
            client.maybe_subjects.discard(media_id)
            if subject:
                client.subjects[media_id] = subject
        if subject != client.subjects.get(media_id):
            raise Wrong(f"{media_id}: the acknowledged name is lost, or one came from nowhere")


def _cms_items(client: Client) -> None:
    system = client.system
    rows = list(system.db.likeness_media.find({"source": "cms", "state": {"$ne": "gone"}}))
    stored = {row["media_id"]: row.get("sha256") for row in rows if row["state"] == "done"}
    wanted = {key: client.sha(photo) for key, photo in system.listed.items()}
    if stored != wanted:
        missing, more = set(wanted) - set(stored), set(stored) - set(wanted)
        other = {key for key in set(wanted) & set(stored) if wanted[key] != stored[key]}
        raise Wrong(f"the CMS's items differ: missing {missing}, too many {more}, other {other}")


def _faces(client: Client) -> None:
    db = client.system.db
    faces = list(db.likeness_faces.find({"collection": "default"}, {"embeddings": 0}))
    by_item: dict[str, list[dict[str, Any]]] = {}
    for face in faces:
        by_item.setdefault(face["media_id"], []).append(face)
    for media_id, own in by_item.items():
        for one, other in itertools.combinations(own, 2):
            if _box(one).iou(_box(other)) >= SAME_FACE:
                raise Wrong(f"{media_id}: a face is stored twice")
    for key in client.system.listed:
        if len(by_item.get(key, [])) != 1:
            raise Wrong(f"{key}: {len(by_item.get(key, []))} faces of the CMS's picture, not 1")
    gone = client.gone
    back = gone & {face["_id"] for face in faces}
    if back:
        raise Wrong(f"deleted or erased faces are back: {sorted(back)}")
    crops = db.likeness_crops.count_documents({"_id": {"$in": sorted(gone)}})
    if crops:
        raise Wrong(f"{crops} crops of deleted or erased faces are left")


def _box(face: dict[str, Any]) -> Box:
    return Box(**face["box"])


def _search(client: Client) -> None:
    """The vector index finds exactly the stored faces; it may follow a little later."""
    stored = {row["_id"] for row in client.system.db.likeness_faces.find({"collection": "default"})}
    if not stored:
        return
    query = {"face_id": sorted(stored)[0], "include_own": True, "limit": 100,
             "min_similarity": -1, "exact": True}  # fmt: skip
    found: set[str] = set()

    def same() -> bool:
        nonlocal found
        status, body = client.call("POST", "/v1/search", json=query)
        if status == 200:
            found = {match["face_id"] for match in body["faces"][0]["matches"]}
        return found == stored

    try:
        eventually(same, "", 30)
    except Wrong:
        raise Wrong(
            f"search finds {len(found)} faces, stored are {len(stored)}: "
            f"{len(stored - found)} lost, {len(found - stored)} ghosts"
        ) from None


def _audit(client: Client) -> None:
    said = client.system.run("indexer", "audit", through_proxy=False)
    wrong = [line for line in said.splitlines() if ":" in line and not line.endswith(": 0")]
    if wrong:
        raise Wrong(f"audit: {'; '.join(wrong)}")
