"""Pictures that no honest client sends, made from an honest one, and how each must be answered."""

from __future__ import annotations

import random
import struct
import zlib

REFUSED = (400, 413, 415, 422)


def hostile(photo: bytes, chance: random.Random) -> bytes:
    """One of them: cut short, torn inside, lying about its size, a bomb, or no picture."""
    return chance.choice((_cut, _torn, _lying, _bomb, _text, _nothing))(photo, chance)


def _cut(photo: bytes, chance: random.Random) -> bytes:
    return photo[: chance.randrange(len(photo) // 10, len(photo) * 9 // 10)]


def _torn(photo: bytes, chance: random.Random) -> bytes:
    torn = bytearray(photo)
    for _ in range(200):
        torn[chance.randrange(len(torn))] = chance.randrange(256)
    return bytes(torn)


def _lying(photo: bytes, chance: random.Random) -> bytes:
    """A JPEG whose frame says 60,000 x 60,000."""
    for at in range(2, len(photo) - 9):
        if photo[at] == 0xFF and photo[at + 1] in (0xC0, 0xC2):
            return photo[: at + 5] + struct.pack(">HH", 60_000, 60_000) + photo[at + 9 :]
    return photo[:100]


def _bomb(photo: bytes, chance: random.Random) -> bytes:
    """A small file within the limit of pixels: 16 megapixels of black."""
    width, height = 4000, 4000
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def _text(photo: bytes, chance: random.Random) -> bytes:
    return b"<html>" + chance.randbytes(300)


def _nothing(photo: bytes, chance: random.Random) -> bytes:
    return b""
