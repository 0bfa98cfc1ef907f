"""The hostile inputs of an HTTP API for pictures, each with the answers that are right.

The numbers are the rows of the table in docs/reliability.md: what a stranger sends, and what must
come back. `python -m tests.contract.api.attack` sends them all.
"""

from __future__ import annotations

import json
import secrets
import socket
import zlib
from collections.abc import Callable, Iterator

import httpx2

from tests import hostile
from tests.contract.api.attack_kinds import (
    MEDIA,
    PARSE,
    PICTURE,
    REQUEST,
    Attack,
    Target,
    at_once,
    body,
    form,
    item,
    picture,
    told,
    vector,
    wire,
)

CAP = 15_728_640


def pictures() -> Iterator[Attack]:
    small = hostile.jpeg(hostile.photo(300, 200))
    end = (b"IEND", b"")
    yield picture("1", "half a JPEG", small[: len(small) // 2], f"{PICTURE} truncated")
    yield picture("1", "the head of a JPEG", small[:30], f"{PICTURE} truncated")
    yield picture("1", "a JPEG without its end marker", small[:-2], "200")
    flipped = bytearray(small)
    flipped[-200] ^= 0x10
    yield picture("2", "a JPEG with a flipped bit", bytes(flipped), "200", f"{PICTURE} truncated")
    for side in (13_000, 65_535):
        lying = hostile.with_size(small, side, side)
        yield picture(
            "3", f"a JPEG that claims {side} x {side}", lying, f"{PICTURE} too_many_pixels"
        )
    bomb = hostile.png_of(hostile.png_header(32_000, 32_000), (b"IDAT", b""), end)
    yield picture("4", "a PNG of 32,000 x 32,000", bomb, f"{PICTURE} too_many_pixels")
    lie = hostile.png_of(hostile.png_header(3000, 3000), (b"IDAT", zlib.compress(bytes(99))), end)
    yield picture(
        "4", "a PNG that has a few of its rows", lie, f"{PICTURE} truncated",
        f"{PICTURE} decoder_failed",
    )  # fmt: skip
    broken = hostile.png_of(hostile.png_header(2**31, 2**31), end)
    yield picture("4", "a PNG of 2^31 x 2^31", broken, *every_reason())
    scans = hostile.many_scans(2006)
    yield picture("5", "a JPEG of 2,006 scans", scans, f"{PICTURE} too_many_scans")
    zeros = zlib.compress(bytes(1_000_000), 9)
    texts = hostile.with_chunks(hostile.png(), *[(b"zTXt", b"k\0\0" + zeros)] * 400)
    yield picture("6", "a PNG with 400 texts of 1 MB", texts, "200", *every_reason())
    profile = hostile.with_chunks(hostile.png(), (b"iCCP", b"p\0\0" + zlib.compress(bytes(2**28))))
    yield picture("6", "a PNG with a profile of 256 MB", profile, "200", *every_reason())
    webp = hostile.webp_header(16_383, 16_383)
    yield picture("7", "a WebP of 16,383 x 16,383", webp, f"{PICTURE} too_many_pixels")
    for name, data in foreign().items():
        yield picture("7-13", name, data, "415 unsupported_image")
    moving = hostile.png(save_all=True, append_images=[hostile.photo(seed=1)])
    yield picture("8", "an animated PNG", moving, "200")
    for mode in ("L", "P", "1", "LA", "RGBA"):
        yield picture(
            "9-17", f"a PNG of mode {mode}", hostile.png(hostile.photo().convert(mode)), "200"
        )
    yield picture("9", "a CMYK JPEG", hostile.jpeg(hostile.photo().convert("CMYK")), "200")
    for turn in (0, 6, 99):
        turned = hostile.segment(0xE1, b"Exif\0\0" + hostile.exif(turn))
        yield picture("12", f"EXIF orientation {turn}", hostile.after_start(small, turned), "200")
    yield picture("14", "a JPEG with a script behind it", small + b"PK\3\4<script>", "200")
    yield picture("15", "no bytes", b"", f"{PICTURE} empty")
    for width, height in ((1, 1), (15, 200), (200, 15)):
        tiny = hostile.png(hostile.photo(width, height))
        yield picture("16", f"{width} x {height}", tiny, f"{PICTURE} dimensions")
    wide = hostile.png_of(
        hostile.png_header(100_000, 1), (b"IDAT", zlib.compress(bytes(300_001))), end
    )
    yield picture("16", "100,000 x 1", wide, f"{PICTURE} dimensions")


def every_reason() -> list[str]:
    return [
        f"{PICTURE} {reason}"
        for reason in ("truncated", "dimensions", "too_many_pixels", "decoder_failed")
    ]


def foreign() -> dict[str, bytes]:
    """What is no JPEG, PNG or WebP."""
    return {
        "a GIF": b"GIF89a" + bytes(60),
        "a BMP": b"BM" + bytes(60),
        "a TIFF": b"II*\0" + bytes(60),
        "a PPM of 30,000 x 30,000": b"P6 30000 30000 255\n",
        "an HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
        "an AVIF": b"\0\0\0\x18ftypavif" + bytes(60),
        "an SVG that names an image": b'<svg><image href="http://127.0.0.1:1/"/></svg>',
        "HTML": b"<html><script>1</script></html>",
    }


def sizes() -> Iterator[Attack]:
    full = hostile.jpeg() + bytes(CAP)
    yield picture("19-20", "a picture of the cap", full[:CAP], "200")
    yield picture("19-20", "one byte more", full[: CAP + 1], "413 image_too_large")
    yield picture("19-20", "a body over its cap", full + bytes(70_000), "413 request_too_large")
    multipart = b"Content-Type: multipart/form-data; boundary=x\r\n"
    yield wire(
        "20", "a length of 10^20", b"POST /v1/detect HTTP/1.1\r\nHOST\r\n" + multipart
        + b"Content-Length: 99999999999999999999\r\n\r\n", "413 request_too_large",
    )  # fmt: skip
    for what, head in {
        "a negative length": b"Content-Length: -1",
        "two lengths": b"Content-Length: 1\r\nContent-Length: 2",
        "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        "chunks without sizes": b"Content-Type: application/json\r\nTransfer-Encoding: chunked",
    }.items():
        data = b"POST /v1/search HTTP/1.1\r\nHOST\r\n" + head + b"\r\n\r\nZZ\r\n"
        yield wire("20", what, data, "400", PARSE)
    yield wire(
        "22", "a header of 200 kB", b"GET / HTTP/1.1\r\nHOST\r\nX: " + b"a" * 200_000, "431", "400"
    )
    yield form("22", "1,001 parts", [(f"f{i}", b"") for i in range(1001)], PARSE)
    yield form("22", "a text part of 2 MB", [("filter", b"a" * 2_000_000)], "413 request_too_large")
    yield form("22", "two pictures", [("image", hostile.jpeg())] * 2, REQUEST)
    yield form(
        "22", "one picture in two forms",
        [("image", hostile.jpeg()), ("image_base64", b"AAAA")], REQUEST,
    )  # fmt: skip
    yield body(
        "24", "JSON over 1 MiB", b'{"subject_id":"' + b"a" * 2**20 + b'"}', "413 request_too_large"
    )
    yield body("24", "JSON 100,000 deep", b"[" * 100_000 + b"]" * 100_000, PARSE)
    yield body("24", "a number of 5,000 digits", b'{"limit":' + b"1" * 5000 + b"}", PARSE)


def slow() -> Iterator[Attack]:
    for what, data, right in (
        ("no bytes at all", b"", "closed"),
        ("half a head", b"GET / HTTP/1.1\r\nX", "closed"),
        (
            "half a body",
            (
                b"POST /v1/search HTTP/1.1\r\nHOST\r\nContent-Type: application/json\r\n"
                b"Content-Length: 99\r\n\r\n{"
            ),
            "408 request_timeout",
        ),
    ):
        yield wire("21", what, data, right)


def values() -> Iterator[Attack]:
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "1" * 400, '"1"', "true", "null", "[1]"):
        yield vector(f"a vector of {text[:9]}", text, REQUEST)
    for text in ("0", "1e30", "1e308"):
        yield vector(f"a vector of {text}", text, REQUEST)
    yield vector("a vector of 1e9", "1e9", "200")
    yield body("26", "a vector of one number", b'{"vector": [1]}', REQUEST)
    for name, value in (
        ("subject_id", {"$gt": ""}),
        ("face_id", {"$gt": ""}),
        ("collection", {"$ne": "x"}),
        ("filter", {"$where": "1"}),
        ("filter", {"$expr": {}}),
        ("filter", {"media_id": {"$gt": ""}}),
        ("filter", {"media_id": {"$in": [{"$gt": ""}]}}),
        ("filter", {"subject_id": {"$regex": ".*"}}),
        ("filter", {"metadata.$city": 1}),
        ("filter", {"a.b": 1}),
        ("filter", {"hidden": True}),
        ("filter", {"$not": None}),
    ):
        what = json.dumps(value)
        query = {"subject_id": "x"} | {name: value}
        yield body("27", f"{name}: {what}", json.dumps(query).encode(), REQUEST)
    yield body("28", "a lone surrogate", b'{"subject_id": "\\ud800"}', REQUEST)
    for what, media_id, right in (
        ("NUL", "a\0b", REQUEST),
        ("a line break", "a\nb", REQUEST),
        ("right-to-left override", "\u202eabc", REQUEST),
        ("a combining mark", "e\u0301", REQUEST),
        ("a surrogate", "\ud800", PARSE),
        ("an emoji", "🎭", "201"),
        ("slashes and dots", "a/../../b", "201"),
        ("an escaped slash", "a%2Fb", "201"),
        ("an operator", "$where", "201"),
        ("255 characters", "é" * 255, "201"),
        ("256 characters", "é" * 256, REQUEST),
        ("10,000 characters", "x" * 10_000, REQUEST),
    ):
        yield item(f"{what} in an id", media_id, right)
    ids = json.dumps({"face_ids": ["00000000-0000-5000-8000-000000000000"] * 10_000}).encode()
    path = "/v1/collections/default/subjects/x/faces"
    yield body("29", "10,000 ids", ids, REQUEST, path=path)


def urls() -> Iterator[Attack]:
    for url in (
        "http://127.0.0.1/", "http://127.1/", "http://0/", "http://0.0.0.0/", "http://2130706433/",
        "http://0x7f000001/", "http://0177.0.0.1/", "http://[::1]/", "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[::127.0.0.1]/",
        "http://[fe80::1]/", "http://100.64.0.1/", "http://224.0.0.1/", "http://169.254.169.254/",
        "http://[fd00:ec2::254]/", "file:///etc/passwd", "gopher://h/", "ftp://h/",
        "data:image/png;base64,AAAA", "//host", "http:///", "http://ok@127.0.0.1/",
        "http://ok\\@127.0.0.1/", "http://ok#@127.0.0.1/", "http://o\tk/", "http://ok\r\nHost: x/",
        "http://ok%00/", "http://ok:22/", "http://ok:6379/", "http://ok:27017/",
    ):  # fmt: skip
        data = json.dumps({"image_url": url}).encode()
        yield body("30-33", repr(url), data, "422 url_not_allowed", path="/v1/detect")


def busy() -> Iterator[Attack]:
    def hang_up(target: Target) -> str:
        head = (
            b"POST /v1/detect HTTP/1.1\r\nHOST\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 9000000\r\n\r\n--x\r\n"
        )
        parts = httpx2.URL(target.url)
        for _ in range(64):
            with socket.create_connection((parts.host, parts.port or 80)) as sock:
                sock.sendall(head.replace(b"HOST", b"Host: localhost"))
        with target.client() as client:
            return told(client.post("/v1/detect", files={"image": target.photo}))

    def put_fifty(target: Target) -> str:
        path = f"{MEDIA}{secrets.token_hex(8)}"
        answers = at_once(target, 50, "PUT", path)
        with target.client() as client:
            faces = client.get(path).json()["faces"]
            deleted = client.delete(path).json()["faces_deleted"]
        assert len(faces) == deleted == 1, "not one face set"
        assert answers.pop("201") == 1, "not one 201"
        answers.pop("200", 0)
        return " and ".join(sorted(answers)) or "201"

    def upload_many(target: Target) -> str:
        return " and ".join(sorted(at_once(target, 200, "POST", "/v1/detect")))

    yield Attack("23", "64 clients that hang up while they send", ("200",), hang_up)
    yield Attack("41", "50 clients that put one photo", ("201", "503 busy"), put_fifty)
    right = ("200", "200 and 503 busy")
    yield Attack("71", "200 photos from 64 clients at once", right, upload_many)


def keys() -> Iterator[Attack]:
    def ask(headers: dict[str, str], query: str = "") -> Callable[[Target], str]:
        def do(target: Target) -> str:
            if not target.key:
                return "not asked"  # a service without keys has none to refuse
            url = f"{target.url}/v1/collections{query.replace('KEY', target.key)}"
            sent = {
                name: value.replace("KEY", target.key).replace("CUT", target.key[:-1])
                for name, value in headers.items()
            }
            return told(httpx2.get(url, headers=sent, trust_env=False))

        return do

    for what, headers in (
        ("no key", {}),
        ("an empty key", {"x-api-key": ""}),
        ("a key of 10 kB", {"x-api-key": "k" * 10_000}),
        ("a key without its end", {"x-api-key": "CUT"}),
        ("a key and more", {"x-api-key": "KEYx"}),
        ("a key as a password", {"authorization": "Basic KEY"}),
    ):
        yield Attack("65", what, ("401 unauthorized", "not asked"), ask(headers))
    right = ("401 unauthorized", "not asked")
    yield Attack("65", "a key in the query", right, ask({}, "?api_key=KEY"))


def all_attacks() -> list[Attack]:
    """Every attack, in the order of the table."""
    return [*pictures(), *sizes(), *slow(), *values(), *urls(), *keys(), *busy()]
