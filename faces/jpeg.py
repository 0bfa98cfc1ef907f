"""A JPEG's frame, scans and orientation, by walking its markers (ITU T.81, annex B)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from faces.errors import InvalidImage
from faces.exif import UPRIGHT, orientation

MAGIC = b"\xff\xd8\xff"
MAX_SCANS = 64
"""An honest progressive file has about 10; thousands cost half a minute at any reduced size."""
_MAX_SEGMENTS = 20_000

_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_SKIPPED = frozenset({0xC4, 0xCC, _SOS, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Segments that a decoder steps over by their length. After another marker it looks for the next
one where it stands, so a scan may begin in what would be that marker's segment."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_AFTER_FILL = re.compile(rb"[^\xff]")


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Stored size in pixels. `complete` says whether an end marker follows the first scan."""

    width: int
    height: int
    orientation: int
    progressive: bool
    complete: bool


def read(data: bytes) -> JpegHeader:
    """The header of a JPEG, metadata skipped and never unpacked.

    Raises InvalidImage: `truncated` when the bytes end before the first scan, `too_many_scans`
    over MAX_SCANS, `dimensions` without a height, `decoder_failed` for two frames.
    """
    at, turned = 2, None
    frame: tuple[int, int, int] | None = None
    for _ in range(_MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        filled = _AFTER_FILL.search(data, at) if at >= 0 else None
        if filled is None or filled.start() + 3 > len(data):
            raise InvalidImage("truncated", "The JPEG ends before its first scan.")
        at = filled.start() - 1
        marker = data[at + 1]
        if marker == 0 or marker in _ALONE:
            at += 2
            continue
        if marker == _EOI:
            raise InvalidImage("truncated", "The JPEG has no scan.")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = at + 4
        if length < 2 or at + 2 + length > len(data):
            raise InvalidImage("truncated", "The JPEG ends before its first scan.")
        if marker in _FRAMES:
            if frame is not None:
                raise InvalidImage("decoder_failed", "The JPEG holds two frames.")
            height = int.from_bytes(data[body + 1 : body + 3], "big")
            width = int.from_bytes(data[body + 3 : body + 5], "big")
            frame = marker, width, height
        elif marker == _APP1 and turned is None and data[body : body + 6] == b"Exif\0\0":
            turned = orientation(data[body : at + 2 + length])
        elif marker == _SOS:
            break
        at += 2 + length
    else:
        raise InvalidImage("decoder_failed", "The JPEG has too many segments.")
    if frame is None:
        raise InvalidImage("decoder_failed", "The JPEG has a scan but no frame.")
    kind, width, height = frame
    if _scans(data, at) > MAX_SCANS:
        raise InvalidImage("too_many_scans", f"The JPEG has more than {MAX_SCANS} scans.")
    return JpegHeader(
        width=width,
        height=height,
        orientation=turned or UPRIGHT,
        progressive=kind not in _SEQUENTIAL,
        complete=data.rfind(b"\xff\xd9", at) >= 0,  # near the end, as a rule
    )


def _scans(data: bytes, first: int) -> int:
    """The number of scans, counted to at most MAX_SCANS + 1.

    Raises InvalidImage when more than _MAX_SEGMENTS markers have to be looked at.
    """
    if data.count(b"\xff\xda", first) <= MAX_SCANS:  # an upper bound, and fast
        return 1
    scans, at = 0, first
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.start() + 1] == _EOI or scans > MAX_SCANS:
            return scans
        marker = data[found.start() + 1]
        scans += marker == _SOS
        at = found.start() + 2
        if marker in _SKIPPED:  # its content may look like a scan
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    raise InvalidImage("decoder_failed", "The JPEG has too many segments.")
