"""One client's life with the dialect, from the first collection to the last."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

Rekognition = Any


@pytest.fixture
def collection(rekognition: Rekognition) -> str:
    name = f"rk-{secrets.token_hex(4)}"
    rekognition.create_collection(CollectionId=name)
    return name


def test_a_person_is_found_in_the_other_photos_of_theirs(
    rekognition: Rekognition, collection: str, photos: dict[str, list[bytes]]
) -> None:
    ids: dict[str, str] = {}
    for person, pictures in photos.items():
        for picture in pictures[:-1]:
            answer = rekognition.index_faces(
                CollectionId=collection,
                Image={"Bytes": picture},
                ExternalImageId=person,
                MaxFaces=1,
            )
            record = answer["FaceRecords"][0]
            assert record["Face"]["ExternalImageId"] == person
            ids[record["Face"]["FaceId"]] = person
    assert len(ids) == sum(len(pictures) - 1 for pictures in photos.values())
    for person, pictures in photos.items():
        answer = rekognition.search_faces_by_image(
            CollectionId=collection, Image={"Bytes": pictures[-1]}, FaceMatchThreshold=50
        )
        found = [match["Face"]["ExternalImageId"] for match in answer["FaceMatches"]]
        assert found
        assert found[0] == person
