"""Thumbnails: small JPEGs of pictures that are stored elsewhere, cached in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from faces.errors import Busy, ImageError, NotFound
from faces.originals import Originals
from faces.records import Item

MOST_BYTES = 8 * 1024 * 1024
"""What the cache holds at most; a thumbnail has about 15 kB."""
Shrink = Callable[[bytes], bytes]


class Thumbnails:
    """Makes and keeps thumbnails. `shrink` turns a picture into a JPEG of at most 320 px."""

    def __init__(self, originals: Originals, *, max_bytes: int) -> None:
        self._originals = originals
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def of(self, item: Item, crop: bytes | None, shrink: Shrink) -> bytes:
        """The thumbnail of an item, from its source, or else its kept crop. Raises NotFound.

        What the source holds now may be another picture than the one indexed; the reconciler
        will notice, a thumbnail need not.
        """
        image_id = item.image_id or ""
        with self._lock:
            kept = self._kept.get(image_id)
            if kept is not None:
                self._kept.move_to_end(image_id)
                return kept
        data = self._originals.read(item, max_bytes=self._max_bytes)
        made = None
        if data is not None:
            try:
                made = shrink(data)
            except Busy:
                if crop is None:
                    raise
            except ImageError:
                made = None
        if made is None:
            if crop is None:
                raise NotFound("The picture cannot be read from here, and no crop of it is kept.")
            return crop
        self._keep(image_id, made)
        return made

    def forget(self, image_id: str) -> None:
        """Drop a picture's thumbnail."""
        with self._lock:
            self._size -= len(self._kept.pop(image_id, b""))

    def _keep(self, image_id: str, jpeg: bytes) -> None:
        with self._lock:
            self._size += len(jpeg) - len(self._kept.pop(image_id, b""))
            self._kept[image_id] = jpeg
            while self._size > MOST_BYTES:
                _, old = self._kept.popitem(last=False)
                self._size -= len(old)
