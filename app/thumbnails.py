"""Thumbnails: small JPEGs of pictures that are stored elsewhere, cached in bounded memory."""

from __future__ import annotations

import hashlib
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

    def of(self, item: Item, crop: bytes | None, shrink: Shrink) -> tuple[bytes, bool]:
        """The thumbnail of an item, and whether it may be kept. Raises NotFound.

        From its source, or else its kept crop. What the source holds now may be another picture
        than the one indexed: that is shown only where there is no crop, and never kept, as the
        reconciler will notice the change and give the item another picture id.
        """
        image_id = item.image_id or ""
        with self._lock:
            kept = self._kept.get(image_id)
            if kept is not None:
                self._kept.move_to_end(image_id)
                return kept, True
        data = self._originals.read(item, max_bytes=self._max_bytes)
        made = None
        same = data is not None and hashlib.sha256(data).hexdigest() == item.sha256
        if data is not None and (same or crop is None):
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
            return crop, data is None
        if same:
            self._keep(image_id, made)
        return made, same

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
