"""Thumbnails: small JPEGs of pictures that are stored elsewhere, cached in bounded memory."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager

from faces.errors import Busy, ImageError, NotFound
from faces.originals import Originals
from faces.records import Item

MOST_BYTES = 8 * 1024 * 1024
"""What the cache holds at most; a thumbnail has about 15 kB."""
Shrink = Callable[[bytes], bytes]
Place = Callable[[], AbstractContextManager[None]]


class Thumbnails:
    """Makes and keeps thumbnails. `shrink` turns a picture into a JPEG of at most 320 px."""

    def __init__(self, originals: Originals, *, max_bytes: int) -> None:
        self._originals = originals
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def of(
        self, item: Item, crop: bytes | None, shrink: Shrink, place: Place
    ) -> tuple[bytes, bool]:
        """The thumbnail of an item, and whether it may be kept. Raises NotFound, and Busy.

        `place` is held while the whole picture is: only so many are at once.

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
        try:
            with place():
                made, same, gone = self._made(item, shrink, whatever=crop is None)
        except Busy:
            if crop is None:
                raise
            return crop, False
        if made is None:
            if crop is None:
                raise NotFound("The picture cannot be read from here, and no crop of it is kept.")
            return crop, gone
        if same:
            self._keep(image_id, made)
        return made, same

    def _made(
        self, item: Item, shrink: Shrink, *, whatever: bool
    ) -> tuple[bytes | None, bool, bool]:
        """A thumbnail of what the source holds now, or None; same; nothing there.

        `same` says that it is the picture that was indexed; another one is made into a thumbnail
        only for `whatever`.
        """
        data = self._originals.read(item, max_bytes=self._max_bytes)
        if data is None:
            return None, False, True
        same = hashlib.sha256(data).hexdigest() == item.sha256
        if not same and not whatever:
            return None, False, False
        try:
            return shrink(data), same, False
        except ImageError:
            return None, same, False

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
