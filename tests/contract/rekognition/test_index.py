"""What indexing keeps, drops and adds, and how long ids travel."""

from __future__ import annotations

import io
import secrets
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tests.contract.api.conftest import Service
from tests.contract.rekognition.conftest import Speak

pytestmark = pytest.mark.xdist_group("rekognition")
Rekognition = Any


@pytest.fixture
def collection(rekognition: Rekognition) -> str:
    name = f"rk-{secrets.token_hex(4)}"
    rekognition.create_collection(CollectionId=name)
    return name


@pytest.fixture(scope="module")
def three(photos: dict[str, list[bytes]]) -> bytes:
    """A PNG with three people, each smaller than the one before."""
    page = Image.new("RGB", (1000, 420), (90, 90, 90))
    left = 0
    for person, height in (("madonna", 400), ("elton_john", 280), ("ben_afflek", 180)):
        with Image.open(io.BytesIO(photos[person][0])) as photo:
            shown = photo.convert("RGB")
        shown = shown.resize((round(shown.width * height / shown.height), height))
        page.paste(shown, (left, 0))
        left += shown.width + 10
    buffer = io.BytesIO()
    page.crop((0, 0, left, 420)).save(buffer, "PNG")
    return buffer.getvalue()


def index(client: Rekognition, collection: str, data: bytes, **more: Any) -> dict[str, Any]:
    answer = client.index_faces(CollectionId=collection, Image={"Bytes": data}, **more)
    assert isinstance(answer, dict)
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [record["Face"]["FaceId"] for record in answer["FaceRecords"]]


def test_the_largest_faces_are_kept_and_the_rest_is_told(
    rekognition: Rekognition, collection: str, three: bytes
) -> None:
    one = index(rekognition, collection, three, MaxFaces=1, ExternalImageId="party")
    assert len(ids(one)) == 1
    left_out = [face["Reasons"] for face in one["UnindexedFaces"]]
    assert left_out
    assert all(reasons == ["EXCEEDS_MAX_FACES"] for reasons in left_out)
    sizes = [
        face["FaceDetail"]["BoundingBox"]["Height"]
        for face in (*one["FaceRecords"], *one["UnindexedFaces"])
    ]
    assert sizes[0] == max(sizes)
    # More faces of the same picture are added to those that it has.
    every = index(rekognition, collection, three, ExternalImageId="party")
    assert ids(every)[0] == ids(one)[0]
    assert len(ids(every)) == 1 + len(left_out)
    assert every["UnindexedFaces"] == []
    # And asking for fewer takes none away.
    again = index(rekognition, collection, three, MaxFaces=1, ExternalImageId="party")
    assert ids(again) == ids(one)
    count = rekognition.describe_collection(CollectionId=collection)["FaceCount"]
    assert count == len(ids(every))


def test_a_filter_drops_faces_with_its_reasons(
    rekognition: Rekognition, collection: str, photos: dict[str, list[bytes]]
) -> None:
    with Image.open(io.BytesIO(photos["madonna"][0])) as photo:
        night = photo.convert("RGB").point(lambda value: value // 6)
    buffer = io.BytesIO()
    night.save(buffer, "JPEG", quality=95)
    dark = buffer.getvalue()
    dropped = index(rekognition, collection, dark, QualityFilter="HIGH")
    assert ids(dropped) == []
    assert "LOW_BRIGHTNESS" in dropped["UnindexedFaces"][0]["Reasons"]
    kept = index(rekognition, collection, dark, QualityFilter="NONE")
    assert len(ids(kept)) == 1


def test_a_picture_without_external_id_shows_none_and_is_stored_once(
    rekognition: Rekognition, collection: str, photos: dict[str, list[bytes]]
) -> None:
    one, two = (index(rekognition, collection, photos["madonna"][0]) for _ in range(2))
    assert ids(one) == ids(two)
    (face,) = rekognition.list_faces(CollectionId=collection)["Faces"]
    assert "ExternalImageId" not in face
    other = index(rekognition, collection, photos["madonna"][0], ExternalImageId="ada")
    assert ids(other) != ids(one)


def test_long_ids_of_the_other_protocol_travel_by_their_alias(
    rekognition: Rekognition, collection: str, photos: dict[str, list[bytes]], service: Service
) -> None:
    media_id = "/é" * 127 + "x"
    with service.client() as http:
        for name in (media_id, "zz/last"):
            answer = http.put(
                f"/v1/collections/{collection}/media/{quote(name)}",
                files={"image": photos["madonna"][0]},
            )
            assert answer.status_code == 201, answer.text
    first = rekognition.list_faces(CollectionId=collection, MaxResults=1)
    (face,) = first["Faces"]
    assert face["ExternalImageId"].startswith("sha256:")
    assert len(first["NextToken"]) <= 255
    second = rekognition.list_faces(
        CollectionId=collection, MaxResults=1, NextToken=first["NextToken"]
    )
    assert [f["ExternalImageId"] for f in second["Faces"]] == ["zz:2Flast"]
    again = index(
        rekognition, collection, photos["madonna"][0], ExternalImageId=face["ExternalImageId"]
    )
    assert ids(again) == [face["FaceId"]]


def test_what_is_indexed_here_has_its_own_media_id_there(
    rekognition: Rekognition, collection: str, photos: dict[str, list[bytes]], service: Service
) -> None:
    for picture in photos["madonna"][:2]:
        index(rekognition, collection, picture, ExternalImageId="2024:2Fada")
    with service.client() as http:
        items = http.get(f"/v1/collections/{collection}/media").json()["items"]
    first, second = (item["media_id"] for item in items)
    assert first == "2024/ada"
    assert second.startswith("2024/ada?")
    faces = rekognition.list_faces(CollectionId=collection)["Faces"]
    assert [face["ExternalImageId"] for face in faces] == ["2024:2Fada"] * 2


def test_pictures_that_come_at_once_under_one_id_are_all_kept(
    speak: Speak, rekognition: Rekognition, collection: str, photos: dict[str, list[bytes]]
) -> None:
    pictures = photos["madonna"][:4] * 3
    clients = [speak() for _ in pictures]
    with ThreadPoolExecutor(len(pictures)) as pool:
        answers = list(
            pool.map(
                lambda pair: index(
                    pair[0], collection, pair[1], MaxFaces=1, ExternalImageId="madonna"
                ),
                zip(clients, pictures, strict=True),
            )
        )
    told = {face_id for answer in answers for face_id in ids(answer)}
    listed = rekognition.list_faces(CollectionId=collection)["Faces"]
    assert {face["FaceId"] for face in listed} == told
    assert len(listed) == 4
    assert {face["ExternalImageId"] for face in listed} == {"madonna"}


def test_what_is_said_of_a_photo_while_it_is_indexed_again_is_kept(
    speak: Speak, service: Service, collection: str, photos: dict[str, list[bytes]]
) -> None:
    data = photos["madonna"][0]
    client = speak()
    index(client, collection, data, ExternalImageId="told")
    path = f"/v1/collections/{collection}/media/told"
    with service.client() as http, ThreadPoolExecutor(1) as pool:
        for turn in range(8):
            again = pool.submit(index, client, collection, data, ExternalImageId="told")
            wait([again], timeout=0.01 * turn)
            said = {"title": f"turn {turn}"}
            assert http.put(path, files={"image": data}, data=said).status_code == 200
            again.result()
            assert http.get(path).json()["title"] == said["title"]
