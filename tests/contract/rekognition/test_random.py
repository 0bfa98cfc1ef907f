"""Random requests: one that the service's model allows never fails with a 500.

Whatever comes back is read by botocore's own parser and compared with its model: no member that
the model does not know, none of another type, none outside the model's limits.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.model import Shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.rekognition.endpoint import RUN
from tests.contract.rekognition.conftest import Speak

pytestmark = pytest.mark.xdist_group("rekognition")
Rekognition = Any
EXAMPLES = 120
UUID = "01234567-89ab-cdef-0123-456789abcdef"
LIVE = ("random-a", "random-b")
HARMLESS = frozenset(RUN) - {"DeleteCollection"}
RETRYABLE = {"ThrottlingException", "ProvisionedThroughputExceededException"}


@pytest.fixture(scope="module")
def model(rekognition: Rekognition) -> Any:
    return rekognition.meta.service_model


@pytest.fixture(scope="module")
def faces(rekognition: Rekognition, photos: dict[str, list[bytes]]) -> list[str]:
    """Ids of stored faces, some of a user."""
    found = []
    for name in LIVE:
        rekognition.create_collection(CollectionId=name)
        rekognition.create_user(CollectionId=name, UserId="user-a")
        for pictures in list(photos.values())[:2]:
            answer = rekognition.index_faces(CollectionId=name, Image={"Bytes": pictures[0]})
            found += [record["Face"]["FaceId"] for record in answer["FaceRecords"]]
    return found


def values(
    shape: Shape, name: str, faces: list[str], photos: list[bytes]
) -> st.SearchStrategy[Any]:
    """Values that the model allows, often ones that exist."""
    match name:
        case "CollectionId":
            return st.sampled_from([*LIVE, "default", "absent"])
        case "UserId":
            return st.sampled_from(["user-a", "user-b", "absent:user"])
        case "FaceId":
            return st.sampled_from([*faces, UUID])
        case "Bytes":
            return st.sampled_from(photos)
        case "S3Object":
            return st.just({"Bucket": "samples", "Name": "absent.jpg"})
        case "NextToken":
            return st.sampled_from(["", "x", "sha256:0", "WzFd", secrets.token_hex(100)])
        case "ClientRequestToken":
            return st.sampled_from(["t-1", "t-2"])
    match shape.type_name:
        case "structure":
            members = dict(shape.members)
            if shape.name == "Image":
                one = st.sampled_from(["Bytes", "Bytes", "Bytes", "S3Object"])
                return one.flatmap(
                    lambda m: st.fixed_dictionaries({m: values(members[m], m, faces, photos)})
                )
            wanted = {m: values(s, m, faces, photos) for m, s in members.items()}
            required = {m: wanted.pop(m) for m in shape.required_members}
            return st.fixed_dictionaries(required, optional=wanted)
        case "list":
            item = "FaceId" if name == "FaceIds" else name
            return st.lists(
                values(shape.member, item, faces, photos),
                min_size=shape.metadata.get("min", 0),
                max_size=min(8, shape.metadata.get("max", 8)),
            )
        case "map":
            return st.dictionaries(st.text("ab", min_size=1, max_size=3), st.text("ab"), max_size=2)
        case "integer":
            least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 10**9)
            return st.integers(least, most) | st.integers(least, min(least + 3, most))
        case "float":
            return st.floats(0, 100, allow_nan=False) | st.sampled_from([0.0, 100.0])
    if "enum" in shape.metadata:
        return st.sampled_from(shape.metadata["enum"])
    letters = "abcXYZ019_.-" + (":" if name == "ExternalImageId" else "")
    return st.text(letters, min_size=1, max_size=40)


def fits(shape: Shape, value: Any, at: str) -> None:
    """Fails unless the value is one that the model describes."""
    match shape.type_name:
        case "structure":
            assert isinstance(value, dict), at
            assert not set(value) - set(shape.members), (at, set(value) - set(shape.members))
            for name, member in value.items():
                fits(shape.members[name], member, f"{at}.{name}")
        case "list":
            assert isinstance(value, list), at
            for item in value:
                fits(shape.member, item, f"{at}[]")
        case "integer" | "long":
            assert type(value) is int, at
        case "float" | "double":
            assert isinstance(value, float), (at, value)
            assert shape.metadata.get("min", -1e9) <= value <= shape.metadata.get("max", 1e9), at
        case "timestamp":
            assert isinstance(value, dt.datetime), at
        case "string":
            assert isinstance(value, str), at
            assert len(value) <= shape.metadata.get("max", 10_000), at
            if "enum" in shape.metadata:
                assert value in shape.metadata["enum"], (at, value)
            if "pattern" in shape.metadata:
                assert re.fullmatch(shape.metadata["pattern"], value), (at, value)


def test_the_service_has_every_operation_of_its_kind(model: Any) -> None:
    assert set(RUN) <= set(model.operation_names)
    assert len(RUN) == 18


@pytest.mark.parametrize("operation", sorted(HARMLESS))
def test_what_the_model_allows_is_answered_as_the_model_says(
    operation: str,
    model: Any,
    rekognition: Rekognition,
    faces: list[str],
    photos: dict[str, list[bytes]],
) -> None:
    described = model.operation_model(operation)
    declared = {shape.name for shape in described.error_shapes}
    pictures = [pictures[0] for pictures in photos.values()][:3]
    method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
    examples = EXAMPLES // (10 if "Image" in described.input_shape.members else 3)
    if operation == "CompareFaces":
        examples = 8

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(values(described.input_shape, operation, faces, pictures))
    def check(given_: dict[str, Any]) -> None:
        if operation == "CreateCollection":
            given_["CollectionId"] = f"made-{secrets.token_hex(6)}"
        try:
            answer = getattr(rekognition, method)(**given_)
        except ClientError as error:
            answer = error.response
        meta = answer.pop("ResponseMetadata")
        assert meta["RequestId"]
        if (refused := answer.pop("Error", None)) is None:
            fits(described.output_shape, answer, operation)
        else:
            assert meta["HTTPStatusCode"] == 400, refused
            assert refused["Code"] in declared - RETRYABLE - {"InternalServerError"}, refused

    check()


def test_a_collection_is_deleted_with_all_that_it_holds(
    speak: Speak, rekognition: Rekognition
) -> None:
    name = f"rk-{secrets.token_hex(4)}"
    rekognition.create_collection(CollectionId=name)
    assert rekognition.delete_collection(CollectionId=name)["StatusCode"] == 200
    for call in ("describe_collection", "list_faces", "list_users", "delete_collection"):
        with pytest.raises(ClientError) as error:
            getattr(rekognition, call)(CollectionId=name)
        assert error.value.response["Error"]["Code"] == "ResourceNotFoundException"
