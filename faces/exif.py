"""The orientation tag of an EXIF block, read without trusting any of its numbers."""

from __future__ import annotations

import struct

UPRIGHT = 1
_ORIENTATION, _SHORT = 0x0112, 3
_MAX_ENTRIES = 512


def orientation(block: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a TIFF block; 1 (upright) when absent or broken.

    `block` starts at the TIFF header, with or without the `Exif` mark before it.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 10:
        return UPRIGHT
    (offset,) = struct.unpack_from(order + "I", block, 4)
    if offset + 2 > len(block):
        return UPRIGHT
    (count,) = struct.unpack_from(order + "H", block, offset)
    for index in range(min(count, _MAX_ENTRIES)):
        at = offset + 2 + 12 * index
        if at + 12 > len(block):
            return UPRIGHT
        tag, kind, values = struct.unpack_from(order + "HHI", block, at)
        if tag == _ORIENTATION:
            (value,) = struct.unpack_from(order + "H", block, at + 8)
            return value if kind == _SHORT and values == 1 and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
