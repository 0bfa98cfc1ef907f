"""Small JPEGs made from photos: thumbnails, and crops of faces to keep."""

from __future__ import annotations

from collections.abc import Sequence

from faces.decoder import Decoder
from faces.image import Header, probe
from faces.types import Box

_THUMBNAIL_CAP = 200_000
_CROP_SIDE, _CROP_CAP, _CROP_PADDING = 256, 20_000, 0.5


class Pictures:
    """Makes small JPEGs of large pictures; needs a decoder and no model."""

    def __init__(self, decoder: Decoder, *, max_bytes: int | None = None) -> None:
        """Pictures over `max_bytes` are refused."""
        self._decoder = decoder
        self._max_bytes = max_bytes

    def thumbnail(self, data: bytes, max_side: int = 320) -> bytes:
        """The upright picture as a JPEG, its longest side at most `max_side` pixels.

        Raises ImageTooLarge, UnsupportedImage, InvalidImage and Busy.
        """
        header = probe(data, max_bytes=self._max_bytes)
        with self._decoder.open(data, header, side=max_side) as picture:
            whole = Box(0, 0, header.width, header.height)
            return picture.jpeg(whole, side=max_side, cap=_THUMBNAIL_CAP)

    def crop(self, data: bytes, box: Box) -> bytes:
        """The face in `box`, padded by half its size, as a JPEG of at most 20 kB.

        Raises as `thumbnail` does.
        """
        return self.crops(data, [box])[0]

    def crops(self, data: bytes, boxes: Sequence[Box]) -> list[bytes]:
        """`crop` of every box, from one decode."""
        header = probe(data, max_bytes=self._max_bytes)
        with self._decoder.open(data, header, side=_CROP_SIDE) as picture:
            return [
                picture.jpeg(_padded(box, header), side=_CROP_SIDE, cap=_CROP_CAP) for box in boxes
            ]

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()


def _padded(box: Box, header: Header) -> Box:
    pad = _CROP_PADDING * max(box.width, box.height)
    left, top = max(0.0, box.x - pad), max(0.0, box.y - pad)
    right = min(header.width, box.x + box.width + pad)
    bottom = min(header.height, box.y + box.height + pad)
    return Box(left, top, max(1.0, right - left), max(1.0, bottom - top))
