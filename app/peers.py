"""Who is on the other end: the client's address, and whether it is this very machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from starlette.types import Scope

from faces.addresses import Address, Network
from faces.errors import Forbidden

_NO_KEYS = (
    "This service has no API keys, so it answers only its own machine, directly and by a loopback "
    "name. To let others in, set API_KEYS; `python -m app keys new` makes one."
)
_FOREIGN_PAGE = (
    "A page of another origin may not change anything here while the service has no API keys. "
    "Set API_KEYS to use it from elsewhere."
)


def peer_of(scope: Scope) -> Address | None:
    """The address of the socket's other end; None when there is none, as on a Unix socket."""
    client = scope.get("client")
    return _address(client[0]) if client else None


def client_of(scope: Scope, headers: Mapping[bytes, bytes], trusted: Sequence[Network]) -> str:
    """The client's address as a rate limit sees it: IPv6 by its /64.

    Behind a trusted proxy it is the last entry of X-Forwarded-For, the one that the proxy itself
    added; whatever stands before it is the client's own claim.
    """
    peer = peer_of(scope)
    if peer is None:
        return "unknown"
    if any(peer in network for network in trusted):
        values = [v for name, v in scope["headers"] if name == b"x-forwarded-for"]
        last = values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""
        peer = _address(last) or peer
    if isinstance(peer, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((peer, 64), strict=False))
    return str(peer)


def only_this_machine(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Raises Forbidden unless the request comes from this machine, directly, for a loopback name.

    A name of somebody else's that resolves to a loopback address (DNS rebinding) fails at `Host`,
    and a form or script of another origin at `Origin`.
    """
    peer = peer_of(scope)
    forwarded = any(
        name == b"forwarded" or name.startswith(b"x-forwarded-") for name, _ in scope["headers"]
    )
    host = headers.get(b"host", b"").decode("latin-1")
    if peer is None or not peer.is_loopback or forwarded or not _loopback_name(host):
        raise Forbidden(_NO_KEYS)
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return
    # Browsers set Sec-Fetch-Site themselves; older ones and sandboxed pages show only an Origin.
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    if site is not None:
        foreign = site not in (b"none", b"same-origin")
    else:
        foreign = origin is not None and origin.decode("latin-1").partition("://")[2] != host
    if foreign:
        raise Forbidden(_FOREIGN_PAGE)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _loopback_name(host: str) -> bool:
    name = host
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        if rest and not rest.startswith(":"):
            return False  # as in `[::1].example`, which is somebody's name
    elif host.count(":") == 1:
        name = host.partition(":")[0]
    if name.lower().rstrip(".") == "localhost":
        return True
    address = _address(name)
    return address is not None and address.is_loopback
