"""A WebP's size, orientation and first frame (RFC 9649)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from faces.errors import InvalidImage
from faces.exif import UPRIGHT, orientation

_MAX_CHUNKS = 20_000
_FRAME_HEAD = 16
_PIXELS = (b"VP8 ", b"VP8L")
_Chunk: TypeAlias = tuple[bytes, int, int]
"""Type, start and length of a chunk's content."""


@dataclass(frozen=True, slots=True)
class WebpHeader:
    """Stored size in pixels: of the first frame when animated."""

    width: int
    height: int
    orientation: int


def read(data: bytes) -> WebpHeader:
    """The header of a WebP; of an animated one, its first frame's.

    Raises InvalidImage: `truncated` when the bytes end before the pixels do, `decoder_failed`
    when the structure is wrong.
    """
    turned, canvas = UPRIGHT, None
    size: tuple[int, int] | None = None
    for kind, start, length in _chunks(data, 12, len(data)):
        if kind == b"VP8X":
            canvas = _u24(data, start + 4) + 1, _u24(data, start + 7) + 1
        elif kind == b"EXIF":
            turned = orientation(data[start : start + min(length, 65_536)])
        elif size is None:
            inner = _first_pixels(data, kind, start, length)
            if inner is not None:
                size = _bitstream_size(data, *inner)
    if size is None:
        raise InvalidImage("truncated", "The WebP has no pixels.")
    if canvas is not None and (size[0] > canvas[0] or size[1] > canvas[1]):
        raise InvalidImage("decoder_failed", "The WebP's frame is larger than its canvas.")
    return WebpHeader(*size, turned)


def first_frame(data: bytes) -> bytes:
    """The first frame as a still WebP of its own, without metadata.

    Of several alpha chunks before the pixels it has the last, the one that a decoder goes by.
    """
    alpha: list[_Chunk] = []
    for chunk in _chunks(data, 12, len(data)):
        kind, start, length = chunk
        if kind == b"ALPH":
            alpha = [chunk]
        elif kind in _PIXELS:
            return _still(data, alpha, chunk)
        elif kind == b"ANMF":
            alpha = []
            for inner in _chunks(data, start + _FRAME_HEAD, start + length):
                if inner[0] == b"ALPH":
                    alpha = [inner]
                elif inner[0] in _PIXELS:
                    return _still(data, alpha, inner)
    raise InvalidImage("truncated", "The WebP has no pixels.")


def _still(data: bytes, alpha: list[_Chunk], pixels: _Chunk) -> bytes:
    body = b""
    if alpha:
        width, height = _bitstream_size(data, *pixels)
        extended = b"\x10\0\0\0" + (width - 1).to_bytes(3, "little")
        body = b"VP8X" + (10).to_bytes(4, "little") + extended + (height - 1).to_bytes(3, "little")
    for kind, start, length in (*alpha, pixels):
        body += kind + length.to_bytes(4, "little") + data[start : start + length]
        body += b"\0" * (length & 1)
    return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body


def _chunks(data: bytes, at: int, end: int) -> Iterator[_Chunk]:
    """Type, start and length of every chunk's content between two offsets."""
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        kind = data[at : at + 4]
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > end:
            if kind in (*_PIXELS, b"ANMF", b"ALPH", b"VP8X"):
                raise InvalidImage("truncated", "The WebP ends within a chunk.")
            return  # trailing bytes, or metadata that is cut
        yield kind, at + 8, length
        at += 8 + length + (length & 1)
    raise InvalidImage("decoder_failed", "The WebP has too many chunks.")


def _first_pixels(
    data: bytes, kind: bytes, start: int, length: int
) -> tuple[bytes, int, int] | None:
    """The chunk that holds pixels, in this one or inside this frame."""
    if kind in _PIXELS:
        return kind, start, length
    if kind != b"ANMF":
        return None
    inside = _chunks(data, start + _FRAME_HEAD, start + length)
    return next((chunk for chunk in inside if chunk[0] in _PIXELS), None)


def _bitstream_size(data: bytes, kind: bytes, start: int, length: int) -> tuple[int, int]:
    head = data[start : start + 10]
    if kind == b"VP8L":
        if length < 5 or head[0] != 0x2F:
            raise InvalidImage("decoder_failed", "The WebP's pixels do not begin as they must.")
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if length < 10 or head[3:6] != b"\x9d\x01\x2a":
        raise InvalidImage("decoder_failed", "The WebP's pixels do not begin as they must.")
    width = int.from_bytes(head[6:8], "little") & 0x3FFF
    return width, int.from_bytes(head[8:10], "little") & 0x3FFF


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")
