"""API keys: who calls, what the key may do, and in which collections."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from faces.errors import Forbidden, NotFound, Unauthorized
from faces.settings import Role

RANK: Mapping[Role, int] = {"search": 0, "index": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request. `collections` None means all of them."""

    name: str
    role: Role
    collections: frozenset[str] | None = None

    def may(self, role: Role) -> bool:
        """Whether the caller's role includes `role`."""
        return RANK[self.role] >= RANK[role]

    def sees(self, collection: str) -> bool:
        """Whether the caller's key reaches this collection."""
        return self.collections is None or collection in self.collections

    def enter(self, collection: str) -> str:
        """The collection, when the key reaches it; else NotFound, as if it were absent."""
        if not self.sees(collection):
            raise NotFound("There is no such collection.")
        return collection


THIS_MACHINE = Caller("local", "admin")
"""The caller of a service without keys: the edge has let only this machine in."""


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


class Keys:
    """The configured keys; they are kept as hashes only."""

    def __init__(self, text: str) -> None:
        self._keys = [_parse(part) for part in text.split(",") if part.strip()]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller that the headers prove.

        Every configured hash is compared, each in constant time, whatever matched before. Raises
        Unauthorized, in the same words for a missing, an empty and a wrong key.
        """
        if not self._keys:
            return THIS_MACHINE
        found: Caller | None = None
        digest = hashlib.sha256(_sent(headers)).hexdigest().encode()
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key.caller
        if found is None:
            raise Unauthorized
        return found


def require(caller: Caller, role: Role) -> None:
    """Raises Forbidden unless the caller has at least this role."""
    if not caller.may(role):
        raise Forbidden(f"This needs a key of the role {role}; the key sent has another.")


def _sent(headers: Mapping[bytes, bytes]) -> bytes:
    key = headers.get(b"x-api-key")
    if key:
        return key
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _parse(part: str) -> _Key:
    """One entry of API_KEYS; the settings have checked its shape."""
    name, role, digest, *rest = part.strip().split(":")
    collections = frozenset(rest[0].split("+")) if rest and rest[0] else None
    checked: Role = "admin" if role == "admin" else "index" if role == "index" else "search"
    return _Key(digest.encode(), Caller(name, checked, collections))
