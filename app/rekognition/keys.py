"""AWS_DIALECT_KEYS: who signs requests of the dialect, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

from app.auth import THIS_MACHINE, Caller
from app.rekognition.faults import UnknownKey
from faces.settings import Role

_NOT_SET = (
    "This service has no access keys for the dialect: set AWS_DIALECT_KEYS to "
    "accessKeyId:secret:role."
)


@dataclass(frozen=True, slots=True)
class Holder:
    """One access key: its secret (None: any signature will do) and the caller it stands for."""

    secret: str | None
    caller: Caller


class AccessKeys:
    """The configured access keys.

    Without any, and without API_KEYS, the edge lets only this machine in: then every signed request
    is this machine's, whatever it is signed with, as /v1 needs no key either.
    """

    def __init__(self, text: str, *, keyless: bool) -> None:
        self._keyless = keyless
        self._holders: dict[str, Holder] = {}
        for part in text.split(","):
            if part.strip():
                access_key, secret, role, *rest = part.strip().split(":")
                bound = frozenset(rest[0].split("+")) if rest and rest[0] else None
                checked: Role = (
                    "admin" if role == "admin" else "index" if role == "index" else "search"
                )
                caller = Caller(f"aws-{access_key}", checked, bound)
                self._holders[access_key] = Holder(secret, caller)

    def __bool__(self) -> bool:
        return bool(self._holders)

    def holder(self, access_key: str) -> Holder:
        """Who the key is. Raises UnknownKey."""
        if not self._holders and self._keyless:
            return Holder(None, THIS_MACHINE)
        try:
            return self._holders[access_key]
        except KeyError:
            raise UnknownKey(None if self._holders else _NOT_SET) from None
