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
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpcore2
import httpx2

from faces.addresses import Origin, find_origin
from faces.errors import FetchFailed, UrlNotAllowed
from faces.pinned import (
    Call,
    Checked,
    Connector,
    Resolver,
    Untrusted,
    connect,
    resolve,
    timed_out,
)

MAX_URL_LENGTH = 8192
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_USER_AGENT = b"likeness-fetch/1"


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer. `status` is 200, or 304 with an empty body when the condition held."""

    status: int
    body: bytes
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


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
        self._call = Call()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=5.0,
            network_backend=Checked(self._origins, resolver, connector, self._call),
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
        timeout, unreachable, certificate, protocol, redirects, compressed, too_large or status.
        """
        sent = [(b"User-Agent", _USER_AGENT)]
        for name, value in (("If-None-Match", etag), ("If-Modified-Since", last_modified)):
            if value and value.isascii() and value.isprintable():
                sent.append((name.encode("ascii"), value.encode("ascii")))
        for name, value in ({"Accept": "*/*"} | (headers or {})).items():
            sent.append((name.encode("ascii"), value.encode("latin-1")))
        target = self._parse(url)
        self._call.deadline = time.monotonic() + self._timeout
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(target, sent, max_bytes)
            if isinstance(answer, Fetched):
                if answer.status == 304 and not any(name.startswith(b"If-") for name, _ in sent):
                    raise FetchFailed(
                        "The server answered 304 to an unconditional request.", reason="protocol"
                    )
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
                raise timed_out() from error
            except Untrusted as error:
                raise FetchFailed(
                    "The server's certificate does not hold: check its name, its dates and its"
                    " chain. An authority of your own is named by SSL_CERT_FILE.",
                    reason="certificate",
                ) from error
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
    except (ValueError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=dt.UTC)
    return min(3600.0, max(0.0, (then - dt.datetime.now(dt.UTC)).total_seconds()))
