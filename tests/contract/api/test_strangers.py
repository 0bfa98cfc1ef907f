"""What somebody without a key can take away from those who have one: nothing that lasts."""

from __future__ import annotations

import contextlib
import datetime as dt
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from app.keys import entry
from tests.contract.api.conftest import Service, Start

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
CAP = 100_000
ADMIN = "key-of-one-who-is-let-in"
KEY = {"x-api-key": ADMIN}


@pytest.fixture(scope="module")
def small(start: Start, migrated: dict[str, str]) -> Service:
    """A service that holds few bodies at once."""
    return start(
        **migrated,
        FACE_RECOGNITION_ENABLED="false",
        CMS_HOOK_SECRET="hook-secret-of-the-strangers",
        API_KEYS=entry("admin", "admin", ADMIN),
        AWS_DIALECT_KEYS="AKNOWN:secret:admin",
        MAX_UPLOAD_BYTES=str(CAP),
    )


def begun(service: Service, path: str, kind: str, body: bytes) -> socket.socket:
    """A request of somebody without a key, of which all but the end has been sent."""
    sock = service.connect()
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"X-Amz-Date: {stamp}\r\nX-Amz-Target: RekognitionService.DetectFaces\r\n"
        "Authorization: AWS4-HMAC-SHA256 "
        f"Credential=AKNOWN/{stamp[:8]}/us-east-1/rekognition/aws4_request, "
        f"SignedHeaders=host;x-amz-date;x-amz-target, Signature={'0' * 64}\r\n"
        f"Content-Length: {len(body) + 1}\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    return sock


@contextlib.contextmanager
def crowd(service: Service, path: str, kind: str, body: bytes) -> Iterator[list[socket.socket]]:
    """Three of them, one of which is more than strangers have room for."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(begun(service, path, kind, body)) for _ in range(3)]


def whole(sock: socket.socket) -> bytes:
    """The answer up to the end of the connection: head and body may come apart."""
    sock.settimeout(60)
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


PICTURE = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + bytes(90_000)


@pytest.mark.parametrize(
    ("path", "kind", "body", "told"),
    [
        ("/v1/hooks/cms", "application/json", b" " * 90_000, b"503"),
        ("/", "multipart/form-data; boundary=x", PICTURE, b"503"),
        ("/aws", "application/x-amz-json-1.1", b" " * 90_000, b"Throttling"),
    ],
    ids=["hook", "page", "signed by another"],
)
def test_the_bodies_of_strangers_are_few_and_keys_have_room_beside_them(
    small: Service, path: str, kind: str, body: bytes, told: bytes
) -> None:
    with crowd(small, path, kind, body) as sockets:
        answered, _, _ = select.select(sockets, [], [], 20)
        found = whole(answered[0])
        assert told in found, found
        assert b"Too many uploads" in found
        with small.client(headers=KEY) as client:
            answer = client.post("/v1/jobs", json={"kind": "audit"})
            assert answer.status_code == 202, answer.text


def test_json_of_strangers_is_not_parsed(small: Service) -> None:
    """A MiB of brackets without a key kept the process busy for half a second."""
    with small.client() as client:
        answer = client.post("/", json={"a": [[]]})
        assert answer.status_code == 415, answer.text
        assert answer.json()["detail"] == "Send multipart/form-data."
        assert client.post("/", files={"image": b"x"}).status_code == 401
