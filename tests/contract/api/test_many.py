"""Much at once: pages while others write, changes of many faces, starts of one job."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pymongo import MongoClient

from faces.database import FACES
from tests.contract.api.conftest import ROOT, Start

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
FACE = "00000000-0000-4000-8000-{:012d}"


@pytest.fixture
def faces(migrated: dict[str, str]) -> Iterator[Any]:
    """The database's collection of faces."""
    with MongoClient[dict[str, Any]](migrated["MONGODB_URI"], tz_aware=True) as client:
        yield client[migrated["MONGODB_DATABASE"]][FACES]


@pytest.fixture
def crowd(client: httpx2.Client, collection: str, probes: dict[str, Path], faces: Any) -> list[str]:
    """The ids of 501 faces of the collection, copies of one."""
    photo = {"image": probes["madonna"].read_bytes()}
    put = client.put(f"/v1/collections/{collection}/media/m", files=photo)
    first = faces.find_one({"_id": put.json()["faces"][0]["face_id"]})
    salt = secrets.randbelow(10**6)
    copies = [
        {**first, "_id": FACE.format(salt * 10**6 + n), "media_id": f"copy-{n:03}"}
        for n in range(500)
    ]
    faces.insert_many(copies)
    return [first["_id"], *(copy["_id"] for copy in copies)]


def test_more_than_five_hundred_faces_are_assigned_and_unassigned_by_a_job(
    client: httpx2.Client, collection: str, crowd: list[str]
) -> None:
    subjects = f"/v1/collections/{collection}/subjects"
    assert client.post(subjects, json={"subject_id": "ada"}).status_code == 201
    few = client.post(f"{subjects}/ada/faces", json={"face_ids": crowd[:500]})
    assert (few.status_code, few.json()["faces_assigned"]) == (200, 500)
    for method, kind in (("POST", "assign"), ("DELETE", "unassign")):
        many = client.request(method, f"{subjects}/ada/faces", json={"face_ids": crowd})
        assert many.status_code == 202, many.text
        job_id = many.json()["job_id"]
        assert many.headers["location"] == f"/v1/jobs/{job_id}"
        job = client.get(many.headers["location"]).json()
        assert (job["kind"], job["state"], job["waiting_for"]) == (kind, "queued", "worker")


def test_pages_hold_what_stays_exactly_once_while_others_write(
    client: httpx2.Client, collection: str, crowd: list[str], faces: Any
) -> None:
    """Half of the faces come and go during the listing; the other half is in it once each."""
    stay = set(crowd[::2])
    go = list(faces.find({"_id": {"$in": crowd[1::2]}}))
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            faces.delete_many({"_id": {"$in": [row["_id"] for row in go]}})
            faces.insert_many(go)

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for limit in (19, 83, 250):
            seen: list[str] = []
            cursor = None
            while True:
                query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
                page = client.get(f"/v1/collections/{collection}/faces", params=query)
                assert page.status_code == 200, page.text
                seen += [face["face_id"] for face in page.json()["items"]]
                cursor = page.json()["next_cursor"]
                if cursor is None:
                    break
            assert len(seen) == len(set(seen)), "an item came twice"
            assert stay <= set(seen), "an item that stayed was skipped"
            assert set(seen) <= set(crowd)
    finally:
        done.set()
        writer.join()


def test_items_and_subjects_page_without_gap_while_others_come_and_go(
    client: httpx2.Client, collection: str, probes: dict[str, Path]
) -> None:
    root = f"/v1/collections/{collection}"
    stay = {f"s{n:02}" for n in range(24)}
    for name in sorted(stay):
        made = client.post(f"{root}/subjects", json={"subject_id": name, "name": name})
        assert made.status_code == 201
    done = threading.Event()

    def churn() -> None:
        with httpx2.Client(base_url=client.base_url, trust_env=False, timeout=60) as other:
            turn = 0
            while not done.is_set():
                name = f"s{turn % 24:02}-{turn % 3}"
                other.post(f"{root}/subjects", json={"subject_id": name, "name": name})
                other.delete(f"{root}/subjects/s{(turn - 5) % 24:02}-{(turn - 5) % 3}")
                turn += 1

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for limit in (1, 3, 10):
            seen: list[str] = []
            cursor: str | None = ""
            while cursor is not None:
                query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
                page = client.get(f"{root}/subjects", params=query).json()
                seen += [subject["subject_id"] for subject in page["items"]]
                cursor = page["next_cursor"]
            assert len(seen) == len(set(seen))
            assert stay <= set(seen)
    finally:
        done.set()
        writer.join()


def test_of_many_starts_in_two_processes_one_makes_the_job(
    client: httpx2.Client, start: Start, migrated: dict[str, str], collection: str
) -> None:
    second = start("/healthz", **migrated)
    body = {"kind": "backfill", "collection": collection}
    with second.client() as other, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda number: (client, other)[number % 2].post("/v1/jobs", json=body), range(24)
            )
        )
        assert {answer.status_code for answer in answers} == {202}
        (job_id,) = {answer.json()["job_id"] for answer in answers}
        rehearsal = client.post("/v1/jobs", json={**body, "dry_run": True})
        assert rehearsal.json()["job_id"] != job_id
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        anew = other.post("/v1/jobs", json=body)
        assert anew.json()["job_id"] != job_id


def test_a_deleted_collection_keeps_no_tombstone_but_of_erased_people(
    client: httpx2.Client, collection: str, migrated: dict[str, str], probes: dict[str, Path]
) -> None:
    root = f"/v1/collections/{collection}"
    ids = []
    for person, path in probes.items():
        put = client.put(f"{root}/media/{person}", files={"image": path.read_bytes()})
        ids.append(put.json()["faces"][0]["face_id"])
    assert client.delete(f"{root}/media/madonna").status_code == 200
    assert client.delete(f"/v1/faces/{ids[1]}").status_code == 200
    client.post(f"{root}/subjects", json={"subject_id": "ben"})
    client.post(f"{root}/subjects/ben/faces", json={"face_ids": [ids[0]]})
    jobs = [client.post(f"{root}/subjects/ben/erase"), client.delete(root)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "indexer", "run"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **migrated},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for job in jobs:
            until_done(client, job.json()["job_id"])
    finally:
        worker.terminate()
        worker.wait(60)
    with MongoClient[dict[str, Any]](migrated["MONGODB_URI"]) as direct:
        db = direct[migrated["MONGODB_DATABASE"]]
        left = [
            (name, row.get("kind"))
            for name in db.list_collection_names()
            for row in db[name].find({"collection": collection})
            if name != "likeness_jobs"
        ]
    assert left == [("likeness_tombstones", "person")]


def until_done(client: httpx2.Client, job_id: str) -> None:
    end = time.monotonic() + 60
    while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] != "succeeded":
        assert job["state"] in ("queued", "running"), job
        assert time.monotonic() < end, job
        time.sleep(0.1)


def test_what_two_say_of_one_photo_at_once_is_both_kept(
    client: httpx2.Client, collection: str, probes: dict[str, Path]
) -> None:
    image = probes["madonna"].read_bytes()
    path = f"/v1/collections/{collection}/media/told"
    assert client.put(path, files={"image": image}).status_code == 201
    with httpx2.Client(base_url=client.base_url, trust_env=False, timeout=60) as other:
        for turn in range(15):
            said = {"title": f"turn {turn}"}, {"taken_at": f"2024-01-{turn + 1:02}T00:00:00Z"}
            together = threading.Barrier(2)

            def tell(
                who: httpx2.Client, data: dict[str, str], together: threading.Barrier = together
            ) -> int:
                together.wait()
                return who.put(path, files={"image": image}, data=data).status_code

            with ThreadPoolExecutor(2) as pool:
                told = pool.map(tell, (client, other), said)
                assert list(told) == [200, 200]
            item = client.get(path).json()
            assert item["title"] == said[0]["title"]
            assert item["taken_at"][:10] == said[1]["taken_at"][:10]


def test_the_same_photo_for_a_face_without_vector_leaves_what_was_said_of_it(
    client: httpx2.Client, collection: str, probes: dict[str, Path], faces: Any
) -> None:
    image = {"image": probes["madonna"].read_bytes()}
    path = f"/v1/collections/{collection}/media/told"
    said = {"title": "Ada", "taken_at": "2024-01-02T00:00:00Z", "metadata": '{"desk": "news"}'}
    put = client.put(path, files=image, data=said).json()
    before = client.get(path).json()
    # As after a switch of the model that left it behind.
    faces.update_one(
        {"_id": put["faces"][0]["face_id"]}, {"$unset": {"embeddings": "", "builds": ""}}
    )
    again = client.put(path, files=image, data={"title": "Ada L."})
    assert (again.status_code, again.json()["unchanged"]) == (200, False)
    after = client.get(path).json()
    assert after["title"] == "Ada L."
    for name in ("taken_at", "metadata", "faces"):
        assert after[name] == before[name], name
