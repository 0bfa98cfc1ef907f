"""How many connections the server keeps, and which one goes when there is one too many."""

from __future__ import annotations

import resource
from typing import Protocol

MOST = 1000
"""A half-sent head holds up to 32 kB of memory."""
BACKLOG = 512
"""So many connections may wait to be accepted; asyncio accepts all of them in one go."""
_OWN_FILES = 256
"""What the process opens besides: the database, decoders, fetched pictures."""


class Guest(Protocol):
    """A connection."""

    def turn_out(self) -> None:
        """End at once."""
        ...


class Crowd:
    """The connections of a server that wait for their clients: for a head, or the rest of a body.

    A stranger may open thousands and say nothing. For each one more than `most` the one that has
    kept us waiting longest goes; what is being worked on stays.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: dict[Guest, None] = {}

    @property
    def waiting(self) -> int:
        """How many connections wait for their clients."""
        return len(self._waiting)

    def wait(self, guest: Guest) -> None:
        """The client is to send something. One that has been waited for keeps its place."""
        self._waiting.setdefault(guest)

    def leave(self, guest: Guest) -> None:
        """The connection is at work, or gone."""
        self._waiting.pop(guest, None)

    def make_room(self, present: int) -> None:
        """Called when one has come, which makes so many."""
        if present > self.most and self._waiting:
            longest = next(iter(self._waiting))
            self.leave(longest)
            longest.turn_out()


def most_connections() -> int:
    """How many connections this process can keep beside what else it opens.

    Raises its own limit of open files for them, as far as it is allowed to.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST
    wanted = MOST + BACKLOG + _OWN_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return max(16, min(MOST, soft - BACKLOG - _OWN_FILES))
