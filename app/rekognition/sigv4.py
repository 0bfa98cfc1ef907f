"""Signature Version 4: whether a request was signed with a secret. Pure; the clock is given.

The canonical request follows AWS's published algorithm: method, path, query, the headers that
`SignedHeaders` lists, and the SHA-256 of the body as it was received.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from app.rekognition.faults import IncompleteSignature, MissingToken, WrongSignature

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "rekognition"
MAX_SKEW = dt.timedelta(minutes=5)
_STAMP = re.compile(r"\d{8}T\d{6}Z")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_PART = re.compile(r"\s*([A-Za-z]+)=([^,\s]*)\s*")
_UNRESERVED = "-_.~"
_MEANT = frozenset({"x-amz-date", "x-amz-target", "x-amz-security-token"})
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request says about its signature, still to be proven."""

    access_key: str
    region: str
    stamp: str
    headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        """Date, region, service and terminator."""
        return f"{self.stamp[:8]}/{self.region}/{SERVICE}/aws4_request"


def read(headers: Headers, now: dt.datetime) -> Signed:
    """The claim in the Authorization header, made within `MAX_SKEW` of `now`.

    Raises MissingToken, IncompleteSignature, and WrongSignature for another service's scope, a
    clock too far off, or a header that has to be signed and is not.
    """
    text = _value(headers, "authorization")
    if text is None:
        raise MissingToken
    algorithm, _, rest = text.partition(" ")
    if algorithm != ALGORITHM:
        raise IncompleteSignature(f"The Authorization header must begin with {ALGORITHM}.")
    parts = {m[1]: m[2] for part in rest.split(",") if (m := _PART.fullmatch(part))}
    missing = [n for n in ("Credential", "SignedHeaders", "Signature") if not parts.get(n)]
    if missing:
        raise IncompleteSignature(f"The Authorization header lacks {' and '.join(missing)}.")
    credential = parts["Credential"].split("/")
    if len(credential) < 5 or not re.fullmatch(r"[0-9a-f]{64}", parts["Signature"]):
        raise IncompleteSignature
    access_key = "/".join(credential[:-4])
    date, region, service, end = credential[-4:]
    stamp = _value(headers, "x-amz-date") or ""
    if not _STAMP.fullmatch(stamp):
        raise IncompleteSignature("X-Amz-Date: must be a time such as 20260131T120000Z.")
    if service != SERVICE or end != "aws4_request" or not _REGION.fullmatch(region):
        raise WrongSignature(f"Credential should be scoped to the service {SERVICE}.")
    if date != stamp[:8]:
        raise WrongSignature("The date in the credential scope is not that of X-Amz-Date.")
    _check_clock(stamp, now)
    signed = tuple(parts["SignedHeaders"].split(";"))
    if len(set(signed)) < len(signed):
        raise IncompleteSignature("SignedHeaders: must name each header once.")
    _check_coverage(headers, signed)
    return Signed(access_key, region, stamp, signed, parts["Signature"])


def verify(
    signed: Signed,
    secret: str,
    *,
    method: str,
    path: bytes,
    query: bytes,
    headers: Headers,
    body: bytes,
) -> None:
    """Returns when the request is signed with `secret`, compared in constant time.

    `path` and `query` are as they came on the wire. Raises WrongSignature.
    """
    canonical = canonical_request(
        signed, method=method, path=path, query=query, headers=headers, body=body
    )
    expected = sign(signed, secret, canonical)
    if not hmac.compare_digest(expected, signed.signature):
        raise WrongSignature


def canonical_request(
    signed: Signed, *, method: str, path: bytes, query: bytes, headers: Headers, body: bytes
) -> str:
    """The text that stands for the request.

    The headers are gone through once: thousands of names, each looked for among thousands of
    headers, would cost seconds before it is known who asks.
    """
    values = _joined(headers)
    lines = [f"{name}:{values.get(name, '')}\n" for name in signed.headers]
    return "\n".join(
        (
            method,
            quote(path, safe="/" + _UNRESERVED),
            _query(query),
            "".join(lines),
            ";".join(signed.headers),
            hashlib.sha256(body).hexdigest(),
        )
    )


def sign(signed: Signed, secret: str, canonical: str) -> str:
    """The signature (hex) that `secret` gives a canonical request."""
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join((ALGORITHM, signed.stamp, signed.scope, digest))
    key = ("AWS4" + secret).encode()
    for part in signed.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _check_clock(stamp: str, now: dt.datetime) -> None:
    try:
        made = dt.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        raise IncompleteSignature("X-Amz-Date: is not a time that there is.") from None
    if abs(made - now) > MAX_SKEW:
        minutes = int(MAX_SKEW.total_seconds() // 60)
        raise WrongSignature(
            f"Signature expired or not yet current: X-Amz-Date may be at most {minutes} minutes "
            f"off this service's clock, {now:%Y%m%dT%H%M%SZ}."
        )


def _check_coverage(headers: Headers, signed: Iterable[str]) -> None:
    """What decides the request's meaning has to be signed.

    Other X-Amz- headers need not be: some SDKs leave X-Amz-User-Agent out.
    """
    names = {name.decode("latin-1").lower() for name, _ in headers}
    if missing := sorted((_MEANT & names | {"host"}) - set(signed)):
        raise WrongSignature(f"These headers must be signed: {', '.join(missing)}.")


def _value(headers: Headers, name: str) -> str | None:
    found = [value for key, value in headers if key.lower() == name.encode()]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _joined(headers: Headers) -> dict[str, str]:
    """The value of each header by its name, those of one name joined."""
    found: dict[str, list[str]] = {}
    for key, value in headers:
        words = " ".join(value.decode("latin-1").split())
        found.setdefault(key.decode("latin-1").lower(), []).append(words)
    return {name: ",".join(values) for name, values in found.items()}


def _query(query: bytes) -> str:
    pairs = []
    for part in query.split(b"&"):
        if not part:
            continue
        name, _, value = part.partition(b"=")
        pairs.append(
            tuple(quote(unquote_to_bytes(side), safe=_UNRESERVED) for side in (name, value))
        )
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
