"""Connections to addresses that were checked, each step held to its call's deadline.

A new connection resolves its host, checks all addresses against the allow-list, and connects to one
of those it checked: between the check and the connection nothing is resolved again.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import httpcore2

from faces.addresses import Origin
from faces.errors import FetchFailed, UrlNotAllowed

T = TypeVar("T")


class Untrusted(httpcore2.ConnectError):
    """The server's certificate is not for its name, not valid now, or by nobody that is trusted."""


class Resolver(Protocol):
    """Returns the addresses of a host as text, in order of preference; raises OSError."""

    def __call__(self, host: str, port: int) -> Sequence[str]: ...


class Connector(Protocol):
    """Returns a connected TCP socket to a literal address; raises OSError."""

    def __call__(self, address: str, port: int, timeout: float) -> socket.socket: ...


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


class Call(threading.local):
    """What the connection layer must know of the call that its thread is in."""

    deadline: float = 0.0
    connected: bool = False

    def remaining(self) -> float:
        """Seconds left; raises FetchFailed when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise timed_out()
        return left


class Checked(httpcore2.NetworkBackend):
    """Opens connections to checked addresses only, and holds every step to the call's deadline."""

    def __init__(
        self, origins: Sequence[Origin], resolver: Resolver, connector: Connector, call: Call
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
            raise timed_out()
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
            try:
                return ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
            except ssl.SSLCertVerificationError as error:
                raise Untrusted from error

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

    def __init__(self, inner: httpcore2.NetworkStream, call: Call) -> None:
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


def timed_out() -> FetchFailed:
    return FetchFailed("The server did not answer within the time allowed.", reason="timeout")
