"""`POST /v1/search` in all its forms, against real photos."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from PIL import Image

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]


def matches(answer: httpx2.Response, face: int = 0) -> list[dict]:
    assert answer.status_code == 200, answer.text
    return answer.json()["faces"][face]["matches"]


def test_the_best_match_of_each_probe_is_the_right_person(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    for person, path in probes.items():
        best = matches(client.post("/v1/search", files={"image": path.read_bytes()}))[0]
        assert best["media_id"].startswith(f"{person}/")


def test_an_answer_holds_every_field_of_the_contract(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    answer = client.post(
        "/v1/search", files={"image": probes["madonna"].read_bytes()}, data={"limit": "2"}
    ).json()
    assert answer["model"] == "facenet128"
    assert answer["complete"] is True
    assert answer["unsearched"] == []
    assert set(answer["timings_ms"]) >= {"decode", "detect", "encode", "search"}
    assert all(value > 0 for value in answer["timings_ms"].values())
    face = answer["faces"][0]
    assert 0 < face["box"]["width"] <= answer["image"]["width"]
    assert 0 <= face["quality"] <= 1
    assert len(face["landmarks"]) == 5
    assert len(face["matches"]) == 2
    match = face["matches"][0]
    assert set(match) >= {
        *("face_id", "media_id", "image_id", "collection", "subject_id", "subject"),
        *("similarity", "score", "box", "media", "metadata"),
    }
    assert match["score"] == pytest.approx((1 + match["similarity"]) / 2, abs=1e-5)
    assert match["media"]["title"] == f"Photo {match['media_id']}"
    assert match["media"]["taken_at"] == "2024-05-01T12:00:00.000Z"


def test_the_default_threshold_is_the_model_cards(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    photo = {"image": probes["madonna"].read_bytes()}
    cards = client.get("/v1/models").json()["items"]
    threshold = next(card["threshold"] for card in cards if card["active"])
    usual = matches(client.post("/v1/search", files=photo, data={"limit": "100"}))
    every = matches(
        client.post("/v1/search", files=photo, data={"limit": "100", "min_similarity": "-1"})
    )
    assert all(match["similarity"] >= threshold for match in usual)
    assert len(every) > len(usual)
    assert [m["similarity"] for m in every] == sorted(
        (m["similarity"] for m in every), reverse=True
    )


def test_base64_gives_what_multipart_gives(client: httpx2.Client, probes: dict[str, Path]) -> None:
    data = probes["elton_john"].read_bytes()
    form = matches(client.post("/v1/search", files={"image": data}))
    encoded = base64.b64encode(data).decode()
    assert matches(client.post("/v1/search", json={"image_base64": encoded})) == form
    escaped = json.dumps({"image_base64": encoded}).replace("/", "\\/")
    answer = client.post(
        "/v1/search", content=escaped, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert matches(answer) == form


def group_photo(*paths: Path) -> bytes:
    """Photos side by side, each 400 px high: a picture with several faces."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pictures = [p.resize((round(p.width * 400 / p.height), 400)) for p in pictures]
    whole = Image.new("RGB", (sum(p.width for p in pictures), 400))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    out = io.BytesIO()
    whole.save(out, "JPEG", quality=92)
    return out.getvalue()


@pytest.fixture(scope="module")
def group(probes: dict[str, Path]) -> bytes:
    return group_photo(*probes.values())


def test_the_largest_face_is_searched_and_the_others_are_named(
    client: httpx2.Client, group: bytes
) -> None:
    answer = client.post("/v1/search", files={"image": group}).json()
    assert len(answer["faces"]) == 1
    assert {face["reason"] for face in answer["unsearched"]} == {"not_largest"}
    area = answer["faces"][0]["box"]["width"] * answer["faces"][0]["box"]["height"]
    assert all(area >= f["box"]["width"] * f["box"]["height"] for f in answer["unsearched"])


def test_all_faces_of_a_photo_find_their_person(client: httpx2.Client, group: bytes) -> None:
    answer = client.post("/v1/search", files={"image": group}, data={"face": "all"}).json()
    found = {face["matches"][0]["media_id"].split("/")[0] for face in answer["faces"]}
    assert found == {"ben_afflek", "elton_john", "madonna"}
    assert answer["unsearched"] == []


def test_one_face_can_be_chosen_by_its_index(
    client: httpx2.Client, group: bytes, problem: Check
) -> None:
    every = client.post("/v1/search", files={"image": group}, data={"face": "all"}).json()
    second = client.post("/v1/search", files={"image": group}, data={"face": "1"}).json()
    assert second["faces"][0]["box"] == every["faces"][1]["box"]
    assert len(second["unsearched"]) == 2
    beyond = problem(
        client.post("/v1/search", files={"image": group}, data={"face": "3"}),
        422,
        "invalid_request",
    )
    assert beyond["errors"] == [
        {"field": "face", "message": "is beyond the faces of this photo, of which there are 3"}
    ]


def test_a_stored_face_finds_others_but_not_itself(client: httpx2.Client) -> None:
    face = client.get("/v1/collections/default/faces?limit=1").json()["items"][0]
    query = {"face_id": face["face_id"], "min_similarity": -1, "limit": 100}
    found = matches(client.post("/v1/search", json=query))
    assert face["face_id"] not in {match["face_id"] for match in found}
    own = matches(client.post("/v1/search", json={**query, "include_own": True}))
    assert own[0]["face_id"] == face["face_id"]
    assert own[0]["similarity"] == pytest.approx(1, abs=1e-3)


def test_a_vector_is_normalised_and_searched(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    data = probes["madonna"].read_bytes()
    embedded = client.post("/v1/embed", files={"image": data}).json()
    assert embedded["dimensions"] == 128
    vector = [7.5 * value for value in embedded["faces"][0]["embedding"]]
    by_vector = matches(client.post("/v1/search", json={"vector": vector}))
    by_photo = matches(client.post("/v1/search", files={"image": data}))
    assert [m["face_id"] for m in by_vector] == [m["face_id"] for m in by_photo]
    answer = client.post("/v1/search", json={"vector": vector}).json()
    assert answer["faces"][0]["box"] is None
    assert answer["image"] is None


def test_a_form_may_hold_a_vector_and_a_filter_as_json_text(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    wanted = {"media_id": {"$in": ["ben_afflek/none"]}}
    answer = client.post(
        "/v1/search",
        files={"image": probes["madonna"].read_bytes()},
        data={"filter": httpx2.Response(200, json=wanted).text},
    )
    assert matches(answer) == []


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ([0.0] * 128, "zero"),
        ([1e38] * 128, "overflows"),
        ([1.0] * 127, "128"),
        ([], "at least 1"),
        (["1"] * 128, "number"),
        ([True] * 128, "number"),
        ("AAAA", "list"),
        ([[1.0]] * 128, "number"),
    ],
)
def test_a_vector_of_no_use_is_refused(
    client: httpx2.Client, problem: Check, vector: object, words: str
) -> None:
    body = problem(client.post("/v1/search", json={"vector": vector}), 422, "invalid_request")
    assert words in str(body["errors"])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ['{"vector": [%s]}', '{"min_similarity": %s}', '{"x": [[%s]]}'])
def test_numbers_that_are_not_finite_are_refused(
    client: httpx2.Client, problem: Check, place: str, number: str
) -> None:
    answer = client.post(
        "/v1/search", content=place % number, headers={"content-type": "application/json"}
    )
    problem(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"face_id": "00000000-0000-4000-8000-000000000000", "vector": [1.0]},
        {"face_id": "not-a-uuid"},
        {"face_id": "00000000-0000-4000-8000-00000000000G"},
        {"face_id": {"$gt": ""}},
        {"subject_id": "a b"},
        {"vector": [1.0], "limit": 0},
        {"vector": [1.0], "limit": 101},
        {"vector": [1.0], "limit": "10"},
        {"vector": [1.0], "limit": 10.5},
        {"vector": [1.0], "min_similarity": 1.01},
        {"vector": [1.0], "min_similarity": "0.5"},
        {"vector": [1.0], "face": "smallest"},
        {"vector": [1.0], "face": -1},
        {"vector": [1.0], "group_by": "album"},
        {"vector": [1.0], "assigned": "some"},
        {"vector": [1.0], "exact": "yes"},
        {"vector": [1.0], "collection": "a/b"},
        {"vector": [1.0], "colection": "default"},
        {"vector": [1.0], "filter": {"$where": "1"}},
        {"vector": [1.0], "filter": {"media_id": {"$gt": ""}}},
        {"vector": [1.0], "filter": {"metadata.unknown": "x"}},
        {"vector": [1.0], "filter": {"embeddings.facenet128": "x"}},
        {"vector": [1.0], "filter": []},
        {"image": "AAAA"},
    ],
)
def test_a_query_that_does_not_fit_is_refused_by_name(
    client: httpx2.Client, problem: Check, query: dict[str, object]
) -> None:
    body = problem(client.post("/v1/search", json=query), 422, "invalid_request")
    assert body["errors"]


def test_what_is_not_there_is_not_found(client: httpx2.Client, problem: Check) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    problem(client.post("/v1/search", json={"face_id": nobody}), 404, "not_found")
    problem(client.post("/v1/search", json={"subject_id": "nobody"}), 404, "not_found")
    problem(
        client.post("/v1/search", json={"vector": [1.0] * 128, "collection": "nowhere"}),
        404,
        "not_found",
    )


def test_a_photo_without_a_face_is_an_error_of_its_own(
    client: httpx2.Client, problem: Check
) -> None:
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (90, 140, 200)).save(out, "PNG")
    blank = out.getvalue()
    problem(client.post("/v1/search", files={"image": blank}), 422, "no_face")
    detected = client.post("/v1/detect", files={"image": blank})
    assert detected.status_code == 200
    assert detected.json()["faces"] == []
    photo = {"source": blank, "target": blank}
    problem(client.post("/v1/compare", files=photo), 422, "no_face")


def test_a_comparison_names_matches_and_the_rest(
    client: httpx2.Client, group: bytes, probes: dict[str, Path], problem: Check
) -> None:
    source = probes["elton_john"].read_bytes()
    answer = client.post("/v1/compare", files={"source": source, "target": group}).json()
    assert answer["model"] == "facenet128"
    assert len(answer["matches"]) == 1
    assert answer["matches"][0]["similarity"] > 0.9
    assert len(answer["unmatched"]) == 2
    sides = {
        name: {"image_base64": base64.b64encode(data).decode()}
        for name, data in (("source", source), ("target", group))
    }
    by_json = client.post("/v1/compare", json=sides).json()
    assert by_json["matches"] == answer["matches"]
    told = {"min_similarity": f"{answer['matches'][0]['similarity']}"}
    again = client.post("/v1/compare", data=told, files={"source": source, "target": group}).json()
    assert again["matches"] == answer["matches"]
    problem(client.post("/v1/compare", files={"source": source}), 422, "invalid_request")


def test_known_faces_are_embedded_without_detection(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    data = probes["ben_afflek"].read_bytes()
    whole = client.post("/v1/embed", files={"image": data}).json()
    face = {key: whole["faces"][0][key] for key in ("box", "landmarks")}
    body = {"image_base64": base64.b64encode(data).decode(), "faces": [face, face]}
    known = client.post("/v1/embed", json=body).json()
    assert len(known["faces"]) == 2
    cosine = sum(
        a * b
        for a, b in zip(known["faces"][0]["embedding"], whole["faces"][0]["embedding"], strict=True)
    )
    assert cosine > 0.999


def test_a_model_that_is_not_there_cannot_be_asked_for(
    client: httpx2.Client, probes: dict[str, Path], problem: Check
) -> None:
    photo = {"image": probes["madonna"].read_bytes()}
    problem(
        client.post("/v1/embed", files=photo, data={"model": "facenet512"}), 409, "model_mismatch"
    )
    problem(client.post("/v1/embed", files=photo, data={"model": "nn4"}), 422, "invalid_request")


def test_several_photos_are_embedded_in_one_request_each_with_its_own_answer(
    client: httpx2.Client, probes: dict[str, Path], problem: Check
) -> None:
    data = probes["madonna"].read_bytes()
    alone = client.post("/v1/embed", files={"image": data}).json()
    files = {"image_1": data, "image_3": data[:1500], "image_2": b"not a picture"}
    items = client.post("/v1/embed/batch", files=files).json()["items"]
    assert [item["image"] for item in items] == ["image_1", "image_2", "image_3"]
    assert items[0]["error"] is None
    assert items[0]["embedded"]["faces"] == alone["faces"]
    assert alone["faces"][0]["brightness"] > 0
    assert [item["error"]["code"] for item in items[1:]] == ["unsupported_image", "invalid_image"]
    assert items[2]["error"]["reason"] == "truncated"
    batch = "/v1/embed/batch"
    problem(client.post(batch, files={"image_9": data}), 422, "invalid_request")
    problem(client.post(batch, files=files, data={"model": "facenet512"}), 409, "model_mismatch")
    problem(client.post(batch, json={}), 415, "unsupported_media_type")
    large = {f"image_{number}": data + b"\0" * 9 * 2**20 for number in (1, 2)}
    problem(client.post(batch, files=large), 413, "request_too_large")
