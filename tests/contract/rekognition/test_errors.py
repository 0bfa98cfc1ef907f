"""What is refused, by name: signatures, roles, limits, pictures."""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import httpx2
import pytest
from botocore.exceptions import ClientError

from tests.contract.api.conftest import Service, Start
from tests.contract.rekognition.conftest import KEYS, Speak

pytestmark = pytest.mark.xdist_group("rekognition")
Rekognition = Any
UUID = "01234567-89ab-cdef-0123-456789abcdef"


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    found = error.value.response["Error"]
    return found["Code"], found["Message"]


def post(
    service: Service,
    operation: str,
    body: bytes,
    *,
    path: str = "/aws",
    access_key: str = "AKADMIN",
    drop: tuple[str, ...] = (),
    **changed: str,
) -> httpx2.Response:
    """Sends what botocore signs, with headers dropped or changed afterwards."""
    request = botocore.awsrequest.AWSRequest(
        "POST",
        service.url + path,
        data=body,
        headers={
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"RekognitionService.{operation}",
        },
    )
    credentials = botocore.credentials.Credentials(access_key, KEYS[access_key][0])
    botocore.auth.SigV4Auth(credentials, "rekognition", "eu-west-1").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    headers = {name: value for name, value in headers.items() if name not in drop}
    with service.client() as http:
        return http.post(path, content=body, headers=headers, follow_redirects=False)


def named(answer: httpx2.Response) -> str:
    assert answer.headers["x-amzn-requestid"]
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    body = answer.json()
    assert set(body) == {"__type", "message"}
    return str(body["__type"])


@pytest.mark.parametrize("path", ["/aws", "/aws/", "/aws/v1", "/aws/v1/"])
def test_every_path_answers_without_a_redirect(speak: Speak, path: str, service: Service) -> None:
    assert "CollectionIds" in speak(path=path).list_collections()
    assert post(service, "ListCollections", b"{}", path=path).status_code == 200


def test_a_session_token_is_accepted(speak: Speak) -> None:
    assert "CollectionIds" in speak(token="a-session-token").list_collections()


class TestSignatures:
    def test_a_wrong_secret_is_refused(self, speak: Speak) -> None:
        with pytest.raises(ClientError) as error:
            speak("AKADMIN", "another-secret").list_collections()
        assert refusal(error)[0] == "InvalidSignatureException"

    def test_an_unknown_key_is_refused(self, speak: Speak) -> None:
        with pytest.raises(ClientError) as error:
            speak("AKNOBODY", "another-secret").list_collections()
        assert refusal(error)[0] == "UnrecognizedClientException"

    def test_an_unsigned_request_is_refused(self, service: Service) -> None:
        answer = post(service, "ListCollections", b"{}", drop=("authorization",))
        assert (answer.status_code, named(answer)) == (400, "MissingAuthenticationTokenException")

    def test_a_broken_header_is_refused(self, service: Service) -> None:
        for text in (
            "AWS4-HMAC-SHA256",
            "Bearer x",
            "AWS4-HMAC-SHA256 Credential=a/b, Signature=c",
        ):
            answer = post(service, "ListCollections", b"{}", authorization=text)
            assert named(answer) == "IncompleteSignatureException"

    def test_a_changed_body_target_or_host_is_refused(self, service: Service) -> None:
        changed = post(
            service, "ListCollections", b"{}", x_amz_target="RekognitionService.ListFaces"
        )
        assert named(changed) == "InvalidSignatureException"
        extra = post(service, "ListCollections", b"{}", x_amz_security_token="unsigned")
        assert named(extra) == "InvalidSignatureException"
        assert "x-amz-security-token" in extra.json()["message"]

    @pytest.mark.parametrize("minutes", [-6, 6])
    def test_a_clock_that_is_off_is_refused(
        self, service: Service, minutes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        then = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(minutes=minutes)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: then)
        answer = post(service, "ListCollections", b"{}")
        assert named(answer) == "InvalidSignatureException"
        assert "X-Amz-Date" in answer.json()["message"]

    def test_an_unknown_target_is_refused(self, service: Service) -> None:
        for operation in ("DetectLabels", "", "../ListFaces"):
            assert named(post(service, operation, b"{}")) == "UnknownOperationException"

    def test_a_body_that_is_no_json_object_is_refused(self, service: Service) -> None:
        for body in (b"{", b"[]", b'{"MaxResults": "5"}', b'{"MaxResults": NaN}', b"\xff"):
            assert named(post(service, "ListCollections", body)) == "SerializationException"

    def test_room_for_a_picture_is_no_room_for_other_json(self, service: Service) -> None:
        """Parsed, such a body takes twenty times its size: half a gigabyte for one request."""
        picture = base64.b64encode(blank_png())
        body = b'{"Image": {"Bytes": "%s"}, "More": [%s[]]}' % (picture, b"[]," * 400_000)
        answer = post(service, "DetectFaces", body)
        assert named(answer) == "SerializationException"
        assert "besides Image.Bytes" in answer.json()["message"]


class TestRoles:
    def test_a_key_does_what_its_role_may(self, speak: Speak) -> None:
        name = f"rk-{secrets.token_hex(4)}"
        for access_key in ("AKSEARCH", "AKINDEX"):
            with pytest.raises(ClientError) as error:
                speak(access_key).create_collection(CollectionId=name)
            assert refusal(error)[0] == "AccessDeniedException"
        speak("AKADMIN").create_collection(CollectionId=name)
        speak("AKINDEX").create_user(CollectionId=name, UserId="ada")
        assert speak("AKSEARCH").list_users(CollectionId=name)["Users"]
        with pytest.raises(ClientError) as error:
            speak("AKSEARCH").delete_user(CollectionId=name, UserId="ada")
        assert refusal(error)[0] == "AccessDeniedException"

    def test_a_bound_key_sees_its_collections_only(self, speak: Speak) -> None:
        bound = speak("AKBOUND")
        for name in ("bound-two", "bound-one"):
            bound.create_collection(CollectionId=name)
        with pytest.raises(ClientError) as error:
            bound.create_collection(CollectionId="elsewhere")
        assert refusal(error)[0] == "AccessDeniedException"
        with pytest.raises(ClientError) as error:
            bound.describe_collection(CollectionId="default")
        assert refusal(error)[0] == "ResourceNotFoundException"
        first = bound.list_collections(MaxResults=1)
        second = bound.list_collections(MaxResults=1, NextToken=first["NextToken"])
        assert first["CollectionIds"] + second["CollectionIds"] == ["bound-one", "bound-two"]
        assert "NextToken" not in second
        with pytest.raises(ClientError) as error:
            bound.list_collections(NextToken="elsewhere")
        assert refusal(error)[0] == "InvalidPaginationTokenException"


IMAGE = {"Bytes": "/9j/"}
LIMITS: list[tuple[str, dict[str, Any], str, str]] = [
    ("CreateCollection", {}, "InvalidParameterException", "CollectionId: is required"),
    ("CreateCollection", {"CollectionId": "a b"}, "InvalidParameterException", "U+0020"),
    ("CreateCollection", {"CollectionId": "a" * 256}, "InvalidParameterException", "255"),
    ("CreateCollection", {"CollectionId": "default"}, "ResourceAlreadyExistsException", ""),
    ("DeleteCollection", {"CollectionId": "default"}, "InvalidParameterException", "default"),
    ("DeleteCollection", {"CollectionId": "absent"}, "ResourceNotFoundException", ""),
    ("DescribeCollection", {"CollectionId": "absent"}, "ResourceNotFoundException", ""),
    ("ListCollections", {"MaxResults": 4097}, "InvalidParameterException", "4096; it is 4097"),
    ("ListCollections", {"MaxResults": -1}, "InvalidParameterException", "MaxResults"),
    ("ListCollections", {"NextToken": "a" * 256}, "InvalidParameterException", "NextToken"),
    ("ListCollections", {"NextToken": "bogus"}, "InvalidPaginationTokenException", ""),
    (
        "ListFaces",
        {"CollectionId": "default", "NextToken": "bogus"},
        "InvalidPaginationTokenException",
        "",
    ),
    (
        "ListFaces",
        {"CollectionId": "default", "NextToken": "sha256:00"},
        "InvalidPaginationTokenException",
        "",
    ),
    ("ListFaces", {"CollectionId": "absent"}, "ResourceNotFoundException", ""),
    (
        "ListFaces",
        {"CollectionId": "default", "UserId": "absent"},
        "ResourceNotFoundException",
        "",
    ),
    (
        "DeleteFaces",
        {"CollectionId": "default", "FaceIds": []},
        "InvalidParameterException",
        "FaceIds",
    ),
    (
        "DeleteFaces",
        {"CollectionId": "default", "FaceIds": [UUID] * 4097},
        "InvalidParameterException",
        "4096",
    ),
    (
        "DeleteFaces",
        {"CollectionId": "default", "FaceIds": [UUID.upper()]},
        "InvalidParameterException",
        "FaceIds[0]",
    ),
    (
        "SearchFaces",
        {"CollectionId": "default", "FaceId": UUID, "MaxFaces": 5000},
        "InvalidParameterException",
        "MaxFaces: must be at most 4096; it is 5000",
    ),
    (
        "SearchFaces",
        {"CollectionId": "default", "FaceId": UUID, "FaceMatchThreshold": 120},
        "InvalidParameterException",
        "FaceMatchThreshold: must be from 0 to 100; it is 120",
    ),
    (
        "SearchFaces",
        {"CollectionId": "default", "FaceId": UUID},
        "InvalidParameterException",
        "FaceId",
    ),
    ("SearchFaces", {"CollectionId": "absent", "FaceId": UUID}, "ResourceNotFoundException", ""),
    (
        "IndexFaces",
        {"CollectionId": "absent", "Image": IMAGE},
        "ResourceNotFoundException",
        "",
    ),
    (
        "IndexFaces",
        {"CollectionId": "default", "Image": IMAGE, "ExternalImageId": "a/b"},
        "InvalidParameterException",
        "ExternalImageId",
    ),
    (
        "IndexFaces",
        {"CollectionId": "default", "Image": IMAGE, "MaxFaces": 0},
        "InvalidParameterException",
        "MaxFaces",
    ),
    (
        "IndexFaces",
        {"CollectionId": "default", "Image": IMAGE, "QualityFilter": "BEST"},
        "InvalidParameterException",
        "QualityFilter",
    ),
    ("IndexFaces", {"CollectionId": "default", "Image": {}}, "InvalidParameterException", "Image"),
    (
        "DetectFaces",
        {"Image": {"Bytes": "/9j/", "S3Object": {"Bucket": "bucket", "Name": "x"}}},
        "InvalidParameterException",
        "exactly one",
    ),
    (
        "DetectFaces",
        {"Image": {"S3Object": {"Bucket": "bucket", "Name": "x.jpg"}}},
        "InvalidS3ObjectException",
        "Bucket",
    ),
    ("DetectFaces", {"Image": {"Bytes": "%%%"}}, "SerializationException", "base64"),
    ("DetectFaces", {"Image": {"Bytes": ""}}, "InvalidParameterException", "1 byte"),
    ("DetectFaces", {"Image": IMAGE, "Attributes": ["X"]}, "InvalidParameterException", ""),
    (
        "CreateUser",
        {"CollectionId": "default", "UserId": "u" * 129},
        "InvalidParameterException",
        "128",
    ),
    ("CreateUser", {"CollectionId": "absent", "UserId": "u"}, "ResourceNotFoundException", ""),
    ("DeleteUser", {"CollectionId": "default", "UserId": "u"}, "ResourceNotFoundException", ""),
    (
        "ListUsers",
        {"CollectionId": "default", "MaxResults": 501},
        "InvalidParameterException",
        "500",
    ),
    (
        "AssociateFaces",
        {"CollectionId": "default", "UserId": "u", "FaceIds": [UUID] * 101},
        "InvalidParameterException",
        "100",
    ),
    (
        "AssociateFaces",
        {"CollectionId": "default", "UserId": "u", "FaceIds": [UUID]},
        "ResourceNotFoundException",
        "",
    ),
    (
        "DisassociateFaces",
        {"CollectionId": "default", "UserId": "u", "FaceIds": [UUID]},
        "ResourceNotFoundException",
        "",
    ),
    ("SearchUsers", {"CollectionId": "default"}, "InvalidParameterException", "exactly one"),
    (
        "SearchUsers",
        {"CollectionId": "default", "UserId": "u", "MaxUsers": 501},
        "InvalidParameterException",
        "MaxUsers",
    ),
]


@pytest.mark.parametrize(
    ("operation", "given", "code", "word"),
    LIMITS,
    ids=[f"{c[0]}-{i}" for i, c in enumerate(LIMITS)],
)
def test_limits_are_enforced_and_named(
    service: Service, operation: str, given: dict[str, Any], code: str, word: str
) -> None:
    answer = post(service, operation, json.dumps(given).encode())
    assert (answer.status_code, named(answer)) == (400, code), answer.text
    assert word in answer.json()["message"]


class TestPictures:
    def test_only_jpeg_and_png_are_taken(self, rekognition: Rekognition, root: Any) -> None:
        for data in (b"GIF89a" + bytes(64), b"RIFF\x1a\0\0\0WEBPVP8 " + bytes(64), b"no picture"):
            with pytest.raises(ClientError) as error:
                rekognition.detect_faces(Image={"Bytes": data})
            assert refusal(error)[0] in ("InvalidImageFormatException",), data[:12]

    @pytest.mark.parametrize("size", [5_242_881, 15_728_640, 17_000_000])
    def test_a_picture_over_five_megabytes_is_too_large(
        self, rekognition: Rekognition, size: int
    ) -> None:
        with pytest.raises(ClientError) as error:
            rekognition.detect_faces(Image={"Bytes": b"\xff\xd8\xff" + bytes(size - 3)})
        assert refusal(error)[0] == "ImageTooLargeException"

    def test_without_a_face_there_is_nothing_to_search_by(
        self, rekognition: Rekognition, photos: dict[str, list[bytes]]
    ) -> None:
        blank = blank_png()
        assert rekognition.detect_faces(Image={"Bytes": blank})["FaceDetails"] == []
        indexed = rekognition.index_faces(CollectionId="default", Image={"Bytes": blank})
        assert indexed["FaceRecords"] == []
        users = rekognition.search_users_by_image(CollectionId="default", Image={"Bytes": blank})
        assert users["UserMatches"] == []
        with pytest.raises(ClientError) as error:
            rekognition.search_faces_by_image(CollectionId="default", Image={"Bytes": blank})
        assert refusal(error)[0] == "InvalidParameterException"
        face = photos["madonna"][0]
        for source, target in ((blank, face), (face, blank)):
            with pytest.raises(ClientError) as error:
                rekognition.compare_faces(
                    SourceImage={"Bytes": source}, TargetImage={"Bytes": target}
                )
            assert refusal(error)[0] == "InvalidParameterException"


class TestUsers:
    def test_a_user_is_made_once_and_a_repeated_token_tells_so(
        self, rekognition: Rekognition
    ) -> None:
        name = f"u-{secrets.token_hex(4)}"
        token = secrets.token_hex(16)
        for _ in range(2):
            rekognition.create_user(CollectionId="default", UserId=name, ClientRequestToken=token)
        with pytest.raises(ClientError) as error:
            rekognition.create_user(CollectionId="default", UserId=name)
        assert refusal(error)[0] == "ConflictException"
        with pytest.raises(ClientError) as error:
            rekognition.create_user(
                CollectionId="default", UserId=name + "x", ClientRequestToken=token
            )
        assert refusal(error)[0] == "IdempotentParameterMismatchException"


def test_a_signature_admits_from_afar_what_a_service_without_api_keys_refuses(
    service: Service,
) -> None:
    body = b"{}"
    request = botocore.awsrequest.AWSRequest(
        "POST",
        "http://photos.example/aws",
        data=body,
        headers={"X-Amz-Target": "RekognitionService.ListCollections"},
    )
    credentials = botocore.credentials.Credentials("AKADMIN", KEYS["AKADMIN"][0])
    botocore.auth.SigV4Auth(credentials, "rekognition", "eu-west-1").add_auth(request)
    headers = {**dict(request.headers.items()), "Host": "photos.example"}
    with service.client() as http:
        assert http.post("/aws", content=body, headers=headers).status_code == 200
        assert http.get("/v1/collections", headers={"Host": "photos.example"}).status_code == 403


def test_without_access_keys_only_keyless_machines_are_answered(
    start: Start, migrated: dict[str, str]
) -> None:
    digest = "0" * 64
    keyed = start(API_KEYS=f"cms:admin:{digest}", FACE_RECOGNITION_ENABLED="false", **migrated)
    answer = post(keyed, "ListCollections", b"{}")
    assert named(answer) == "UnrecognizedClientException"
    assert "AWS_DIALECT_KEYS" in answer.json()["message"]


def test_what_clients_should_try_again_has_a_name_that_they_retry(
    start: Start, migrated: dict[str, str], tmp_path: Path
) -> None:
    bare = start(
        MODEL_DIR=str(tmp_path),
        AWS_DIALECT_KEYS=f"AKADMIN:{KEYS['AKADMIN'][0]}:admin",
        RATE_LIMIT_PER_KEY="3/minute",
        **migrated,
    )
    body = json.dumps({"Image": {"Bytes": base64.b64encode(blank_png()).decode()}}).encode()
    loading = post(bare, "DetectFaces", body)
    assert (loading.status_code, named(loading)) == (400, "ThrottlingException")
    assert int(loading.headers["retry-after"]) >= 1
    answers = [post(bare, "ListCollections", b"{}") for _ in range(4)]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert named(answers[3]) == "ProvisionedThroughputExceededException"


def test_a_service_that_encodes_nothing_says_so(start: Start, migrated: dict[str, str]) -> None:
    lame = start(FACE_RECOGNITION_ENABLED="false", **migrated)
    assert post(lame, "ListCollections", b"{}").status_code == 200
    body = json.dumps({"Image": {"Bytes": base64.b64encode(blank_png()).decode()}}).encode()
    answer = post(lame, "DetectFaces", body)
    assert named(answer) == "AccessDeniedException"
    assert "FACE_RECOGNITION_ENABLED" in answer.json()["message"]


def blank_png() -> bytes:
    """64 grey pixels each way."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()
