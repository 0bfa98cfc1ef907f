"""The same story by boto3, the AWS SDK for JavaScript and the AWS CLI, none of them changed."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Refused, Speaker, environment, speaker
from tests.contract.api.conftest import Service
from tests.contract.rekognition.conftest import KEYS

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1500)]
ABSENT = "01234567-89ab-cdef-0123-456789abcdef"
PAGE = 10


def image(path: Path) -> dict[str, Any]:
    return {"Bytes": {"$file": str(path)}}


@pytest.fixture(scope="module")
def gallery(samples_dir: Path) -> list[Path]:
    paths = sorted((samples_dir / "gallery").glob("*/*"))
    assert len(paths) == 93
    return paths


@pytest.fixture(scope="module")
def probes(samples_dir: Path) -> list[Path]:
    paths = sorted((samples_dir / "probes").glob("*/*"))
    assert len(paths) == 25
    return paths


@pytest.fixture(scope="module")
def collection(client: Speaker) -> str:
    name = f"story-{secrets.token_hex(4)}"
    answer = client.call("CreateCollection", CollectionId=name, Tags={"team": "archive"})
    assert answer["StatusCode"] == 200
    assert answer["CollectionArn"].endswith(f":collection/{name}")
    return name


@pytest.fixture(scope="module")
def indexed(client: Speaker, collection: str, gallery: list[Path]) -> dict[str, list[str]]:
    """The face ids of each person."""
    found: dict[str, list[str]] = {}
    for path in gallery:
        answer = client.call(
            "IndexFaces",
            CollectionId=collection,
            Image=image(path),
            ExternalImageId=f"{path.parent.name}:{path.name}"[:255],
            MaxFaces=1,
        )
        (record,) = answer["FaceRecords"]
        found.setdefault(path.parent.name, []).append(record["Face"]["FaceId"])
    return found


def person_of(match: dict[str, Any]) -> str:
    return str(match["Face"]["ExternalImageId"]).partition(":")[0]


def test_all_pictures_are_indexed_and_counted(
    client: Speaker, collection: str, indexed: dict[str, list[str]]
) -> None:
    described = client.call("DescribeCollection", CollectionId=collection)
    assert described["FaceCount"] == sum(len(faces) for faces in indexed.values()) == 93
    assert described["CreationTimestamp"]
    pages = client.pages("ListFaces", PAGE, CollectionId=collection)
    listed = [face["FaceId"] for page in pages for face in page["Faces"]]
    assert sorted(listed) == sorted(face for faces in indexed.values() for face in faces)
    collections = client.pages("ListCollections", 1)
    assert collection in [name for page in collections for name in page["CollectionIds"]]


def test_the_probes_find_their_people(
    client: Speaker, collection: str, indexed: dict[str, list[str]], probes: list[Path]
) -> None:
    right = 0
    for path in probes:
        answer = client.call(
            "SearchFacesByImage",
            CollectionId=collection,
            Image=image(path),
            FaceMatchThreshold=30,
            MaxFaces=5,
        )
        votes = Counter(map(person_of, answer["FaceMatches"]))
        right += votes.most_common(1)[0][0] == path.parent.name if votes else 0
    assert right >= 23, right
    first = indexed["madonna"][0]
    found = client.call("SearchFaces", CollectionId=collection, FaceId=first, FaceMatchThreshold=0)
    assert len(found["FaceMatches"]) == 80
    assert first not in [match["Face"]["FaceId"] for match in found["FaceMatches"]]


def test_pictures_are_looked_at_without_a_collection(client: Speaker, probes: list[Path]) -> None:
    (face, *_) = client.call("DetectFaces", Image=image(probes[0]))["FaceDetails"]
    assert face["Confidence"] > 60
    compared = client.call(
        "CompareFaces", SourceImage=image(probes[0]), TargetImage=image(probes[0])
    )
    assert compared["FaceMatches"][0]["Similarity"] > 99


def test_users_are_made_and_searched(
    client: Speaker, collection: str, indexed: dict[str, list[str]], probes: list[Path]
) -> None:
    for person, faces in indexed.items():
        client.call("CreateUser", CollectionId=collection, UserId=person)
        answer = client.call(
            "AssociateFaces",
            CollectionId=collection,
            UserId=person,
            FaceIds=faces[:6],
            UserMatchThreshold=10,
        )
        assert answer["UserStatus"] == "ACTIVE"
    pages = client.pages("ListUsers", 2, CollectionId=collection)
    assert sorted(u["UserId"] for page in pages for u in page["Users"]) == sorted(indexed)
    right = 0
    for path in probes[::5]:
        found = client.call(
            "SearchUsersByImage",
            CollectionId=collection,
            Image=image(path),
            UserMatchThreshold=20,
        )
        right += found["UserMatches"][0]["User"]["UserId"] == path.parent.name
    assert right >= 4
    person, faces = next(iter(indexed.items()))
    by_face = client.call("SearchUsers", CollectionId=collection, FaceId=faces[0])
    assert by_face["UserMatches"][0]["User"]["UserId"] == person
    theirs = client.pages("ListFaces", PAGE, CollectionId=collection, UserId=person)
    taken = [face["FaceId"] for page in theirs for face in page["Faces"]]
    freed = client.call(
        "DisassociateFaces", CollectionId=collection, UserId=person, FaceIds=taken[:1]
    )
    assert freed["DisassociatedFaces"] == [{"FaceId": taken[0]}]
    client.call("DeleteUser", CollectionId=collection, UserId=person)
    left = client.pages("ListUsers", 2, CollectionId=collection)
    assert person not in [u["UserId"] for page in left for u in page["Users"]]


def test_every_error_has_its_name(
    client: Speaker,
    client_name: str,
    collection: str,
    service: Service,
    tmp_path: Path,
    probes: list[Path],
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(6_000_000))
    here = {"CollectionId": collection}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("CreateCollection", here, "ResourceAlreadyExistsException"),
        ("DescribeCollection", {"CollectionId": "absent"}, "ResourceNotFoundException"),
        ("ListFaces", {**here, "NextToken": "bogus"}, "InvalidPaginationTokenException"),
        ("SearchFaces", {**here, "FaceId": ABSENT, "MaxFaces": 5000}, "InvalidParameterException"),
        ("SearchFaces", {**here, "FaceId": ABSENT}, "InvalidParameterException"),
        ("CreateUser", {**here, "UserId": "madonna"}, "ConflictException"),
        ("DeleteUser", {**here, "UserId": "absent"}, "ResourceNotFoundException"),
        (
            "DetectFaces",
            {"Image": {"S3Object": {"Bucket": "a-bucket", "Name": "a.jpg"}}},
            "InvalidS3ObjectException",
        ),
        ("DetectFaces", {"Image": image(tmp_path / "text.jpg")}, "InvalidImageFormatException"),
        ("DetectFaces", {"Image": image(tmp_path / "large.jpg")}, "ImageTooLargeException"),
        ("DetectLabels", {"Image": image(probes[0])}, "UnknownOperationException"),
    ]
    for operation, given, name in cases:
        with pytest.raises(Refused, match=f"^{name}$"):
            client.call(operation, **given)
    for access_key, secret, operation, name in (
        ("AKADMIN", "another-secret", "ListCollections", "InvalidSignatureException"),
        ("AKNOBODY", "another-secret", "ListCollections", "UnrecognizedClientException"),
        ("AKSEARCH", KEYS["AKSEARCH"][0], "CreateCollection", "AccessDeniedException"),
    ):
        other = speaker(client_name, environment(service.url, access_key, secret))
        given = {"CollectionId": "x"} if operation == "CreateCollection" else {}
        with pytest.raises(Refused, match=f"^{name}$"):
            other.call(operation, **given)
        other.close()


def test_faces_and_collections_are_deleted(
    client: Speaker, collection: str, indexed: dict[str, list[str]]
) -> None:
    faces = indexed["jerry_seinfeld"][-2:]
    answer = client.call("DeleteFaces", CollectionId=collection, FaceIds=[*faces, ABSENT])
    assert sorted(answer["DeletedFaces"]) == sorted(faces)
    assert answer["UnsuccessfulFaceDeletions"][0]["Reasons"] == ["FACE_NOT_FOUND"]
    assert client.call("DeleteCollection", CollectionId=collection)["StatusCode"] == 200
    with pytest.raises(Refused, match="ResourceNotFoundException"):
        client.call("ListFaces", CollectionId=collection)
