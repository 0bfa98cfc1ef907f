"""Pictures that attack a decoder, and honest ones of every kind, all made here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A smooth RGB picture with some structure, the same for the same seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    """`image` as a JPEG; options as Pillow's."""
    return _encoded(image or photo(), "JPEG", options)


def png(image: Image.Image | None = None, **options: object) -> bytes:
    """`image` as a PNG."""
    return _encoded(image or photo(), "PNG", options)


def webp(image: Image.Image | None = None, **options: object) -> bytes:
    """`image` as a WebP."""
    return _encoded(image or photo(), "WEBP", options)


def _encoded(image: Image.Image, format: str, options: dict[str, object]) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """One JPEG segment."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def after_start(data: bytes, inserted: bytes) -> bytes:
    """A JPEG with `inserted` directly behind its start marker."""
    return data[:2] + inserted + data[2:]


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The JPEG `data`, lying about its size."""
    for at in range(2, len(data) - 9):
        if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC1, 0xC2):
            return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    raise AssertionError("no frame")


def exif(orientation: int, *, order: str = ">", kind: int = 3) -> bytes:
    """An EXIF block that holds only an orientation."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    value = struct.pack(order + "HH", orientation, 0)
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return head + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)


def many_scans(scans: int) -> bytes:
    """A progressive JPEG of 64 x 64 whose last scan is repeated `scans` times."""
    data = jpeg(photo(64, 64), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def hidden_scans(marker: int) -> bytes:
    """The same with 2,000 scans in what would be a segment, were `marker` one with a length."""
    data = many_scans(1)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + bytes((0xFF, marker, 0xFF, 0xFF)) + data[last:-2] * 2000 + data[-2:]


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of exactly these chunks, checksums right."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    """The IHDR chunk."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def black_png(width: int, height: int) -> bytes:
    """A black RGB PNG, small as a file whatever its size."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_of(png_header(width, height), (b"IDAT", body), (b"IEND", b""))


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks directly behind its header."""
    return data[:33] + b"".join(chunk(kind, body) for kind, body in chunks) + data[33:]


def webp_header(width: int, height: int) -> bytes:
    """A lossless WebP that has a header and almost no pixels."""
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + b"\0" * 16
    inner = b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner
