"""Indexing, reading, listing and deleting pictures and faces."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from tests.contract.api.conftest import until_searchable
from tests.private import MARK

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
UUID = "00000000-0000-4000-8000-000000000000"
ADA = f"Ada {MARK}"


@pytest.fixture(scope="session")
def madonna(probes: dict[str, Path]) -> bytes:
    return probes["madonna"].read_bytes()


@pytest.fixture(scope="session")
def elton(probes: dict[str, Path]) -> bytes:
    return probes["elton_john"].read_bytes()


def put(client: httpx2.Client, collection: str, media_id: str, image: bytes, **data: str):
    path = f"/v1/collections/{collection}/media/{quote(media_id, safe='')}"
    return client.put(path, files={"image": image}, data=data)


def test_a_new_photo_is_201_and_the_same_again_is_200_unchanged(
    client: httpx2.Client, collection: str, madonna: bytes
) -> None:
    first = put(client, collection, "m", madonna)
    assert first.status_code == 201
    body = first.json()
    assert set(body) >= {"media_id", "image_id", "model", "unchanged", "searchable", "faces"}
    assert body["unchanged"] is False
    assert body["unindexed"] == []
    again = put(client, collection, "m", madonna)
    assert again.status_code == 200
    assert again.json()["unchanged"] is True
    assert again.json()["faces"] == body["faces"]
    assert again.json()["image_id"] == body["image_id"]


def test_a_photo_becomes_searchable(client: httpx2.Client, collection: str, madonna: bytes) -> None:
    face = put(client, collection, "m", madonna).json()["faces"][0]["face_id"]
    until_searchable(client, face, collection)


def test_other_bytes_replace_a_photo(
    client: httpx2.Client, collection: str, madonna: bytes, elton: bytes
) -> None:
    old = put(client, collection, "m", madonna).json()
    new = put(client, collection, "m", elton)
    assert new.status_code == 200
    assert new.json()["unchanged"] is False
    assert new.json()["image_id"] != old["image_id"]
    listed = client.get(f"/v1/collections/{collection}/faces").json()["items"]
    assert [face["face_id"] for face in listed] == [f["face_id"] for f in new.json()["faces"]]


def test_deleting_cascades_and_a_later_put_is_new(
    client: httpx2.Client, collection: str, madonna: bytes, problem: Check
) -> None:
    path = f"/v1/collections/{collection}/media/m"
    face = put(client, collection, "m", madonna).json()["faces"][0]["face_id"]
    gone = client.delete(path)
    assert gone.status_code == 200
    assert gone.json() == {"media_id": "m", "faces_deleted": 1}
    problem(client.get(path), 404, "not_found")
    problem(client.delete(path), 404, "not_found")
    problem(client.get(f"/v1/faces/{face}"), 404, "not_found")
    assert put(client, collection, "m", madonna).status_code == 201


def test_an_item_tells_what_was_put(client: httpx2.Client, collection: str, madonna: bytes) -> None:
    made = put(
        client,
        collection,
        "2024/été 🎭.jpg",
        madonna,
        title="On stage",
        taken_at="2024-05-01",
        metadata='{"city": "Paris", "year": 2024, "draft": true}',
    )
    assert made.status_code == 201, made.text
    item = client.get(f"/v1/collections/{collection}/media/{quote('2024/été 🎭.jpg')}").json()
    assert item["media_id"] == "2024/été 🎭.jpg"
    assert item["title"] == "On stage"
    assert item["taken_at"] == "2024-05-01T00:00:00.000Z"
    assert item["metadata"] == {"city": "Paris", "year": 2024, "draft": True}
    assert item["source"] == "api"
    assert len(item["faces"]) == item["face_count"] == 1


def test_the_same_bytes_keep_what_is_not_sent_again(
    client: httpx2.Client, collection: str, madonna: bytes
) -> None:
    path = f"/v1/collections/{collection}/media/m"
    put(client, collection, "m", madonna, title="Old", metadata='{"city": "Paris"}')
    assert put(client, collection, "m", madonna).json()["unchanged"] is True
    assert client.get(path).json()["title"] == "Old"
    put(client, collection, "m", madonna, title="New")
    item = client.get(path).json()
    assert (item["title"], item["metadata"]) == ("New", {"city": "Paris"})


@pytest.mark.parametrize("metadata", ['{"city": 1}', '{"year": "x"}', '{"year": true}'])
def test_the_same_bytes_do_not_carry_metadata_past_its_declaration(
    client: httpx2.Client, collection: str, madonna: bytes, metadata: str, problem: Check
) -> None:
    put(client, collection, "m", madonna, metadata='{"city": "Paris", "year": 1}')
    problem(put(client, collection, "m", madonna, metadata=metadata), 422, "invalid_request")
    item = client.get(f"/v1/collections/{collection}/media/m").json()
    assert item["metadata"] == {"city": "Paris", "year": 1}


def test_declared_metadata_can_be_filtered_by(
    client: httpx2.Client, collection: str, madonna: bytes, elton: bytes, problem: Check
) -> None:
    put(client, collection, "a", madonna, metadata='{"city": "Paris", "year": 1990}')
    last = put(client, collection, "b", elton, metadata='{"city": "London"}')
    until_searchable(client, last.json()["faces"][0]["face_id"], collection)

    def ids(wish: dict[str, object]) -> set[str]:
        query = {"vector": [1.0] * 128, "collection": collection, "min_similarity": -1}
        answer = client.post("/v1/search", json={**query, "filter": wish})
        assert answer.status_code == 200, answer.text
        return {match["media_id"] for match in answer.json()["faces"][0]["matches"]}

    assert ids({}) == {"a", "b"}
    assert ids({"metadata.city": "Paris"}) == {"a"}
    assert ids({"metadata.year": 1990}) == {"a"}
    assert ids({"metadata.city": {"$in": ["London", "Rome"]}}) == {"b"}
    assert ids({"$not": {"metadata.city": "Paris"}}) == {"b"}
    assert ids({"$or": [{"media_id": "a"}, {"media_id": "b"}]}) == {"a", "b"}
    assert ids({"taken_at": {"$gte": "2020-01-01"}}) == set()
    query = {"vector": [1.0] * 128, "collection": collection, "filter": {"metadata.country": "FR"}}
    problem(client.post("/v1/search", json=query), 422, "invalid_request")


@pytest.mark.parametrize(
    "media_id",
    ["a\nb", "a\u202eb", "e\u0301", "\x00", "x" * 256, "\u200b", "a\u2028b"],
    ids=["newline", "override", "nfd", "nul", "long", "zero-width", "separator"],
)
def test_an_id_that_breaks_the_rule_is_refused(
    client: httpx2.Client, collection: str, madonna: bytes, media_id: str, problem: Check
) -> None:
    body = problem(put(client, collection, media_id, madonna), 422, "invalid_request")
    assert body["errors"][0]["field"] == "media_id"
    assert media_id not in str(body)


@pytest.mark.parametrize("media_id", ["a/b/c", "a b", "a..b", "a%b", "ä?#&", "/lead", "x" * 255])
def test_an_id_comes_back_as_it_was(
    client: httpx2.Client, collection: str, madonna: bytes, media_id: str
) -> None:
    made = put(client, collection, media_id, madonna)
    assert made.status_code == 201, made.text
    assert made.json()["media_id"] == media_id
    path = f"/v1/collections/{collection}/media/{quote(media_id, safe='')}"
    assert client.get(path).json()["media_id"] == media_id


def test_bytes_that_are_no_text_are_no_path(client: httpx2.Client, problem: Check) -> None:
    answer = client.get("/v1/collections/default/media/%ff%fe")
    problem(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    "data",
    [
        {"metadata": "[1]"},
        {"metadata": '{"a": null}'},
        {"metadata": '{"a": {"$gt": 1}}'},
        {"metadata": '{"$where": "1"}'},
        {"metadata": '{"a.b": 1}'},
        {"taken_at": "yesterday"},
        {"taken_at": "1714564800"},
        {"title": "x" * 1001},
        {"title": "a\u0000b"},
        {"titel": "x"},
    ],
)
def test_a_field_that_does_not_fit_is_refused(
    client: httpx2.Client,
    collection: str,
    madonna: bytes,
    data: dict[str, str],
    problem: Check,
) -> None:
    problem(put(client, collection, "m", madonna, **data), 422, "invalid_request")
    problem(client.get(f"/v1/collections/{collection}/media/m"), 404, "not_found")


def test_an_unknown_collection_is_404(
    client: httpx2.Client, madonna: bytes, problem: Check
) -> None:
    problem(put(client, "nowhere", "m", madonna), 404, "not_found")
    for path in ("", "/media", "/faces", "/media/m", f"/thumbnails/{UUID}"):
        problem(client.get(f"/v1/collections/nowhere{path}"), 404, "not_found")


def test_lists_are_paged_without_gap_or_repeat(client: httpx2.Client, gallery: dict) -> None:
    for kind, key in (("media", "media_id"), ("faces", "face_id")):
        seen: list[str] = []
        cursor = None
        while True:
            query = {"limit": "5"} | ({"cursor": cursor} if cursor else {})
            page = client.get(f"/v1/collections/default/{kind}", params=query).json()
            assert len(page["items"]) <= 5
            seen += [item[key] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen))
        whole = client.get(f"/v1/collections/default/{kind}?limit=1000").json()["items"]
        assert set(seen) == {item[key] for item in whole}
    assert set(gallery) <= {
        item["media_id"]
        for item in client.get("/v1/collections/default/media?limit=1000").json()["items"]
    }


def test_faces_can_be_listed_by_photo(client: httpx2.Client, gallery: dict[str, Path]) -> None:
    media_id = next(iter(gallery))
    faces = client.get("/v1/collections/default/faces", params={"media_id": media_id}).json()
    assert faces["items"]
    assert {face["media_id"] for face in faces["items"]} == {media_id}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=1001", 422),
        ("limit=ten", 422),
        ("limit=1_0", 422),
        ("limit=5.0", 422),
        ("limit=%205", 422),
        ("limit=1&limit=2", 422),
        ("cursor=AAAA", 400),
        ("cursor=%00", 400),
        ("cursor=%FF", 400),
        ("cursor=" + "A" * 5000, 400),
        ("page=2", 422),
    ],
)
def test_a_page_that_cannot_be_is_refused(
    client: httpx2.Client, query: str, status: int, problem: Check
) -> None:
    problem(client.get(f"/v1/collections/default/media?{query}"), status, "invalid_request")


def test_a_cursor_of_another_list_is_refused(client: httpx2.Client, problem: Check) -> None:
    cursor = client.get("/v1/collections/default/media?limit=1").json()["next_cursor"]
    problem(
        client.get("/v1/collections/default/faces", params={"cursor": cursor}),
        400,
        "invalid_request",
    )


def test_a_thumbnail_is_a_small_jpeg(client: httpx2.Client, problem: Check) -> None:
    item = client.get("/v1/collections/default/media?limit=1").json()["items"][0]
    path = f"/v1/collections/default/thumbnails/{item['image_id']}"
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content.startswith(b"\xff\xd8\xff")
    again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    problem(client.get(f"/v1/collections/default/thumbnails/{UUID}"), 404, "not_found")


def test_a_face_can_be_read_and_deleted(
    client: httpx2.Client, collection: str, madonna: bytes, problem: Check
) -> None:
    face = put(client, collection, "m", madonna).json()["faces"][0]["face_id"]
    read = client.get(f"/v1/faces/{face}").json()
    assert read["media_id"] == "m"
    assert read["collection"] == collection
    assert client.delete(f"/v1/faces/{face}").status_code == 200
    problem(client.get(f"/v1/faces/{face}"), 404, "not_found")
    problem(client.delete(f"/v1/faces/{face}"), 404, "not_found")
    again = put(client, collection, "m", madonna).json()
    assert again["faces"] == []
    assert [entry["reason"] for entry in again["unindexed"]] == ["deleted"]


def test_fifty_at_once_make_one_item(
    client: httpx2.Client, collection: str, madonna: bytes
) -> None:
    answers: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(put(client, collection, "m", madonna)))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [answer.status_code for answer in answers]
    assert len(statuses) == 50
    assert statuses.count(201) == 1, statuses
    assert set(statuses) <= {200, 201, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["code"] == "busy"
            assert int(answer.headers["retry-after"]) >= 1
    faces = client.get(f"/v1/collections/{collection}/faces").json()["items"]
    assert len(faces) == 1


def test_collections_are_made_counted_and_not_made_twice(
    client: httpx2.Client, madonna: bytes, problem: Check
) -> None:
    name = f"c-{secrets.token_hex(4)}"
    made = client.post("/v1/collections", json={"collection": name})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/collections/{name}"
    problem(client.post("/v1/collections", json={"collection": name}), 409, "conflict")
    put(client, name, "m", madonna)
    read = client.get(f"/v1/collections/{name}").json()
    assert (read["media_count"], read["face_count"], read["subject_count"]) == (1, 1, 0)
    listed = client.get("/v1/collections?limit=1000").json()["items"]
    assert {"default", name} <= {entry["collection"] for entry in listed}
    problem(client.delete("/v1/collections/default"), 409, "conflict")


def test_deleting_a_collection_hides_it_at_once(
    client: httpx2.Client, collection: str, madonna: bytes, problem: Check
) -> None:
    put(client, collection, "m", madonna)
    answer = client.delete(f"/v1/collections/{collection}")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['job_id']}"
    problem(client.get(f"/v1/collections/{collection}"), 404, "not_found")
    problem(put(client, collection, "m", madonna), 404, "not_found")
    job = client.get(answer.headers["location"]).json()
    assert job["kind"] == "delete_collection"
    assert job["state"] == "queued"
    assert job["waiting_for"] == "worker"


def test_putting_a_photo_again_shows_nobody_who_is_being_erased(
    client: httpx2.Client, collection: str, gallery: dict[str, Path]
) -> None:
    base = f"/v1/collections/{collection}"
    photo = next(iter(gallery.values())).read_bytes()
    faces = client.put(f"{base}/media/a", files={"image": photo}).json()["faces"]
    client.post(f"{base}/subjects", json={"subject_id": "ada"})
    ids = {"face_ids": [face["face_id"] for face in faces]}
    client.post(f"{base}/subjects/ada/faces", json=ids).raise_for_status()
    assert client.post(f"{base}/subjects/ada/erase").status_code == 202
    for _ in range(2):  # unchanged, and new again: no worker has begun the erasure
        answer = client.put(f"{base}/media/a", files={"image": photo}).json()
        assert answer["faces"] == []
        assert [entry["reason"] for entry in answer["unindexed"]] == ["erased"] * len(faces)
        client.delete(f"{base}/media/a").raise_for_status()


def test_people_get_faces_and_lose_them(
    client: httpx2.Client, collection: str, madonna: bytes, elton: bytes, problem: Check
) -> None:
    base = f"/v1/collections/{collection}/subjects"
    face = put(client, collection, "m", madonna).json()["faces"][0]["face_id"]
    made = client.post(base, json={"subject_id": "s:1", "name": ADA, "metadata": {"a": 1}})
    assert made.status_code == 201, made.text
    problem(client.post(base, json={"subject_id": "s:1", "name": ADA}), 409, "conflict")
    assigned = client.post(f"{base}/s:1/faces", json={"face_ids": [face]})
    assert assigned.json() == {"subject_id": "s:1", "faces_assigned": 1}
    assert client.get(f"{base}/s:1").json()["face_count"] == 1
    assert [p["media_id"] for p in client.get(f"{base}/s:1/media").json()["items"]] == ["m"]
    assert [s["name"] for s in client.get(f"{base}?q=Ad").json()["items"]] == [ADA]
    assert client.get(f"{base}?q=Bo").json()["items"] == []
    assert client.patch(f"{base}/s:1", json={"name": f"Eve {MARK}"}).json()["name"] == f"Eve {MARK}"
    removed = client.request("DELETE", f"{base}/s:1/faces", json={"face_ids": [face]})
    assert removed.json() == {"subject_id": "s:1", "faces_unassigned": 1}
    client.post(f"{base}/s:1/faces", json={"face_ids": [face]})
    deleted = client.delete(f"{base}/s:1")
    assert deleted.status_code == 200
    assert deleted.json() == {"subject_id": "s:1", "faces_unassigned": 1}
    problem(client.get(f"{base}/s:1"), 404, "not_found")
    assert client.get(f"/v1/faces/{face}").json()["subject_id"] is None


def test_a_rejected_face_is_not_found_by_that_person_again(
    client: httpx2.Client, collection: str, probes: dict[str, Path], gallery: dict[str, Path]
) -> None:
    base = f"/v1/collections/{collection}/subjects"
    photos = [probes["madonna"], *(p for m, p in gallery.items() if m.startswith("madonna/"))]
    faces = [
        put(client, collection, f"m{n}", path.read_bytes()).json()["faces"][0]["face_id"]
        for n, path in enumerate(photos)
    ]
    until_searchable(client, faces[-1], collection)
    client.post(base, json={"subject_id": "s"})
    client.post(f"{base}/s/faces", json={"face_ids": faces[:1]})
    query = {"subject_id": "s", "collection": collection, "min_similarity": -1, "limit": 100}

    def found() -> set[str]:
        answer = client.post("/v1/search", json=query).json()
        return {match["face_id"] for match in answer["faces"][0]["matches"]}

    assert found() == set(faces[1:])
    answer = client.post(f"{base}/s/rejections", json={"face_ids": faces[1:2]})
    assert answer.json() == {"subject_id": "s", "faces_rejected": 1}
    assert found() == set(faces[2:])


def test_content_hashes_name_the_picture(
    client: httpx2.Client, collection: str, madonna: bytes
) -> None:
    one = put(client, collection, "m", madonna).json()["image_id"]
    other = put(client, collection, "n", madonna).json()["image_id"]
    assert one != other
    assert hashlib.sha256(madonna).hexdigest() not in (one, other)
