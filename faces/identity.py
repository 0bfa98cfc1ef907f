"""Ids that come out the same each time: pictures, faces, and which stored face is which."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from faces.types import Box

SAME_FACE = 0.5
"""Two boxes of one picture with at least this intersection over union are one face."""

_NAMESPACE = uuid.UUID("5b1f4b0a-27a1-5d0c-9a53-6e1c5a3f0d11")
_GRID = 64


def media_key(collection: str, media_id: str) -> str:
    """The media document's `_id`. A collection's name holds no slash, so it is unambiguous."""
    return f"{collection}/{media_id}"


def subject_key(collection: str, subject_id: str) -> str:
    """The subject document's `_id`."""
    return f"{collection}/{subject_id}"


def image_id(collection: str, media_id: str, sha256: str) -> str:
    """A UUIDv5: the same for the same bytes under the same id."""
    return str(uuid.uuid5(_NAMESPACE, "\0".join(("image", collection, media_id, sha256))))


def face_id(
    collection: str,
    media_id: str,
    sha256: str,
    box: Box,
    taken: Collection[str] = (),
) -> str:
    """A UUIDv5 of the picture at first sight and the relative `box` rounded to 1/64 of it.

    Where two faces of a crowd round to the same box, the later one gets the next free id that is
    not in `taken`.
    """
    grid = ",".join(str(round(side * _GRID)) for side in (box.x, box.y, box.width, box.height))
    for attempt in range(len(taken) + 1):
        parts = ["face", collection, media_id, sha256, grid] + ([str(attempt)] if attempt else [])
        minted = str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))
        if minted not in taken:
            return minted
    raise AssertionError("more ids are tried than are taken")


def match_boxes(stored: Sequence[Box], found: Sequence[Box]) -> list[int | None]:
    """For each found box the index of the stored box that it is, or None.

    Both in the same frame (relative boxes, as a picture may come back in another size). One to
    one; pairs of the largest overlap first, none below `SAME_FACE`.
    """
    pairs = sorted(
        (
            (overlap, i, j)
            for i, old in enumerate(stored)
            for j, new in enumerate(found)
            if (overlap := old.iou(new)) >= SAME_FACE
        ),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    result: list[int | None] = [None] * len(found)
    used: set[int] = set()
    for _, i, j in pairs:
        if i not in used and result[j] is None:
            result[j] = i
            used.add(i)
    return result


def overlaps(box: Box, others: Sequence[Box]) -> bool:
    """Whether `box` is the same face as one of `others`, all in one frame."""
    return any(box.iou(other) >= SAME_FACE for other in others)
