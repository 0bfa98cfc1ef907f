"""What collection names mean, remembered for as long as nothing can have changed it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Namespace = tuple[str, str]
Identity = tuple[bytes, str]

# Commands that never make a collection's name mean another one. Those that create a collection by
# the way are among them, since only names of collections that are there are remembered.
KEEPING = frozenset(
    [
        *("hello", "isMaster", "ismaster", "ping", "buildInfo", "buildinfo", "serverStatus"),
        *("saslStart", "saslContinue", "connectionStatus", "hostInfo", "getParameter"),
        *("find", "getMore", "killCursors", "explain", "count", "distinct"),
        *("insert", "update", "delete", "findAndModify", "findandmodify", "bulkWrite"),
        *("commitTransaction", "abortTransaction", "startSession", "endSessions", "killSessions"),
        *("listCollections", "listDatabases", "listIndexes", "createIndexes", "dropIndexes"),
        *("createSearchIndexes", "updateSearchIndex", "dropSearchIndex", "listSearchIndexes"),
        *("dbStats", "collStats", "validate", "currentOp", "configureFailPoint"),
    ]
)
# A client that goes before it has its reply leaves a command behind that may still be carried out.
UNSURE_S = 60.0


class Names:
    """The uuid and kind of collections, by namespace.

    Commands on any connection that may change them are to be told: before they are passed on
    (`changing`) and when their replies have come (`settled`) or never will (`lost`). With
    `others`, who change collections past this front, nothing is remembered.
    """

    def __init__(self, *, others: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Namespace, Identity] = {}
        self._changing: set[object] = set()
        self._changes = 0
        self._unsure_until = math.inf if others else -math.inf

    def known(self, namespace: Namespace) -> Identity | None:
        """What is remembered of a name."""
        return self._known.get(namespace)

    def moment(self) -> int | None:
        """What `remember` wants of the moment at which a name was asked for."""
        unsure = self._changing or self._clock() < self._unsure_until
        return None if unsure else self._changes

    def remember(self, namespace: Namespace, identity: Identity, asked: int | None) -> None:
        """Keep what a name means, unless something may have changed since it was `asked` for."""
        if asked is not None and asked == self._changes:
            self._known[namespace] = identity

    def changing(self, who: object) -> None:
        """Note that a command of the connection `who` may change what names mean."""
        self._changes += 1
        self._known.clear()
        self._changing.add(who)

    def settled(self, who: object) -> None:
        """Note that the connection `who` has the replies to all its commands."""
        self._changing.discard(who)

    def lost(self, who: object) -> None:
        """Note that the connection `who` gets no reply any more."""
        if who in self._changing:
            self._changing.discard(who)
            self._unsure_until = max(self._unsure_until, self._clock() + UNSURE_S)


def keeps_names(command: str, whole: bytes | None) -> bool:
    """Whether a command changes nothing of names; `whole` is its message where it was read."""
    if command == "aggregate":
        return whole is not None and b"$out" not in whole
    return command in KEEPING
