"""Hostile pictures over HTTP: each its code and reason, bounded memory, and the service goes on."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from PIL import Image

from bench import photo
from bench.trees import Sampler
from faces.settings import Settings
from tests import hostile
from tests.hostile import jpeg, png, png_header, png_of, segment, webp

PICTURE = hostile.photo(400, 300)
BOMB = zlib.compress(bytes(2**20), 9)

REFUSED: dict[str, tuple[bytes, int, str, str | None]] = {
    "truncated jpeg": (jpeg(PICTURE)[:4000], 422, "invalid_image", "truncated"),
    "header only": (jpeg(PICTURE)[:300], 422, "invalid_image", "truncated"),
    "truncated png": (png(PICTURE)[:9000], 422, "invalid_image", "truncated"),
    "truncated webp": (webp(PICTURE)[:900], 422, "invalid_image", "truncated"),
    "65535 x 65535": (
        *(hostile.with_size(jpeg(), 65535, 65535), 422),
        *("invalid_image", "too_many_pixels"),
    ),
    "13000 x 13000": (
        *(hostile.with_size(jpeg(), 13000, 13000), 422),
        *("invalid_image", "too_many_pixels"),
    ),
    "png bomb": (
        *(png_of(png_header(32000, 32000), (b"IDAT", BOMB), (b"IEND", b"")), 422),
        *("invalid_image", "too_many_pixels"),
    ),
    "png of 2^31": (
        *(png_of(png_header(2**31, 9), (b"IDAT", b""), (b"IEND", b"")), 422),
        *("invalid_image", "dimensions"),
    ),
    "png that lies": (
        *(png_of(png_header(4000, 4000), (b"IDAT", BOMB[:99]), (b"IEND", b"")), 422),
        *("invalid_image", None),
    ),
    "2006 scans": (hostile.many_scans(2006), 422, "invalid_image", "too_many_scans"),
    "400 zTXt": (
        *(hostile.with_chunks(png(), *[(b"zTXt", b"k\0\0" + BOMB)] * 400), 422),
        *("invalid_image", "decoder_failed"),
    ),
    "webp 16383": (hostile.webp_header(16383, 16383), 422, "invalid_image", "too_many_pixels"),
    "webp without pixels": (hostile.webp_header(640, 480), 422, "invalid_image", None),
    "two frames": (
        *(hostile.after_start(jpeg(), segment(0xC0, bytes(15))), 422),
        *("invalid_image", "decoder_failed"),
    ),
    "empty": (b"", 422, "invalid_image", "empty"),
    "1 x 1": (png(Image.new("L", (1, 1))), 422, "invalid_image", "dimensions"),
    "15 pixels": (png(Image.new("L", (15, 900))), 422, "invalid_image", "dimensions"),
    "100000 x 1": (png(Image.new("L", (100_000, 1))), 422, "invalid_image", "dimensions"),
    "gif": (b"GIF89a" + bytes(99), 415, "unsupported_image", None),
    "heic": (b"\0\0\0\x20ftypheic" + bytes(99), 415, "unsupported_image", None),
    "avif": (b"\0\0\0\x20ftypavif" + bytes(99), 415, "unsupported_image", None),
    "g4 tiff": (b"II*\0" + bytes(99), 415, "unsupported_image", None),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_image", None),
    "html": (b"<!DOCTYPE html><script>1</script>", 415, "unsupported_image", None),
    "a text named .jpg": (b"hello", 415, "unsupported_image", None),
}
ACCEPTED: dict[str, bytes] = {
    "no end marker": jpeg(PICTURE)[:-2],
    "trailing script": jpeg(PICTURE) + b"<script>alert(1)</script>PK\x03\x04",
    "broken exif": hostile.after_start(
        jpeg(PICTURE), segment(0xE1, b"Exif\0\0" + b"II*\0\xff\xff")
    ),
    "orientation 99": jpeg(PICTURE, exif=b"Exif\0\0" + hostile.exif(99)),
    "animated webp": webp(PICTURE, save_all=True, append_images=[PICTURE.rotate(9)]),
    "apng": png(PICTURE, save_all=True, append_images=[PICTURE.rotate(9)]),
    "cmyk": jpeg(PICTURE.convert("CMYK")),
    "grey": jpeg(PICTURE.convert("L")),
    "palette": png(PICTURE.quantize(16)),
    "one bit": png(PICTURE.convert("1")),
    "sixteen bits": png(Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)),
    "alpha": png(PICTURE.convert("RGBA")),
    "50 scans": hostile.many_scans(50),
    "very long": png(Image.new("L", (60_000, 16))),
    "16 MP": hostile.black_png(4100, 4100),
}


@pytest.fixture(scope="module")
def service(
    models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """Process id and port of a real web process with a real model."""
    settings = Settings(model_dir=models_dir, var_dir=tmp_path_factory.mktemp("var"))
    with photo.served(settings) as running:
        yield running


def detect(port: int, data: bytes) -> tuple[int, dict[str, Any], int]:
    """Status, body and its length for a picture; it claims to be a text."""
    files = {"image": ("a.txt", data, "text/plain")}
    answer = httpx2.post(
        f"http://127.0.0.1:{port}/v1/detect",
        files=files,
        headers={"X-API-Key": photo.KEY},
        timeout=60,
        trust_env=False,
    )
    return answer.status_code, answer.json(), len(answer.content)


@pytest.mark.parametrize("name", REFUSED)
def test_each_is_refused_by_its_name(name: str, service: tuple[int, int]) -> None:
    data, status, code, reason = REFUSED[name]
    found, problem, length = detect(service[1], data)
    assert (found, problem["code"]) == (status, code)
    if code == "invalid_image":
        assert problem["reason"] in ((reason,) if reason else ("truncated", "decoder_failed"))
    else:
        assert "JPEG, PNG and WebP" in problem["detail"]
    assert length < 2000


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_can_be_seen_is_looked_at(name: str, service: tuple[int, int]) -> None:
    status, answer, _ = detect(service[1], ACCEPTED[name])
    assert status == 200, answer
    assert answer["image"]["width"] >= 16


def test_all_of_them_leave_the_service_small_and_alive(
    service: tuple[int, int], samples_dir: Path
) -> None:
    pid, port = service
    good = sorted(samples_dir.glob("*/*/*"))[0].read_bytes()
    assert detect(port, good)[0] == 200
    sampler = Sampler(pid, limit_mib=1024, period=0.02)
    try:
        for data, *_ in REFUSED.values():
            detect(port, data)
        for data in ACCEPTED.values():
            detect(port, data)
        assert sampler.peak < 300
    finally:
        sampler.close()
    status, answer, _ = detect(port, good)
    assert status == 200
    assert answer["faces"]


def test_a_killed_decoder_is_not_noticed(service: tuple[int, int], samples_dir: Path) -> None:
    pid, port = service
    good = sorted(samples_dir.glob("*/*/*"))[0].read_bytes()
    assert detect(port, good)[0] == 200
    children = psutil.Process(pid).children()
    assert len(children) == 1
    os.kill(children[0].pid, signal.SIGKILL)
    time.sleep(0.05)
    status, answer, _ = detect(port, good)
    assert status == 200
    assert answer["faces"]
