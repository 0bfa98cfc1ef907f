"""A PNG's size, orientation and pixel chunks (W3C PNG, third edition)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from faces.errors import InvalidImage
from faces.exif import UPRIGHT, orientation

MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_METADATA_BYTES = 16 * 2**20
"""Unpacked text and colour profiles together: decoders unpack them before any pixel."""
_MAX_CHUNKS = 200_000
_PIECE = 64 * 1024
"""Metadata is unpacked in pieces of this size; one that turns out faulty counts as a whole one."""
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


@dataclass(frozen=True, slots=True)
class PngHeader:
    """Stored size in pixels."""

    width: int
    height: int
    orientation: int


def read(data: bytes) -> PngHeader:
    """The header of a PNG; of an animated one, its first picture's.

    Raises InvalidImage: `truncated` when a chunk is cut or the end chunk is missing,
    `decoder_failed` when the structure is wrong or packed metadata grows over MAX_METADATA_BYTES.
    """
    size: tuple[int, int] | None = None
    turned, pixels, budget = UPRIGHT, False, MAX_METADATA_BYTES
    for kind, start, length in _chunks(data):
        if size is None:
            if kind != b"IHDR" or length != 13:
                raise InvalidImage("decoder_failed", "The PNG does not begin with its header.")
            size = (
                int.from_bytes(data[start : start + 4], "big"),
                int.from_bytes(data[start + 4 : start + 8], "big"),
            )
        elif kind == b"eXIf":
            turned = orientation(data[start : start + min(length, 65_536)])
        elif kind == b"IDAT":
            pixels = True
        elif kind in (b"zTXt", b"iTXt", b"iCCP"):
            budget -= _unpacked_size(kind, data[start : start + length], budget)
            if budget < 0:
                raise InvalidImage(
                    "decoder_failed",
                    f"The PNG's metadata unpacks to more than {MAX_METADATA_BYTES:,} bytes.",
                )
    if size is None or not pixels:
        raise InvalidImage("truncated", "The PNG has no pixels.")
    return PngHeader(*size, turned)


def pixels_only(data: bytes) -> bytes:
    """The same PNG with the chunks that its first picture's pixels need, and no other."""
    parts = [MAGIC]
    for kind, start, length in _chunks(data):
        if kind in _PIXELS:
            parts.append(data[start - 8 : start + length + 4])
    return b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and length of every chunk's content, up to and with the end chunk."""
    at = len(MAGIC)
    for _ in range(_MAX_CHUNKS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise InvalidImage("truncated", "The PNG ends within a chunk.")
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += 12 + length
    raise InvalidImage("decoder_failed", "The PNG has too many chunks.")


def _unpacked_size(kind: bytes, content: bytes, budget: int) -> int:
    """Bytes of a chunk's text or profile once unpacked, counted to a bit more than `budget`.

    What comes before a fault counts, too: it was unpacked like any other.
    """
    keyword, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\1":  # not compressed
            return len(content)
        rest = b"\0" + rest[2:].split(b"\0", 2)[-1]
    unpacker = zlib.decompressobj()
    size = len(keyword)
    try:
        for at in range(1, len(rest), _PIECE):
            piece = rest[at : at + _PIECE]
            while piece and size <= budget and not unpacker.eof:
                size += len(unpacker.decompress(piece, _PIECE))
                piece = unpacker.unconsumed_tail
    except zlib.error:
        size += _PIECE
    return max(size, len(content))
