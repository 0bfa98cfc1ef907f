"""One client's life with the dialect: pictures in, people found, users, pages, deletes."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.contract.api.conftest import Service

pytestmark = pytest.mark.xdist_group("rekognition")
Rekognition = Any
Photos = dict[str, list[bytes]]


@pytest.fixture(scope="module")
def collection(rekognition: Rekognition) -> str:
    name = f"rk-{secrets.token_hex(4)}"
    rekognition.create_collection(CollectionId=name)
    return name


@pytest.fixture(scope="module")
def indexed(rekognition: Rekognition, collection: str, photos: Photos) -> dict[str, list[str]]:
    """The face ids of each person, whose name is the ExternalImageId of all their pictures."""
    found: dict[str, list[str]] = {}
    for person, pictures in photos.items():
        for picture in pictures[:-1]:
            answer = rekognition.index_faces(
                CollectionId=collection,
                Image={"Bytes": picture},
                ExternalImageId=person,
                MaxFaces=1,
            )
            (record,) = answer["FaceRecords"]
            assert record["Face"]["ExternalImageId"] == person
            found.setdefault(person, []).append(record["Face"]["FaceId"])
    return found


def name_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_many_pictures_may_have_one_external_id(
    indexed: dict[str, list[str]], photos: Photos, rekognition: Rekognition, collection: str
) -> None:
    ids = [face for faces in indexed.values() for face in faces]
    assert len(set(ids)) == sum(len(pictures) - 1 for pictures in photos.values())
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == len(ids)


def test_a_person_is_found_by_another_photo(
    indexed: dict[str, list[str]], photos: Photos, rekognition: Rekognition, collection: str
) -> None:
    for person, pictures in photos.items():
        answer = rekognition.search_faces_by_image(
            CollectionId=collection, Image={"Bytes": pictures[-1]}, FaceMatchThreshold=40
        )
        assert answer["FaceMatches"][0]["Face"]["ExternalImageId"] == person
        likeness = [match["Similarity"] for match in answer["FaceMatches"]]
        assert likeness == sorted(likeness, reverse=True)
        assert min(likeness) >= 40


def test_a_stored_face_finds_others_and_not_itself(
    indexed: dict[str, list[str]], rekognition: Rekognition, collection: str
) -> None:
    face_id = indexed["madonna"][0]
    answer = rekognition.search_faces(
        CollectionId=collection, FaceId=face_id, FaceMatchThreshold=0, MaxFaces=4096
    )
    found = {match["Face"]["FaceId"] for match in answer["FaceMatches"]}
    assert found == {face for faces in indexed.values() for face in faces} - {face_id}


def test_the_same_picture_is_not_stored_twice(
    indexed: dict[str, list[str]], photos: Photos, rekognition: Rekognition, collection: str
) -> None:
    again = rekognition.index_faces(
        CollectionId=collection,
        Image={"Bytes": photos["madonna"][0]},
        ExternalImageId="madonna",
        MaxFaces=1,
    )
    assert [r["Face"]["FaceId"] for r in again["FaceRecords"]] == indexed["madonna"][:1]


def test_lists_go_on_page_by_page(
    indexed: dict[str, list[str]], rekognition: Rekognition, collection: str
) -> None:
    pages = list(
        rekognition.get_paginator("list_faces").paginate(
            CollectionId=collection, PaginationConfig={"PageSize": 7}
        )
    )
    assert len(pages) > 2
    listed = [face["FaceId"] for page in pages for face in page["Faces"]]
    assert sorted(listed) == sorted(face for faces in indexed.values() for face in faces)
    ids = indexed["madonna"]
    named = rekognition.get_paginator("list_faces").paginate(
        CollectionId=collection, FaceIds=ids, PaginationConfig={"PageSize": 2}
    )
    assert [face["FaceId"] for page in named for face in page["Faces"]] == ids
    names = [
        name
        for page in rekognition.get_paginator("list_collections").paginate(
            PaginationConfig={"PageSize": 1}
        )
        for name in page["CollectionIds"]
    ]
    assert collection in names
    assert names == sorted(set(names))


def test_the_other_protocol_sees_the_same_faces(
    indexed: dict[str, list[str]], collection: str, service: Service
) -> None:
    with service.client() as http:
        answer = http.post(
            "/v1/search",
            json={
                "face_id": indexed["madonna"][0],
                "collection": collection,
                "min_similarity": -1,
                "limit": 100,
            },
        )
    assert answer.status_code == 200, answer.text
    found = {match["face_id"] for match in answer.json()["faces"][0]["matches"]}
    assert found == {f for faces in indexed.values() for f in faces} - {indexed["madonna"][0]}


def test_users_get_faces_that_look_like_them(
    indexed: dict[str, list[str]], photos: Photos, rekognition: Rekognition, collection: str
) -> None:
    def users() -> dict[str, str]:
        pages = rekognition.get_paginator("list_users").paginate(
            CollectionId=collection, PaginationConfig={"PageSize": 1}
        )
        return {u["UserId"]: u["UserStatus"] for page in pages for u in page["Users"]}

    for person in ("madonna", "elton_john"):
        rekognition.create_user(CollectionId=collection, UserId=person)
    assert users() == {"madonna": "CREATED", "elton_john": "CREATED"}
    for person in ("madonna", "elton_john"):
        answer = rekognition.associate_faces(
            CollectionId=collection,
            UserId=person,
            FaceIds=indexed[person],
            UserMatchThreshold=20,
        )
        assert answer["UserStatus"] == "ACTIVE"
        assert len(answer["AssociatedFaces"]) >= 3
    absent = secrets_uuid()
    taken = rekognition.associate_faces(
        CollectionId=collection,
        UserId="madonna",
        FaceIds=[indexed["elton_john"][0], indexed["ben_afflek"][0], absent],
    )
    reasons = {f["FaceId"]: f["Reasons"] for f in taken["UnsuccessfulFaceAssociations"]}
    assert reasons == {
        indexed["elton_john"][0]: ["ASSOCIATED_TO_A_DIFFERENT_USER"],
        indexed["ben_afflek"][0]: ["LOW_MATCH_CONFIDENCE"],
        absent: ["FACE_NOT_FOUND"],
    }
    assert taken["AssociatedFaces"] == []
    assert users() == {"madonna": "ACTIVE", "elton_john": "ACTIVE"}
    by_image = rekognition.search_users_by_image(
        CollectionId=collection, Image={"Bytes": photos["madonna"][-1]}, UserMatchThreshold=40
    )
    assert by_image["UserMatches"][0]["User"] == {"UserId": "madonna", "UserStatus": "ACTIVE"}
    by_face = rekognition.search_users(CollectionId=collection, FaceId=indexed["madonna"][0])
    assert by_face["UserMatches"][0]["User"]["UserId"] == "madonna"
    by_user = rekognition.search_users(
        CollectionId=collection, UserId="madonna", UserMatchThreshold=0
    )
    assert [match["User"]["UserId"] for match in by_user["UserMatches"]] == ["elton_john"]
    theirs = rekognition.list_faces(CollectionId=collection, UserId="madonna")["Faces"]
    assert {face["UserId"] for face in theirs} == {"madonna"}

    kept = rekognition.delete_faces(CollectionId=collection, FaceIds=[indexed["madonna"][0]])
    assert kept["DeletedFaces"] == []
    (failure,) = kept["UnsuccessfulFaceDeletions"]
    assert failure["Reasons"] == ["ASSOCIATED_TO_AN_EXISTING_USER"]
    freed = rekognition.disassociate_faces(
        CollectionId=collection,
        UserId="madonna",
        FaceIds=[indexed["madonna"][0], indexed["elton_john"][0], indexed["ben_afflek"][0]],
    )
    assert freed["DisassociatedFaces"] == [{"FaceId": indexed["madonna"][0]}]
    assert [f["Reasons"] for f in freed["UnsuccessfulFaceDisassociations"]] == [
        ["ASSOCIATED_TO_A_DIFFERENT_USER"],
        ["FACE_NOT_FOUND"],
    ]
    for person in ("madonna", "elton_john"):
        rekognition.delete_user(CollectionId=collection, UserId=person)
    assert users() == {}
    left = rekognition.list_faces(CollectionId=collection)["Faces"]
    assert all("UserId" not in face for face in left)


def test_a_deleted_face_is_gone_until_its_picture_comes_again(
    indexed: dict[str, list[str]], photos: Photos, rekognition: Rekognition, collection: str
) -> None:
    face_id = indexed["jerry_seinfeld"][0]
    absent = secrets_uuid()
    answer = rekognition.delete_faces(CollectionId=collection, FaceIds=[face_id, absent])
    assert answer["DeletedFaces"] == [face_id]
    assert answer["UnsuccessfulFaceDeletions"] == [
        {"FaceId": absent, "Reasons": ["FACE_NOT_FOUND"]}
    ]
    assert rekognition.list_faces(CollectionId=collection, FaceIds=[face_id])["Faces"] == []
    with pytest.raises(ClientError) as error:
        rekognition.search_faces(CollectionId=collection, FaceId=face_id)
    assert name_of(error) == "InvalidParameterException"
    again = rekognition.index_faces(
        CollectionId=collection,
        Image={"Bytes": photos["jerry_seinfeld"][0]},
        ExternalImageId="jerry_seinfeld",
        MaxFaces=1,
    )
    assert [record["Face"]["FaceId"] for record in again["FaceRecords"]] == [face_id]


def test_two_pictures_are_compared(rekognition: Rekognition, photos: Photos) -> None:
    answer = rekognition.compare_faces(
        SourceImage={"Bytes": photos["madonna"][0]},
        TargetImage={"Bytes": photos["madonna"][-1]},
        SimilarityThreshold=0,
    )
    assert answer["FaceMatches"]
    assert answer["UnmatchedFaces"] == []
    for photo in (paths[0] for paths in photos.values()):  # whose cosine is often 0.9999999
        same = rekognition.compare_faces(
            SourceImage={"Bytes": photo}, TargetImage={"Bytes": photo}, SimilarityThreshold=100
        )
        assert [match["Similarity"] for match in same["FaceMatches"]][:1] == [100]
    others = rekognition.compare_faces(
        SourceImage={"Bytes": photos["madonna"][0]},
        TargetImage={"Bytes": photos["ben_afflek"][0]},
    )
    assert others["FaceMatches"] == []
    assert others["UnmatchedFaces"]


def test_faces_are_detected_with_ratios_of_the_picture(
    rekognition: Rekognition, photos: Photos
) -> None:
    answer = rekognition.detect_faces(Image={"Bytes": photos["madonna"][0]}, Attributes=["ALL"])
    face = answer["FaceDetails"][0]
    assert set(face) == {"BoundingBox", "Confidence", "Landmarks", "Pose", "Quality"}
    assert all(0 <= side <= 1 for side in face["BoundingBox"].values())
    points = {point["Type"]: point["X"] for point in face["Landmarks"]}
    assert points["eyeLeft"] < points["nose"] < points["eyeRight"]


def secrets_uuid() -> str:
    text = secrets.token_hex(16)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
