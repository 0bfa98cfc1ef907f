"""What an attack is, and the ways to make one: a picture, a body, a form, bytes on the wire."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

import httpx2

from tests import hostile

PICTURE = "422 invalid_image"
REQUEST = "422 invalid_request"
PARSE = "400 invalid_request"
MEDIA = "/v1/collections/default/media/"


@dataclass(frozen=True)
class Target:
    """A running service and what to attack it with."""

    url: str
    key: str
    photo: bytes
    dimensions: int

    def client(self) -> httpx2.Client:
        headers = {"x-api-key": self.key} if self.key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def raw(self, data: bytes, seconds: float = 20) -> str:
        """Send bytes as they are; what came back, as `status code`, or how it ended."""
        parts = httpx2.URL(self.url)
        host, port = parts.host, parts.port or 80
        with socket.create_connection((host, port), timeout=seconds) as sock:
            sock.sendall(data.replace(b"HOST", f"Host: {host}\r\nX-API-Key: {self.key}".encode()))
            found = b""
            try:
                while chunk := sock.recv(65536):
                    found += chunk
            except (TimeoutError, ConnectionResetError) as error:
                return type(error).__name__
        if not found:
            return "closed"
        head, _, body = found.partition(b"\r\n\r\n")
        code = json.loads(body)["code"] if body.startswith(b"{") else ""
        return f"{head.split()[1].decode()} {code}".strip()


@dataclass(frozen=True)
class Attack:
    """One hostile thing to do. `right` are the answers that are right, as `status code reason`."""

    row: str
    what: str
    right: tuple[str, ...]
    do: Callable[[Target], str]


def told(answer: httpx2.Response) -> str:
    """The answer as `status code reason`; what an error document lacks stands there, too."""
    if answer.status_code < 400:
        return str(answer.status_code)
    if answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status_code} without a problem document"
    body = answer.json()
    faults = [
        fault
        for fault, there in {
            "too long": len(answer.content) >= 2048,
            "wrong instance": body.get("instance") != answer.headers.get("x-request-id"),
            "no Retry-After": answer.status_code in (429, 503)
            and "retry-after" not in answer.headers,
        }.items()
        if there
    ]
    return " ".join(
        str(part)
        for part in (answer.status_code, body["code"], body.get("reason"), *faults)
        if part
    )


def picture(row: str, what: str, data: bytes, *right: str) -> Attack:
    """A picture to look for faces in."""

    def do(target: Target) -> str:
        with target.client() as client:
            return told(client.post("/v1/detect", files={"image": data}))

    return Attack(row, what, right, do)


def body(row: str, what: str, data: bytes, *right: str, path: str = "/v1/search") -> Attack:
    """A JSON body; `DIM` in it stands for the length of a vector."""

    def do(target: Target) -> str:
        with target.client() as client:
            return told(
                client.post(path, content=data, headers={"content-type": "application/json"})
            )

    return Attack(row, what, right, do)


def vector(what: str, number: str, *right: str) -> Attack:
    """A search by a vector of one number."""

    def do(target: Target) -> str:
        text = '{"vector": [' + ",".join([number] * target.dimensions) + "]}"
        with target.client() as client:
            headers = {"content-type": "application/json"}
            return told(client.post("/v1/search", content=text.encode(), headers=headers))

    return Attack("25-26", what, right, do)


def form(row: str, what: str, fields: list[tuple[str, bytes]], *right: str) -> Attack:
    """A multipart form."""

    def do(target: Target) -> str:
        files = [(name, (None, value)) for name, value in fields]
        with target.client() as client:
            return told(client.post("/v1/search", files=files))

    return Attack(row, what, right, do)


def item(what: str, media_id: str, *right: str) -> Attack:
    """An id to index a picture under; it must come back unchanged, and can be deleted."""

    def do(target: Target) -> str:
        path = MEDIA + quote(media_id, safe="", errors="surrogatepass")
        with target.client() as client:
            answer = client.put(path, files={"image": hostile.jpeg()})
            if answer.status_code == 201:
                assert answer.json()["media_id"] == media_id
                assert client.delete(path).status_code == 200
            return told(answer)

    return Attack("28-29", what, right, do)


def wire(row: str, what: str, data: bytes, *right: str) -> Attack:
    """Bytes on the wire; `HOST` stands for the headers that an honest request has."""
    return Attack(row, what, right, lambda target: target.raw(data))


def at_once(target: Target, count: int, method: str, path: str) -> Counter[str]:
    """The answers to one upload of the photo, made `count` times by up to 64 clients."""

    def one(_: int) -> str:
        with target.client() as client:
            return told(client.request(method, path, files={"image": target.photo}))

    with ThreadPoolExecutor(64) as pool:
        return Counter(pool.map(one, range(count)))
