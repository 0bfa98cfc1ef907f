"""Where a stored face lies in its kept crop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faces.errors import ImageError
from faces.image import probe
from faces.types import Box

PADDING = 0.5
"""Of the face's larger side, on each side of a kept crop."""


def padded(box: Box, width: float, height: float) -> Box:
    """The part of a picture of this size that a kept crop shows."""
    pad = PADDING * max(box.width, box.height)
    left, top = max(0.0, box.x - pad), max(0.0, box.y - pad)
    right = min(width, box.x + box.width + pad)
    bottom = min(height, box.y + box.height + pad)
    return Box(left, top, right - left, bottom - top)


def in_crop(face: Mapping[str, Any], crop: Mapping[str, Any]) -> dict[str, Any] | None:
    """The face with box and landmarks in pixels of its crop; None when that is unreadable."""
    try:
        header = probe(bytes(crop["jpeg"]))
    except ImageError:
        return None
    stored = face["box"]
    box = Box(stored["x"], stored["y"], stored["width"], stored["height"])
    frame = face["frame"]
    shown = padded(box, frame[0], frame[1])
    x, y = header.width / shown.width, header.height / shown.height
    moved = Box(box.x - shown.x, box.y - shown.y, box.width, box.height).scaled(x, y)
    return {
        **face,
        "box": {"x": moved.x, "y": moved.y, "width": moved.width, "height": moved.height},
        "landmarks": [[(u - shown.x) * x, (v - shown.y) * y] for u, v in face["landmarks"]],
    }
