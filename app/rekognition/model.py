"""The operations as data: what each takes, with every limit, pattern and default.

Limits are those of the service's published model. Where that has no default, ours stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from app.rekognition.shapes import (
    Blob,
    Choice,
    ListOf,
    MapOf,
    Percent,
    Record,
    Shape,
    Text,
    Whole,
)
from faces.settings import Role

IMAGE_BYTES = 5_242_880
MOST_MATCHES = 4096
MOST_ASSOCIATED = 100

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
COLLECTION_ID = Text(1, 255, letter=r"[a-zA-Z0-9_.\-]")
EXTERNAL_ID = Text(1, 255, letter=r"[a-zA-Z0-9_.\-:]")
USER_ID = Text(1, 128, letter=r"[a-zA-Z0-9_.\-:]")
FACE_ID = Text(36, 36, pattern=_UUID)
TOKEN = Text(0, 255)
CLIENT_TOKEN = Text(1, 64, letter=r"[a-zA-Z0-9-_]")
FILTER = Choice(("NONE", "AUTO", "LOW", "MEDIUM", "HIGH"))
ATTRIBUTES = ListOf(
    Choice(
        (
            *("DEFAULT", "ALL", "AGE_RANGE", "BEARD", "EMOTIONS", "EYE_DIRECTION", "EYEGLASSES"),
            *("EYES_OPEN", "GENDER", "MOUTH_OPEN", "MUSTACHE", "FACE_OCCLUDED", "SMILE"),
            "SUNGLASSES",
        )
    )
)
_TAG = r"[\w\s.:/=+\-@]"
TAGS = MapOf(
    Text(1, 128, letter=_TAG, pattern="(?!aws:)(?s:.*)"), Text(0, 256, letter=_TAG), most=200
)
IMAGE = Record(
    {
        "Bytes": Blob(IMAGE_BYTES),
        "S3Object": Record(
            {
                "Bucket": Text(3, 255, letter=r"[0-9A-Za-z.\-_]"),
                "Name": Text(1, 1024),
                "Version": Text(1, 1024),
            }
        ),
    },
    one_of=("Bytes", "S3Object"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its input, the least role, and how many pictures it takes."""

    name: str
    role: Role
    input: Record
    images: int = 0


def _operation(
    name: str, role: Role, members: Mapping[str, Shape], **defaults: Any
) -> tuple[str, Operation]:
    """Members whose name ends in `*` are required."""
    named = {member.rstrip("*"): shape for member, shape in members.items()}
    required = frozenset(member.rstrip("*") for member in members if member.endswith("*"))
    one_of = ("UserId", "FaceId") if name == "SearchUsers" else ()
    images = sum(shape is IMAGE for shape in named.values())
    return name, Operation(name, role, Record(named, required, defaults, one_of), images)


_IN: dict[str, Shape] = {"CollectionId*": COLLECTION_ID}
_IN_USER: dict[str, Shape] = {**_IN, "UserId*": USER_ID, "ClientRequestToken": CLIENT_TOKEN}
_PAGE: dict[str, Shape] = {"NextToken": TOKEN, "MaxResults": Whole(0, 4096)}
_MATCHES: dict[str, Shape] = {"MaxFaces": Whole(1, MOST_MATCHES), "FaceMatchThreshold": Percent()}
_USER_MATCHES: dict[str, Shape] = {"UserMatchThreshold": Percent(), "MaxUsers": Whole(1, 500)}
_OF_USER: dict[str, Shape] = {**_IN_USER, "FaceIds*": ListOf(FACE_ID, 1, MOST_ASSOCIATED)}

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    dict(
        (
            _operation("CreateCollection", "admin", {**_IN, "Tags": TAGS}),
            _operation("DeleteCollection", "admin", _IN),
            _operation("DescribeCollection", "search", _IN),
            _operation("ListCollections", "search", _PAGE, MaxResults=1000),
            _operation(
                "IndexFaces",
                "index",
                {
                    **_IN,
                    "Image*": IMAGE,
                    "ExternalImageId": EXTERNAL_ID,
                    "DetectionAttributes": ATTRIBUTES,
                    "MaxFaces": Whole(1),
                    "QualityFilter": FILTER,
                },
                QualityFilter="AUTO",
            ),
            _operation(
                "ListFaces",
                "search",
                {**_IN, **_PAGE, "UserId": USER_ID, "FaceIds": ListOf(FACE_ID, 1, 4096)},
                MaxResults=1000,
            ),
            _operation("DeleteFaces", "index", {**_IN, "FaceIds*": ListOf(FACE_ID, 1, 4096)}),
            _operation(
                "SearchFaces",
                "search",
                {**_IN, "FaceId*": FACE_ID, **_MATCHES},
                MaxFaces=80,
                FaceMatchThreshold=80.0,
            ),
            _operation(
                "SearchFacesByImage",
                "search",
                {**_IN, "Image*": IMAGE, **_MATCHES, "QualityFilter": FILTER},
                MaxFaces=80,
                FaceMatchThreshold=80.0,
                QualityFilter="NONE",
            ),
            _operation("DetectFaces", "search", {"Image*": IMAGE, "Attributes": ATTRIBUTES}),
            _operation(
                "CompareFaces",
                "search",
                {
                    "SourceImage*": IMAGE,
                    "TargetImage*": IMAGE,
                    "SimilarityThreshold": Percent(),
                    "QualityFilter": FILTER,
                },
                SimilarityThreshold=80.0,
                QualityFilter="NONE",
            ),
            _operation("CreateUser", "index", _IN_USER),
            _operation("DeleteUser", "index", _IN_USER),
            _operation(
                "ListUsers",
                "search",
                {**_IN, "MaxResults": Whole(1, 500), "NextToken": TOKEN},
                MaxResults=500,
            ),
            _operation(
                "AssociateFaces",
                "index",
                {**_OF_USER, "UserMatchThreshold": Percent()},
                UserMatchThreshold=75.0,
            ),
            _operation("DisassociateFaces", "index", _OF_USER),
            _operation(
                "SearchUsers",
                "search",
                {**_IN, "UserId": USER_ID, "FaceId": FACE_ID, **_USER_MATCHES},
                UserMatchThreshold=80.0,
                MaxUsers=80,
            ),
            _operation(
                "SearchUsersByImage",
                "search",
                {**_IN, "Image*": IMAGE, **_USER_MATCHES, "QualityFilter": FILTER},
                UserMatchThreshold=80.0,
                MaxUsers=80,
                QualityFilter="NONE",
            ),
        )
    )
)
