"""Pictures over https: certificates are checked against the name, which is also what is asked for.

The certificates of `tests/data/tls` are for media.example.org and 127.0.0.1, by an authority of
their own; nothing else in the world trusts it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from faces.addresses import parse_origins
from faces.errors import FetchFailed
from faces.fetch import Fetched, Fetcher
from faces.pinned import connect
from indexer.retry import classify, pause_s
from tests.media_server import Server

TLS = Path(__file__).parent.parent / "data" / "tls"
PUBLIC = "93.184.215.14"
"""What names resolve to here; connections to it are led to the local server."""


@contextlib.contextmanager
def serving(certificate: str) -> Iterator[tuple[Server, list[str | None]]]:
    """A media server over TLS, and the names that its clients asked for."""
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / certificate)
    context.sni_callback = lambda sock, name, context: asked.append(name)
    server = Server()
    # The handshake belongs to the connection's own thread: one that fails stops no other.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.files["/a.jpg"] = b"picture"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def fetch(
    server: Server, host: str, *, trust: bool = True, addresses: Sequence[str] = (PUBLIC,)
) -> Fetched:
    """`/a.jpg` by https from the local server, which `host` resolves to."""

    def connector(address: str, port: int, timeout: float) -> socket.socket:
        assert address in addresses
        return connect("127.0.0.1", server.server_port, timeout)

    fetcher = Fetcher(
        parse_origins([f"https://{host}:{server.server_port}"]),
        timeout=5,
        resolver=lambda name, port: addresses,
        connector=connector,
        ssl_context=ssl.create_default_context(cafile=TLS / "authority.pem") if trust else None,
    )
    try:
        return fetcher.get(f"https://{host}:{server.server_port}/a.jpg", max_bytes=1000)
    finally:
        fetcher.close()


def test_the_certificate_is_checked_for_the_name_and_not_for_the_address() -> None:
    with serving("media.pem") as (server, asked):
        assert fetch(server, "media.example.org").body == b"picture"
        assert asked == ["media.example.org"]
        ((_, headers),) = server.requests
        assert headers["Host"] == f"media.example.org:{server.server_port}"


def test_an_address_is_checked_as_an_address() -> None:
    with serving("media.pem") as (server, asked):
        assert fetch(server, "127.0.0.1", addresses=["127.0.0.1"]).body == b"picture"
        assert asked == [None]


@pytest.mark.parametrize(
    ("certificate", "host", "trust"),
    [
        ("media.pem", "other.example.org", True),
        ("media.pem", "sub.media.example.org", True),
        ("media.pem", "example.org", True),
        ("expired.pem", "media.example.org", True),
        ("media.pem", "media.example.org", False),
    ],
)
def test_a_certificate_that_does_not_hold_ends_the_connection(
    certificate: str, host: str, trust: bool
) -> None:
    with serving(certificate) as (server, _):
        with pytest.raises(FetchFailed) as failed:
            fetch(server, host, trust=trust)
        assert server.requests == []
    assert failed.value.reason == "certificate"
    assert "certificate" in failed.value.detail
    # No second try within the run would mend it; later ones may.
    assert pause_s(failed.value, 1) is None
    failure = classify(failed.value, 1)
    assert failure is not None
    assert (failure.reason, failure.permanent) == ("fetch_certificate", False)


def test_a_server_without_tls_is_no_https_server() -> None:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        with pytest.raises(FetchFailed) as failed:
            fetch(server, "media.example.org")
        assert failed.value.reason == "unreachable"
        assert server.requests == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def test_an_authority_of_the_house_is_trusted_when_the_environment_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "authority.pem"))
    with serving("media.pem") as (server, _):
        assert fetch(server, "media.example.org", trust=False).body == b"picture"
