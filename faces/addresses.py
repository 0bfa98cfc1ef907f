"""Which internet addresses may be fetched from, and the operator's allow-list of origins.

Two independent guards. The allow-list is the first: a URL whose scheme, host and port are not on it
is refused before any name is resolved. The address check is the second: every address that a name
resolves to must be an ordinary public one, with embedded IPv4 addresses unwrapped, because
`ipaddress.is_global` alone lets NAT64, 6to4, IPv4-compatible and multicast addresses pass.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from faces.errors import ConfigError
from faces.settings import Settings

if TYPE_CHECKING:
    import httpx2

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?")

# IANA's special-purpose registry for IPv4, and the address at which Azure's host agent listens.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Outside 2000::/3 nothing is ordinary unicast; these are the exceptions within it.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries an IPv4 address, and no server worth fetching from has one
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
# What an operator may name by address: the private and loopback ranges, never link-local (cloud
# metadata), multicast or reserved ones.
_NAMEABLE = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128",
                    "fc00::/7")
)  # fmt: skip
_AWS_METADATA_V6 = ipaddress.IPv6Network("fd00:ec2::/32")


def is_public(address: Address) -> bool:
    """Whether `address` is an ordinary public unicast address, embedded IPv4 addresses included."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None:
        return False
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64:
        # A network with IPv6 only reaches every public IPv4 host through such an address.
        return is_public(low)
    if address not in _UNICAST_V6 or any(address in network for network in _REFUSED_V6):
        return False
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP and not is_public(low):
        return False
    return address.is_global


def is_nameable(address: Address) -> bool:
    """Whether an operator may open this private or loopback address by naming it with its port."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address in _AWS_METADATA_V6:
            return False
        if address in _MAPPED:
            return False
    return any(address.version == net.version and address in net for net in _NAMEABLE)


@dataclass(frozen=True, slots=True)
class Origin:
    """One line of the allow-list.

    `host` is a canonical host name, an address, or `*.` and a domain (any name below it).
    `private` marks a line that names an address or `localhost` together with its port: only such a
    line opens an address that is not public, and only that one.
    """

    scheme: str
    host: str
    port: int
    private: bool = False

    def matches(self, scheme: str, host: str, port: int) -> bool:
        """Whether a URL with these canonical parts is covered."""
        if (scheme, port) != (self.scheme, self.port):
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) > len(self.host) - 1
        return host == self.host

    def admits(self, address: Address) -> bool:
        """Whether a connection to `address` may be made under this line."""
        if is_public(address):
            return True
        if not self.private or not is_nameable(address):
            return False
        if self.host == "localhost":
            return address.is_loopback
        return address == ipaddress.ip_address(self.host)


def parse_networks(entries: Iterable[str]) -> tuple[Network, ...]:
    """The networks of TRUSTED_PROXIES; `*` stands for every address. Raises ConfigError."""
    found: list[Network] = []
    for entry in entries:
        if entry == "*":
            found += [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
            continue
        try:
            found.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            raise ConfigError(
                "TRUSTED_PROXIES: each entry must be an IP address, a network such as 10.0.0.0/8, "
                "or *."
            ) from None
    return tuple(found)


def parse_origins(entries: Iterable[str], *, setting: str = "MEDIA_ALLOWED_HOSTS") -> list[Origin]:
    """The allow-list that `entries` spell: each `[http://|https://]host[:port]`.

    Without a scheme both are meant, without a port the scheme's own. `*.example.com` covers the
    names below example.com, not itself. An address, or `localhost`, written with its port opens
    that private or loopback address. Raises ConfigError for an entry of another shape.
    """
    origins: list[Origin] = []
    for entry in entries:
        import httpx2  # 13 MB that a process without an allow-list does without

        scheme, _, rest = entry.strip().lower().rpartition("://")
        wildcard = rest.startswith("*.")
        try:
            url = httpx2.URL(f"{scheme or 'http'}://{rest.removeprefix('*.')}")
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        # The parser drops a port that is its scheme's default; the number written still counts.
        written = re.search(r":([0-9]+)/?$", rest)
        port = int(written[1]) if written else None
        host = url.raw_host.decode("ascii")
        literal = _literal(host)
        if (
            scheme not in ("", "http", "https")
            or not host
            or url.userinfo
            or url.path not in ("", "/")
            or url.query
            or url.fragment
            or (literal is None and not _HOST.fullmatch(host))
            or (wildcard and (literal is not None or "." not in host))
            or not 0 < (port or 80) < 65536
            or port == 0
        ):
            raise ConfigError(
                f"{setting}: each entry must read host, host:port or https://host[:port]"
                " (a leading *. covers the names below a domain)"
            )
        name = host if literal is None else str(literal)
        private = port is not None and (literal is not None or host == "localhost")
        pattern = "*." + name if wildcard else name
        origins.extend(
            Origin(one, pattern, port or _PORTS[one], private)
            for one in ((scheme,) if scheme else ("https", "http"))
        )
    return origins


def origins_of(url: str, *, setting: str) -> list[Origin]:
    """The one origin of a URL that the operator configured; it may be private.

    Raises ConfigError, naming `setting`, when it is no http or https URL.
    """
    import httpx2

    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError, ValueError):
        parsed = httpx2.URL("")
    host = parsed.raw_host.decode("ascii")
    if parsed.scheme not in _PORTS or not host or parsed.userinfo:
        raise ConfigError(f"{setting}: must be an http or https URL without a user name")
    host = f"[{host}]" if ":" in host else host
    port = _PORTS[parsed.scheme] if parsed.port is None else parsed.port
    return parse_origins([f"{parsed.scheme}://{host}:{port}"], setting=setting)


def media_origins(settings: Settings) -> list[Origin]:
    """Where pictures may be fetched from: MEDIA_ALLOWED_HOSTS, and where the CMS itself is.

    CMS_BASE_URL, else CMS_HTTP_URL, is the operator's own word for where the CMS's pictures are.
    """
    origins = parse_origins(settings.media_allowed_hosts)
    if settings.cms_base_url is not None:
        origins += origins_of(settings.cms_base_url, setting="CMS_BASE_URL")
    elif settings.cms_source == "http" and settings.cms_http_url is not None:
        origins += origins_of(settings.cms_http_url, setting="CMS_HTTP_URL")
    return origins


def find_origin(origins: Sequence[Origin], url: httpx2.URL) -> Origin | None:
    """The line of the allow-list that covers `url`, or None.

    The parts compared are those that the HTTP client connects with: there is one parser. Its
    `host`, for people, raises for some names beginning with xn--; `raw_host` is what it asks for.
    """
    host = url.raw_host.decode("ascii")
    if url.scheme not in _PORTS or url.userinfo or not host:
        return None
    literal = _literal(host)
    if literal is not None:
        host = str(literal)
    port = _PORTS[url.scheme] if url.port is None else url.port
    matching = [origin for origin in origins if origin.matches(url.scheme, host, port)]
    return max(matching, key=lambda origin: origin.private, default=None)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
