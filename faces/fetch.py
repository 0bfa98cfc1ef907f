"""The only way to a URL that somebody else chose: a GET that cannot be turned inwards.

The URL is parsed once, by the HTTP client's own parser. Scheme, host and port must be on the
allow-list, at every one of at most three redirects. A new connection resolves the name, checks all
addresses and connects to one of those it checked, so a name that changes its mind gains nothing;
TLS and `Host` keep the name. Nothing is decompressed, the body is cut at a cap, and the whole
exchange has one deadline. Proxy variables of the environment are not consulted.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import ipaddress
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpcore2
import httpx2

from faces.addresses import Origin, find_origin
from faces.errors import FetchFailed, UrlNotAllowed

MAX_URL_LENGTH = 8192
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_USER_AGENT = b"likeness-fetch/1"

T = TypeVar("T")


class Resolver(Protocol):
    """Returns the addresses of a host as text, in order of preference; raises OSError."""

    def __call__(self, host: str, port: int) -> Sequence[str]: ...


class Connector(Protocol):
    """Returns a connected TCP socket to a literal address; raises OSError."""

    def __call__(self, address: str, port: int, timeout: float) -> socket.socket: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer. `status` is 200, or 304 with an empty body when the condition held."""

    status: int
    body: bytes
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


def resolve(host: str, port: int) -> Sequence[str]:
    """The host's addresses by the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(entry[4][0]) for entry in found]


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to a literal address; nothing is resolved."""
    version = ipaddress.ip_address(address).version
    sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect((address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class Fetcher:
    """Fetches URLs under an allow-list. Safe to share between threads; close it when done.

    `timeout` bounds one whole exchange in seconds: resolving, connecting, redirects and body.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        *,
        timeout: float = 10.0,
        max_connections: int = 16,
        resolver: Resolver = resolve,
        connector: Connector = connect,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._origins = tuple(origins)
        self._timeout = timeout
        self._call = _Call()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=5.0,
            network_backend=_Checked(self._origins, resolver, connector, self._call),
        )

    def close(self) -> None:
        """Close the connections kept for reuse."""
        self._pool.close()

    def allowed(self, url: str) -> bool:
        """Whether scheme, host and port of `url` are on the allow-list. Resolves nothing."""
        try:
            self._parse(url)
        except UrlNotAllowed:
            return False
        return True

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        etag: str | None = None,
        last_modified: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Fetched:
        """The body behind `url`, at most `max_bytes` of it, or 304 under the conditions given.

        Raises UrlNotAllowed (with the same message for every cause), or FetchFailed with `reason`
        timeout, unreachable, protocol, redirects, compressed, too_large or status.
        """
        sent = [(b"User-Agent", _USER_AGENT), (b"Accept", b"*/*")]
        for name, value in (("If-None-Match", etag), ("If-Modified-Since", last_modified)):
            if value and value.isascii() and value.isprintable():
                sent.append((name.encode("ascii"), value.encode("ascii")))
        for name, value in (headers or {}).items():
            sent.append((name.encode("ascii"), value.encode("latin-1")))
        target = self._parse(url)
        self._call.deadline = time.monotonic() + self._timeout
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(target, sent, max_bytes)
            if isinstance(answer, Fetched):
                return answer
            target = self._follow(target, answer)
        raise FetchFailed("The address redirects too often.", reason="redirects")

    def _parse(self, url: str) -> httpx2.URL:
        if len(url) > MAX_URL_LENGTH:
            raise UrlNotAllowed
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            raise UrlNotAllowed from None
        if find_origin(self._origins, parsed) is None:
            raise UrlNotAllowed
        return parsed

    def _follow(self, source: httpx2.URL, location: str) -> httpx2.URL:
        try:
            place = httpx2.URL(location)
            if place.scheme and not place.host:
                raise UrlNotAllowed
            target = source.join(place)
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            raise UrlNotAllowed from None
        if source.scheme == "https" and target.scheme != "https":
            raise UrlNotAllowed
        return self._parse(str(target.copy_with(fragment=None)))

    def _once(
        self, url: httpx2.URL, headers: list[tuple[bytes, bytes]], max_bytes: int
    ) -> Fetched | str:
        """The answer, or the place that it redirects to."""
        request = httpcore2.Request(
            method=b"GET",
            url=httpcore2.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=[(b"Host", url.netloc), *headers],
        )
        for attempt in (1, 2):
            self._call.connected = False
            request.extensions["timeout"] = {"pool": self._call.remaining()}
            try:
                response = self._pool.handle_request(request)
                try:
                    return self._read(response, max_bytes)
                finally:
                    response.close()
            except (httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError) as e:
                # A kept connection that its server has just closed; a new one gets one try.
                if attempt == 1 and not self._call.connected:
                    continue
                raise FetchFailed(
                    "The server broke off its answer or did not speak HTTP.", reason="protocol"
                ) from e
            except httpcore2.TimeoutException as error:
                raise _timed_out() from error
            except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError) as error:
                raise FetchFailed(
                    "The server could not be reached.", reason="unreachable"
                ) from error
        raise AssertionError("unreachable")

    def _read(self, response: httpcore2.Response, max_bytes: int) -> Fetched | str:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.headers
        }
        status = response.status
        if status in _REDIRECTS and "location" in headers:
            return headers["location"]
        etag, modified = headers.get("etag"), headers.get("last-modified")
        if status == 304:
            return Fetched(304, b"", etag, modified)
        if status != 200:
            raise FetchFailed(
                f"The server answered with status {status}.",
                reason="status",
                status=status,
                retry_after=_retry_after(headers.get("retry-after")),
            )
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchFailed(
                "The server compressed its answer although it was not asked to.",
                reason="compressed",
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        chunks: list[bytes] = []
        size = 0
        for chunk in response.iter_stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
        return Fetched(200, b"".join(chunks), etag, modified, headers.get("content-type"))


class _Call(threading.local):
    """What the connection layer must know of the call that its thread is in."""

    deadline: float = 0.0
    connected: bool = False

    def remaining(self) -> float:
        """Seconds left; raises FetchFailed when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _timed_out()
        return left


class _Checked(httpcore2.NetworkBackend):
    """Opens connections to checked addresses only, and holds every step to the call's deadline."""

    def __init__(
        self, origins: Sequence[Origin], resolver: Resolver, connector: Connector, call: _Call
    ) -> None:
        self._origins = origins
        self._resolver = resolver
        self._connector = connector
        self._call = call

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        self._call.connected = True
        addresses = self._checked(host, port)
        error: OSError | None = None
        for position, address in enumerate(addresses):
            # Later addresses keep a share of the time when the first does not answer.
            share = self._call.remaining() / (len(addresses) - position)
            try:
                sock = self._connector(address, port, share)
            except OSError as failed:
                error = failed
                continue
            return _Stream(_Plain(sock), self._call)
        if isinstance(error, TimeoutError):
            raise httpcore2.ConnectTimeout from error
        raise httpcore2.ConnectError from error

    def _checked(self, host: str, port: int) -> list[str]:
        literal = host.strip("[]")
        try:
            found: Sequence[str] = [str(ipaddress.ip_address(literal))]
        except ValueError:
            found = self._resolve(host, port)
        lines = [
            origin
            for origin in self._origins
            if any(
                origin.matches(scheme, _canonical(literal), port) for scheme in ("http", "https")
            )
        ]
        try:
            addresses = [ipaddress.ip_address(text) for text in found]
        except ValueError:
            raise UrlNotAllowed from None
        # One address outside the rules spoils the name: an attacker mixes good and bad answers.
        if not addresses or not all(
            any(line.admits(address) for line in lines) for address in addresses
        ):
            raise UrlNotAllowed
        return list(dict.fromkeys(str(address) for address in addresses))[:4]

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        """The resolver's answer within the deadline: the system's own cannot be interrupted."""
        answer: list[Sequence[str] | OSError] = []

        def ask() -> None:
            try:
                answer.append(self._resolver(host, port))
            except (OSError, UnicodeError) as error:
                answer.append(error if isinstance(error, OSError) else OSError(str(error)))

        thread = threading.Thread(target=ask, daemon=True, name="resolve")
        thread.start()
        thread.join(self._call.remaining())
        if not answer:
            raise _timed_out()
        if isinstance(answer[0], OSError):
            raise httpcore2.ConnectError("the name does not resolve") from answer[0]
        return answer[0]


class _Plain(httpcore2.NetworkStream):
    """A connected socket as the HTTP client's stream."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._guard(timeout, lambda: self._sock.recv(max_bytes), httpcore2.ReadError)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._guard(timeout, lambda: self._sock.sendall(buffer), httpcore2.WriteError)

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        def wrap() -> ssl.SSLSocket:
            return ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)

        try:
            return _Plain(self._guard(timeout, wrap, httpcore2.ConnectError))
        except BaseException:
            self._sock.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._sock, ssl.SSLSocket):
            return self._sock
        if info == "is_readable":
            return _readable(self._sock)
        return None

    def _guard(self, timeout: float | None, act: Callable[[], T], error: type[Exception]) -> T:
        self._sock.settimeout(timeout)
        try:
            return act()
        except TimeoutError as slow:
            raise httpcore2.ReadTimeout from slow
        except (OSError, ValueError) as broken:
            raise error(type(broken).__name__) from broken


class _Stream(httpcore2.NetworkStream):
    """A stream whose every step gets what is left of the call's time."""

    def __init__(self, inner: httpcore2.NetworkStream, call: _Call) -> None:
        self._inner = inner
        self._call = call

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._call.remaining())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._call.remaining())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._call.remaining()
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._call)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _readable(sock: socket.socket) -> bool:
    """Whether an idle connection has something to read, which means that its server closed it."""
    try:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


def _canonical(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _timed_out() -> FetchFailed:
    return FetchFailed("The server did not answer within the time allowed.", reason="timeout")


def _too_large(max_bytes: int) -> FetchFailed:
    return FetchFailed(f"The file has more than {max_bytes} bytes.", reason="too_large")


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` asks for, at most one hour, or None."""
    if not value:
        return None
    if value.strip().isdecimal():
        return min(3600.0, float(value.strip()))
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=dt.UTC)
    return min(3600.0, max(0.0, (then - dt.datetime.now(dt.UTC)).total_seconds()))
