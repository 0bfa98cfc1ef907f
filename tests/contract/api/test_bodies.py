"""Hostile bodies and connections, down to the socket."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests import hostile
from tests.contract.api.conftest import Service

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
CAP = 15_728_640
JSON = {"content-type": "application/json"}


def read_all(sock: socket.socket) -> bytes:
    found = b""
    while chunk := sock.recv(65536):
        found += chunk
    return found


def raw(service: Service, *chunks: bytes) -> bytes:
    """What the server sends back before it closes the connection."""
    with service.connect() as sock:
        for chunk in chunks:
            sock.sendall(chunk)
        return read_all(sock)


def code_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"] if body.startswith(b"{") else ""


HOSTILE: dict[str, tuple[bytes, int, str, str | None]] = {
    "text": (b"hello, I am a text file", 415, "unsupported_image", None),
    "html": (b"<html><script>1</script>", 415, "unsupported_image", None),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unsupported_image", None),
    "gif": (b"GIF89a" + bytes(40), 415, "unsupported_image", None),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), 415, "unsupported_image", None),
    "bmp": (b"BM" + bytes(60), 415, "unsupported_image", None),
    "empty": (b"", 422, "invalid_image", "empty"),
    "truncated": (hostile.jpeg()[: len(hostile.jpeg()) // 2], 422, "invalid_image", "truncated"),
    "header only": (hostile.jpeg()[:20], 422, "invalid_image", "truncated"),
    "huge": (
        hostile.with_size(hostile.jpeg(), 65535, 65535),
        422,
        "invalid_image",
        "too_many_pixels",
    ),
    "huge png": (
        hostile.png_of(hostile.png_header(32000, 32000), (b"IDAT", b""), (b"IEND", b"")),
        422,
        "invalid_image",
        "too_many_pixels",
    ),
    "tiny": (hostile.jpeg(hostile.photo(15, 15)), 422, "invalid_image", "dimensions"),
    "scans": (hostile.many_scans(2006), 422, "invalid_image", "too_many_scans"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_gets_its_name_and_the_service_goes_on(
    client: httpx2.Client, name: str, problem: Check
) -> None:
    data, status, code, reason = HOSTILE[name]
    body = problem(client.post("/v1/search", files={"image": data}), status, code)
    assert body.get("reason") == reason
    assert client.get("/healthz").status_code == 200


def test_the_type_that_a_part_claims_means_nothing(
    client: httpx2.Client, probes: dict[str, Path]
) -> None:
    part = ("evil.html", probes["madonna"].read_bytes(), "text/html")
    assert client.post("/v1/detect", files={"image": part}).status_code == 200


def test_a_picture_over_its_cap_is_too_large(client: httpx2.Client, problem: Check) -> None:
    image = hostile.jpeg() + bytes(CAP)
    problem(client.post("/v1/detect", files={"image": image[: CAP + 1]}), 413, "image_too_large")


def test_a_body_over_its_cap_is_refused_by_its_length(service: Service) -> None:
    head = (
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99000000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    answer = raw(service, head)
    assert code_of(answer) == (413, "request_too_large")
    assert b"connection: close" in answer.lower()


def test_a_chunked_body_is_refused_at_its_cap(service: Service) -> None:
    with service.connect() as sock:
        sock.sendall(
            b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        sent = 0
        try:
            while sent < 200:
                sock.sendall(chunk)
                sent += 1
        except OSError:
            pass
        assert code_of(read_all(sock))[0] in (400, 413)


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


def field(name: str, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="%s"%s\r\n\r\n%s' % (name.encode(), more, value)


FORM = {"content-type": "multipart/form-data; boundary=x"}
PICTURE = field("image", b"abc", b'; filename="a.jpg"')


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"nonsense", 400, "invalid_request"),
        (multipart(PICTURE)[:-8], 400, "invalid_request"),
        (multipart(b"\r\nno name"), 400, "invalid_request"),
        (multipart(*[field(f"f{i}", b"1") for i in range(1001)]), 400, "invalid_request"),
        (multipart(PICTURE, PICTURE), 422, "invalid_request"),
        (multipart(field("limit", b"1"), field("limit", b"2")), 422, "invalid_request"),
        (multipart(field("limit", b"1" * 2_000_000)), 413, "request_too_large"),
        (multipart(field("filter", b'{"a":'), PICTURE), 400, "invalid_request"),
        (multipart(field("filter", b"\xff\xfe"), PICTURE), 422, "invalid_request"),
        (multipart(field("limit", b"ten"), PICTURE), 422, "invalid_request"),
        (multipart(field("unknown", b"1"), PICTURE), 422, "invalid_request"),
        (multipart(field("image_base64", b"aGVsbG8="), PICTURE), 422, "invalid_request"),
        (multipart(field("vector", b'["1", true]')), 422, "invalid_request"),
    ],
)
def test_a_form_of_no_use_is_refused(
    client: httpx2.Client, body: bytes, status: int, code: str, problem: Check
) -> None:
    problem(client.post("/v1/search", content=body, headers=FORM), status, code)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; b"]
)
def test_a_form_without_boundary_is_refused(
    client: httpx2.Client, kind: str, problem: Check
) -> None:
    answer = client.post("/v1/search", content=b"x", headers={"content-type": kind})
    problem(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"{", 400, "invalid_request"),
        (b"\xff\xfe{}", 400, "invalid_request"),
        (b"[" * 100_000 + b"]" * 100_000, 400, "invalid_request"),
        (b'{"filter":' * 65 + b"1" + b"}" * 65, 400, "invalid_request"),
        (b'{"limit": ' + b"9" * 5000 + b"}", 400, "invalid_request"),
        (b'{"limit": ' + b"9" * 400 + b"}", 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b'"x"', 422, "invalid_request"),
        (b'{"subject_id": "\\ud800"}', 422, "invalid_request"),
        (b'{"\\ud800": 1}', 422, "invalid_request"),
        (b'{"subject_id": "\\u0000"}', 422, "invalid_request"),
        (b'{"vector": [' + b"1," * 600_000 + b"1]}", 413, "request_too_large"),
        (b'{"image_base64": "", "vector": [' + b"1," * 600_000 + b"1]}", 413, "request_too_large"),
        (b'{"image_base64": "!!!!"}', 422, "invalid_request"),
        (b'{"image_base64": "data:image/jpeg;base64,AAAA"}', 422, "invalid_request"),
        (b'{"image_base64": 5}', 422, "invalid_request"),
        (b'{"image_base64": ""}', 422, "invalid_image"),
        (b'{"image_base64": "aGVsbG8="}', 415, "unsupported_image"),
        (b'{"image_url": "file:///etc/passwd"}', 422, "url_not_allowed"),
        (b'{"image_url": "http://127.0.0.1:1/"}', 422, "url_not_allowed"),
        (b'{"image_url": "http://[::ffff:7f00:1]/x"}', 422, "url_not_allowed"),
        (b'{"image_url": "//host"}', 422, "url_not_allowed"),
    ],
)
def test_json_of_no_use_is_refused(
    client: httpx2.Client, body: bytes, status: int, code: str, problem: Check
) -> None:
    problem(client.post("/v1/search", content=body, headers=JSON), status, code)


def test_a_base64_picture_over_the_cap_is_too_large(client: httpx2.Client, problem: Check) -> None:
    encoded = base64.b64encode(hostile.jpeg() + bytes(CAP)).decode()
    body = json.dumps({"image_base64": encoded}).encode()
    problem(client.post("/v1/detect", content=body, headers=JSON), 413, "image_too_large")
    body = json.dumps({"image_base64": encoded + "A" * 70_000}).encode()
    problem(client.post("/v1/detect", content=body, headers=JSON), 413, "request_too_large")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/jpeg"])
def test_another_content_type_is_415(client: httpx2.Client, kind: str, problem: Check) -> None:
    answer = client.post("/v1/search", content=b"x", headers={"content-type": kind})
    problem(answer, 415, "unsupported_media_type")


def test_parameters_in_the_query_string_are_refused(
    client: httpx2.Client, probes: dict[str, Path], problem: Check
) -> None:
    photo = {"image": probes["madonna"].read_bytes()}
    problem(client.post("/v1/search?limit=3", files=photo), 422, "invalid_request")


def test_no_error_repeats_what_was_sent(client: httpx2.Client) -> None:
    canary = "canary-5f1d"
    sent = [
        client.post("/v1/search", json={canary: canary}),
        client.post("/v1/search", json={"face_id": canary}),
        client.post("/v1/search", json={"vector": [1.0], "filter": {canary: canary}}),
        client.post("/v1/search", json={"vector": [1.0], "face": canary}),
        client.post("/v1/search", content=canary, headers=JSON),
        client.post("/v1/search", files={"image": canary.encode()}, data={canary: canary}),
        client.get(f"/v1/collections/default/media?cursor={canary}"),
        client.get(f"/v1/collections/default/media?{canary}={canary}"),
        client.get(f"/v1/collections/{canary}"),
        client.get(f"/{canary}"),
        client.get(f"/v1/faces/{canary}"),
        client.request(canary.upper(), "/v1/models"),
        client.post("/v1/jobs", json={"kind": canary}),
    ]
    for answer in sent:
        assert answer.status_code >= 400
        assert canary not in answer.text.lower()
        assert len(answer.content) < 2048


@pytest.mark.parametrize(
    "head",
    [
        (
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        (
            b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nZZ\r\n"
        ),
    ],
    ids=["both framings", "negative", "two lengths", "long header", "tls", "no host", "bad chunk"],
)
def test_a_malformed_request_is_refused_and_closed(service: Service, head: bytes) -> None:
    answer = raw(service, head + b"\r\n\r\n")
    assert re.match(rb"HTTP/1.1 4(00|31) ", answer), answer[:200]


def test_heads_and_bodies_that_never_come_end(service: Service) -> None:
    """All at once: nothing, half a head, half a head after a whole request, half a body."""
    begun = {
        "nothing": b"",
        "half head": b"GET / HT",
        "second head": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal",
        "half body": b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        b"Content-Type: application/json\r\n\r\n{",
    }
    ended: dict[str, bytes] = {}

    def hold(name: str, data: bytes) -> None:
        with service.connect() as sock:
            sock.sendall(data)
            ended[name] = read_all(sock)

    threads = [threading.Thread(target=hold, args=item) for item in begun.items()]
    for thread in threads:
        thread.start()
    with service.client() as client:
        assert client.get("/healthz").status_code == 200
    for thread in threads:
        thread.join()
    assert len(ended) == len(begun), ended
    assert code_of(ended["half body"]) == (408, "request_timeout")


def test_a_client_that_hangs_up_frees_its_place(
    service: Service, client: httpx2.Client, probes: dict[str, Path]
) -> None:
    """Many uploads are begun and dropped; the next one is served."""
    body = multipart(field("image", probes["madonna"].read_bytes()))
    head = (
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" % len(body)
    )
    for cut in (len(body) // 2, len(body)):
        for _ in range(40):
            sock = service.connect()
            sock.sendall(head + body[:cut])
            sock.close()
    photo = {"image": probes["madonna"].read_bytes()}
    limit = time.monotonic() + 60
    while (answer := client.post("/v1/detect", files=photo)).status_code == 503:
        assert time.monotonic() < limit, answer.text
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text


def test_sixty_four_at_once_meet_no_surprise(service: Service, probes: dict[str, Path]) -> None:
    """Overload is `busy` with Retry-After, never a 500 and never a hang."""
    data = probes["madonna"].read_bytes()
    answers: list[httpx2.Response] = []

    def work() -> None:
        with service.client() as client:
            answers.extend(client.post("/v1/search", files={"image": data}) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 192
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.status_code == 200 for answer in answers)
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["code"] == "busy"
            assert answer.headers["retry-after"]
