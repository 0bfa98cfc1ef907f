"""Decoding in a child process that may die without harm: bytes in, upright pixels out.

A decoder is where hostile bytes meet C code. It runs in one child (`faces.decode_child`) that has
a bounded memory, processor and wall time and no secret, and is started again when it ends. One
picture is open at a time; other callers stand in a short line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from faces import processes
from faces.align import Affine
from faces.child import Child, ChildEnded, ChildHung
from faces.errors import Busy, InvalidImage
from faces.gate import Gate
from faces.image import Header, decodable
from faces.types import Box, Pixels

WALL_SECONDS = 5.5
RECYCLE_JOBS = 2000
RECYCLE_BYTES = 96 * 2**20
"""A child that keeps more than this after a picture is closed is replaced."""
_CROPS_A_REQUEST = 16


class OpenPicture:
    """A picture that the child holds; `image` is upright, its longest side at most `side`.

    `opened_ms` is how long that took, without the time in line.
    """

    def __init__(
        self,
        child: Child,
        header: Header,
        image: Pixels,
        opened_ms: float,
        again: Callable[[], Child],
    ) -> None:
        """`again` opens the picture in another child, for when somebody ends this one."""
        self._child = child
        self._again: Callable[[], Child] | None = again
        self.header = header
        self.image = image
        self.opened_ms = opened_ms

    @property
    def scale(self) -> tuple[float, float]:
        """Full-size pixels per pixel of `image`, along x and y."""
        height, width = self.image.shape[:2]
        return self.header.width / width, self.header.height / height

    def look(self, side: int) -> Pixels:
        """The upright picture again, its longest side at most `side` pixels."""
        answer, body = self._ask({"op": "look", "side": side})
        return _image(answer, body)

    def cut(
        self, placements: Sequence[Affine], size: int, *, finer: bool = False
    ) -> tuple[Pixels, list[bool]]:
        """Square crops, (n, size, size, 3) BGR, and whether a finer decode would gain nothing.

        Each placement maps corner coordinates of the crop to those of the upright, full-size
        picture. With `finer` the child decodes the picture larger where a crop calls for it.
        """
        crops = np.empty((len(placements), size, size, 3), np.uint8)
        fine: list[bool] = []
        for start in range(0, len(placements), _CROPS_A_REQUEST):
            part = placements[start : start + _CROPS_A_REQUEST]
            head = {"op": "cut", "placements": part, "size": size, "finer": finer}
            answer, body = self._ask(head)
            pixels = np.frombuffer(body, np.uint8).reshape(len(part), size, size, 3)
            crops[start : start + len(part)] = pixels
            fine += answer["fine"]
        return crops, fine

    def jpeg(self, box: Box, *, side: int, cap: int) -> bytes:
        """The part of the upright picture inside `box` as a JPEG of at most `cap` bytes."""
        edges = [box.x, box.y, box.x + box.width, box.y + box.height]
        _, body = self._ask({"op": "jpeg", "box": edges, "side": side, "cap": cap})
        return bytes(body)

    def _ask(self, head: dict[str, Any]) -> tuple[dict[str, Any], memoryview]:
        again = self._again
        try:
            answer, content = self._child.exchange(head)
        except ChildEnded as error:
            if not error.outside or again is None:
                raise _failed() from error
            self._again = None
            self._child = again()
            return self._ask(head)
        except ChildHung as error:
            raise _failed() from error
        _raise_for(answer)
        return answer, content


class Decoder:
    """Opens pictures, one at a time. Safe to use from any thread."""

    def __init__(
        self,
        *,
        waiting: int = 16,
        patience: float = 15.0,
        argv: Sequence[str] = (sys.executable, "-m", "faces.decode_child"),
        wall_seconds: float = WALL_SECONDS,
    ) -> None:
        """`waiting` callers may stand in line for `patience` seconds.

        `argv` starts the child; it is killed when it takes `wall_seconds` over a request.
        """
        self._gate = Gate(waiting=waiting, patience=patience)
        self._argv = tuple(argv)
        self._wall_seconds = wall_seconds
        self._starter = processes.Starter()
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None when none runs."""
        return self._child.pid if self._child else None

    @property
    def load(self) -> int:
        """How many callers are inside or in line."""
        return self._gate.load

    def warm(self) -> None:
        """Start the child ahead of the first picture."""
        with self._gate.enter():
            self._ready()

    @contextmanager
    def open(
        self,
        data: bytes,
        header: Header,
        *,
        side: int,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[OpenPicture]:
        """The probed picture, open for the length of the block.

        Raises InvalidImage with reason `truncated` or `decoder_failed`, Busy when the line is
        full or no child can be started, Cancelled when `cancelled` answers True before its turn.
        """
        with self._gate.enter(cancelled):
            picture = self._opened(data, header, side)
            try:
                yield picture
            finally:
                self._closed()

    def close(self) -> None:
        """End the child and the thread that started it."""
        if self._child is not None:
            self._child.end()
            self._child = None
        self._starter.close()

    def _opened(self, data: bytes, header: Header, side: int) -> OpenPicture:
        began = time.perf_counter()

        def again() -> Child:
            return self._sent(data, header, side, last=True)[0]

        child, image = self._sent(data, header, side)
        took = round((time.perf_counter() - began) * 1000, 3)
        return OpenPicture(child, header, image, took, again)

    def _sent(
        self, data: bytes, header: Header, side: int, *, last: bool = False
    ) -> tuple[Child, Pixels]:
        """A child that holds the picture, and the picture.

        A child that was ended from outside, by the kernel for want of memory, say, is no fault of
        the picture: unless this is the `last` try, it gets another.
        """
        head = {
            "op": "open",
            "format": header.format,
            "stored_size": header.stored_size,
            "orientation": header.orientation,
            "complete": header.complete,
            "side": side,
        }
        child = self._ready()
        try:
            answer, content = child.exchange(head, decodable(data, header))
        except ChildEnded as error:
            self._child = None
            if last or not error.outside:
                raise _failed() from error
            return self._sent(data, header, side, last=True)
        except ChildHung as error:
            self._child = None
            raise _failed() from error
        if answer.get("error"):
            self._closed()
        _raise_for(answer)
        return child, _image(answer, content)

    def _ready(self) -> Child:
        if self._child is not None and not self._child.alive:
            self._child.end()
            self._child = None
        if self._child is None:
            try:
                self._child = Child(self._starter, self._argv, self._wall_seconds)
            except OSError as error:
                raise Busy("No process could be started to decode the picture.") from error
        return self._child

    def _closed(self) -> None:
        """Let the child drop its picture; replace it when it has grown or worked long enough."""
        child = self._child
        if child is None:
            return
        try:
            answer, _ = child.exchange({"op": "close"})
        except (ChildEnded, ChildHung):
            self._child = None
            return
        if answer["rss"] > RECYCLE_BYTES or child.exchanges > RECYCLE_JOBS:
            child.end()
            self._child = None


def _image(answer: dict[str, Any], content: memoryview) -> Pixels:
    width, height = answer["size"]
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _raise_for(answer: dict[str, Any]) -> None:
    match answer.get("error"):
        case None:
            return
        case "truncated":
            raise InvalidImage("truncated", "The picture ends before all of its pixels are there.")
        case _:
            raise _failed()


def _failed() -> InvalidImage:
    return InvalidImage(
        "decoder_failed",
        "The picture could not be decoded within the limits on time and memory: it is damaged.",
    )
