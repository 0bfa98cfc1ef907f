"""Photos of several threads, sent to a separate encoder together: fewer requests, less waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faces.errors import LikenessError
from faces.types import Analysis

Send = Callable[[Sequence[bytes]], Sequence[Analysis | LikenessError]]
LANES = 2
"""Requests under way at once: the service works on one while the next one travels."""
LINGER_S = 0.03
"""So long the first photo of a request waits for company."""


@dataclass(slots=True, eq=False)
class _Place:
    data: bytes
    outcome: Analysis | BaseException | None = None


class Gather:
    """Lets threads that each have one photo share requests; it has no threads of its own.

    The thread whose photo is first in line sends the request for all that have come by then, at
    most `most` photos and `most_bytes` (one photo may be larger), and hands out the answers.
    """

    def __init__(
        self,
        send: Send,
        *,
        most: int,
        most_bytes: int,
        lanes: int = LANES,
        linger: float = LINGER_S,
    ) -> None:
        self._send = send
        self._most, self._most_bytes = most, most_bytes
        self._lanes, self._linger = lanes, linger
        self._turn = threading.Condition()
        self._line: list[_Place] = []
        self._sending = 0

    @property
    def waiting(self) -> int:
        """How many photos are in line for a request."""
        return len(self._line)

    def analyse(self, data: bytes) -> Analysis:
        """What came of this photo. Raises its own error, or the one that met its whole request."""
        place = _Place(data)
        with self._turn:
            self._line.append(place)
            self._turn.notify_all()
            while place.outcome is None and not self._first(place):
                self._turn.wait()
            group = self._taken() if place.outcome is None else []
        if group:
            self._carry(group)
        outcome = place.outcome
        if isinstance(outcome, Analysis):
            return outcome
        assert outcome is not None  # noqa: S101 - _carry gives everyone an outcome
        raise outcome

    def _first(self, place: _Place) -> bool:
        return self._sending < self._lanes and bool(self._line) and self._line[0] is place

    def _taken(self) -> list[_Place]:
        """The places of the next request, out of the line. The lock is held, but while waiting."""
        end = time.monotonic() + self._linger
        while len(self._line) < self._most and (left := end - time.monotonic()) > 0:
            self._turn.wait(left)
        group, size = self._line[:1], len(self._line[0].data)
        for place in self._line[1 : self._most]:
            size += len(place.data)
            if size > self._most_bytes:
                break
            group.append(place)
        del self._line[: len(group)]
        self._sending += 1
        self._turn.notify_all()
        return group

    def _carry(self, group: Sequence[_Place]) -> None:
        outcomes: Sequence[Analysis | BaseException] = ()
        try:
            outcomes = self._send([place.data for place in group])
        except BaseException as error:  # every thread of the request raises it
            outcomes = [error] * len(group)
        finally:
            with self._turn:
                for place, outcome in zip(group, outcomes, strict=True):
                    place.outcome = outcome
                self._sending -= 1
                self._turn.notify_all()
