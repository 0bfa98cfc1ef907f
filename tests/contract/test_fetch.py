"""The fetcher against real servers on loopback, and against addresses that lead inwards."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from faces.addresses import parse_origins
from faces.errors import FetchFailed, UrlNotAllowed
from faces.fetch import Fetched, Fetcher
from faces.pinned import connect, resolve
from tests import media_server
from tests.media_server import Canary, Server

CAP = 1_000_000


@pytest.fixture
def media() -> Iterator[Server]:
    with media_server.serving() as server:
        yield server


@pytest.fixture
def canary() -> Iterator[Canary]:
    listener = Canary()
    yield listener
    listener.close()


def fetch(media: Server, path: str, *, timeout: float = 5.0, **options: object) -> Fetched:
    fetcher = Fetcher(parse_origins([media.origin]), timeout=timeout)
    try:
        return fetcher.get(media.url(path), max_bytes=CAP, **options)  # type: ignore[arg-type]
    finally:
        fetcher.close()


def hostile_hosts() -> list[str]:
    """Spellings of hosts that lead to this machine, its network or a cloud's metadata."""
    plain = [
        "127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "0x0", "2130706433", "0x7f000001",  # noqa: S104  # an address to refuse
        "0x7f.1", "0x7f.0.0.1", "0177.0.0.1", "0177.1", "017700000001", "127.0.0.1.",
        "127.127.127.127",
        "127.000.000.001", "1.0.0.127.in-addr.arpa", "localhost", "LOCALHOST", "localhost.",
        "localhost.localdomain", "ip6-localhost", "10.0.0.1", "10.1", "100.64.0.1",
        "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
        "172.16.0.1", "192.168.0.1", "192.0.0.192", "198.18.0.1", "203.0.113.1", "224.0.0.1",
        "255.255.255.255", "168.63.129.16", "240.0.0.1",
        "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.０.０.１", "ⓛocalhost", "loc\u00adalhost",
        "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "metadata.google.internal", "metadata",
    ]  # fmt: skip
    six = [
        "::1", "::", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::7f00:1", "2002:7f00:1::",
        "2002:a9fe:a9fe::1", "2001::7f00:1", "fe80::1", "fe80::1%25lo", "fec0::1", "fc00::1",
        "fd00:ec2::254", "ff02::1", "::ffff:0:127.0.0.1", "2001:db8::1", "100::1", "::ffff:0.0.0.0",
    ]  # fmt: skip
    return plain + [f"[{host}]" for host in six]


def hostile_urls(port: int) -> list[str]:
    hosts = hostile_hosts()
    urls = [f"http://{host}:{port}/" for host in hosts]
    urls += [f"https://{host}:{port}/a" for host in hosts]
    urls += [f"http://ok.example@{host}:{port}/" for host in hosts]
    urls += [f"http://ok.example:80@{host}:{port}/" for host in hosts]
    shapes = [
        "http://ok.example\\@127.0.0.1:{p}/", "http://127.0.0.1:{p}#@ok.example/",
        "http:/127.0.0.1:{p}/", "http:127.0.0.1:{p}/", "http:///127.0.0.1:{p}/",
        "//127.0.0.1:{p}/", "/127.0.0.1:{p}/", "127.0.0.1:{p}", "http://:{p}/", "http://",
        "http://127.0.0.1:{p}\t/", "http://127.0.0.1\r\nHost: ok.example:{p}/", "\thttp://127.0.0.1:{p}",
        "http://127.0.0.1%00.ok.example:{p}/", "http://ok.example%2f@127.0.0.1:{p}/",
        "http://ok.example:{p}:{p}/", "http://[::1:{p}/", "http://::1]:{p}/", "http://[127.0.0.1]:{p}/",
        "http://ok.example@:{p}/", "http://ok%2eexample@127.0.0.1:{p}/",
        "http://ok.example\u2024@127.0.0.1:{p}/", "http://127.0.0.1:{p}@ok.example:22/",
        "hTTp://127.0.0.1:{p}/", "http://127.0.0.1:0{p}/", "http://127.0.0.1:+{p}/",
        "javascript:http://127.0.0.1:{p}/", "view-source:http://127.0.0.1:{p}/",
        # Names that the HTTP client cannot write for people.
        "http://1xn--:{p}/", "https://-%xn--/", "http://xn--{p}xn--.ok.example/",
        "http://ok.example.127.0.0.1.nip.io:{p}/", "http://0/{p}", "jar:http://127.0.0.1:{p}!/",
    ]  # fmt: skip
    urls += [shape.format(p=port) for shape in shapes]
    schemes = ["file", "ftp", "gopher", "dict", "ldap", "sftp", "tftp", "ws", "wss", "data", "unix"]
    urls += [f"{scheme}://127.0.0.1:{port}/etc/passwd" for scheme in schemes]
    urls += ["file:///etc/passwd", "file:/etc/passwd", "data:image/png;base64,AAAA", "about:blank"]
    urls += [f"http://ok.example:{p}/" for p in (0, 1, 22, 25, 6379, 27017, 65536, -1, 99999999)]
    urls += [
        "http://" + "a" * 10_000,
        "http://ok.example/" + "a" * 10_000,
        "",
        " ",
        "\0",
        "%",
        "[",
        "]",
    ]
    return urls


def test_no_spelling_of_a_hostile_url_reaches_this_machine(canary: Canary) -> None:
    urls = hostile_urls(canary.port)
    assert len(urls) > 300
    fetcher = Fetcher(parse_origins(["ok.example"]), timeout=2)
    answers = set()
    for url in urls:
        with pytest.raises(UrlNotAllowed) as refused:
            fetcher.get(url, max_bytes=CAP)
        answers.add(str(refused.value))
    fetcher.close()
    assert len(answers) == 1
    time.sleep(0.05)
    assert canary.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_to_a_hostile_url(media: Server, canary: Canary, status: int) -> None:
    fetcher = Fetcher(parse_origins([media.origin]), timeout=5)
    urls = [
        url
        for url in hostile_urls(canary.port)
        # A header cannot carry the rest; what starts with neither is a path on the same server.
        if url.isascii() and url.isprintable() and url.startswith(("http://", "https://", "//"))
        and len(url) < 9000
    ]  # fmt: skip
    for number, url in enumerate(urls):
        path = f"/{number}"
        media.behaviours[path] = media_server.redirect(url, status)
        with pytest.raises(UrlNotAllowed):
            fetcher.get(media.url(path), max_bytes=CAP)
    fetcher.close()
    assert len(urls) > 150
    assert canary.connections == 0


class Names:
    """A resolver that answers from a table; a list of lists is answered in turn."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return next(self._answers)


class Dial:
    """A connector that notes addresses and connects to a test server instead."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.dialled: list[tuple[str, int]] = []

    def __call__(self, address: str, port: int, timeout: float) -> socket.socket:
        self.dialled.append((address, port))
        return connect("127.0.0.1", self._port, timeout)


INWARD = [
    "127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "0.0.0.0", "::1",  # noqa: S104  # an address to refuse
    "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1", "fe80::1%1",
    "fd00:ec2::254", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", INWARD)
@pytest.mark.parametrize("mixed", [[], ["93.184.216.34"]])
def test_an_allowed_name_that_resolves_inwards_is_refused(address: str, mixed: list[str]) -> None:
    for answer in ([*mixed, address], [address, *mixed]):
        dial = Dial(1)
        fetcher = Fetcher(
            parse_origins(["cms.example"]), timeout=2, resolver=Names(answer), connector=dial
        )
        with pytest.raises(UrlNotAllowed):
            fetcher.get("http://cms.example/a.jpg", max_bytes=CAP)
        fetcher.close()
        assert dial.dialled == []


def test_the_connection_goes_to_the_address_that_was_checked(media: Server) -> None:
    media.files["/a"] = b"photo"
    media.behaviours["/hang-up"] = media_server.raw(b"HTTP/1.1 200 OK\r\n\r\nx")
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    dial = Dial(media.server_port)
    fetcher = Fetcher(parse_origins(["cms.example"]), timeout=5, resolver=names, connector=dial)
    assert fetcher.get("http://cms.example/a", max_bytes=CAP).body == b"photo"
    assert fetcher.get("http://cms.example/hang-up", max_bytes=CAP).body == b"x"
    assert dial.dialled == [("93.184.216.34", 80)]
    assert media.requests[0][1]["Host"] == "cms.example"
    # The name now rebinds inwards: a new connection is checked again and not made.
    with pytest.raises(UrlNotAllowed):
        fetcher.get("http://cms.example/a", max_bytes=CAP)
    fetcher.close()
    assert len(dial.dialled) == 1


@pytest.mark.parametrize("url", ["http://ok.example#@127.0.0.1/", "http://ok.example?@127.0.0.1/x"])
def test_what_follows_the_host_is_never_taken_for_it(media: Server, url: str) -> None:
    media.files["/"] = b"page"
    names = Names(["93.184.216.34"])
    fetcher = Fetcher(
        parse_origins(["ok.example"]), resolver=names, connector=Dial(media.server_port)
    )
    assert fetcher.get(url, max_bytes=CAP).body == b"page"
    fetcher.close()
    assert names.asked == [("ok.example", 80)]


def test_a_name_outside_the_list_is_not_even_resolved() -> None:
    names = Names(["93.184.216.34"])
    fetcher = Fetcher(parse_origins(["cms.example"]), resolver=names)
    with pytest.raises(UrlNotAllowed):
        fetcher.get("http://other.example/", max_bytes=CAP)
    fetcher.close()
    assert names.asked == []


def test_a_file_comes_with_its_validators_and_nothing_is_asked_compressed(media: Server) -> None:
    media.files["/a.jpg"] = b"x" * 1000
    fetched = fetch(media, "/a.jpg")
    assert (fetched.status, len(fetched.body)) == (200, 1000)
    assert "Accept-Encoding" not in media.requests[0][1]
    again = fetch(media, "/a.jpg", etag=fetched.etag)
    assert (again.status, again.body) == (304, b"")


def test_localhost_with_its_port_can_be_opened(media: Server) -> None:
    media.files["/a"] = b"photo"
    fetcher = Fetcher(parse_origins([f"localhost:{media.server_port}"]), resolver=resolve)
    assert fetcher.get(f"http://localhost:{media.server_port}/a", max_bytes=CAP).body == b"photo"
    fetcher.close()


def test_connections_are_kept_and_a_dropped_one_is_made_anew(media: Server) -> None:
    media.files["/a"] = b"photo"
    dial = Dial(media.server_port)
    fetcher = Fetcher(
        parse_origins(["cms.example"]), resolver=Names(["93.184.216.34"]), connector=dial
    )
    for _ in range(3):
        fetcher.get("http://cms.example/a", max_bytes=CAP)
    assert len(dial.dialled) == 1
    fetcher.close()


def test_three_redirects_are_followed_and_a_fourth_is_not(media: Server) -> None:
    media.files["/0"] = b"end"
    for n in range(1, 5):
        media.behaviours[f"/{n}"] = media_server.redirect(f"/{n - 1}")
    assert fetch(media, "/3").body == b"end"
    with pytest.raises(FetchFailed) as failed:
        fetch(media, "/4")
    assert failed.value.reason == "redirects"


def test_https_is_never_left_for_http() -> None:
    fetcher = Fetcher(parse_origins(["cms.example"]))
    import httpx2

    with pytest.raises(UrlNotAllowed):
        fetcher._follow(httpx2.URL("https://cms.example/a"), "http://cms.example/b")
    fetcher.close()


def test_a_body_over_the_cap_is_cut_announced_or_not(media: Server) -> None:
    media.files["/announced"] = b"x" * (CAP + 1)
    media.behaviours["/endless"] = media_server.raw(
        b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 40
    )
    for path in ("/announced", "/endless"):
        with pytest.raises(FetchFailed) as failed:
            fetch(media, path)
        assert failed.value.reason == "too_large"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (media_server.truncated(b"x" * 10, 100), "protocol"),
        (media_server.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "protocol"),
        (media_server.raw(b""), "protocol"),
        (media_server.raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000), "protocol"),
        (
            media_server.raw(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
            ),
            "compressed",
        ),
        (media_server.failing(304), "protocol"),
        (media_server.failing(500), "status"),
        (media_server.failing(206), "status"),
        (media_server.failing(204), "status"),
        (media_server.failing(302), "status"),
    ],
)
def test_an_answer_that_is_no_file_fails_by_name(
    media: Server, behaviour: media_server.Answer, reason: str
) -> None:
    media.behaviours["/a"] = behaviour
    with pytest.raises(FetchFailed) as failed:
        fetch(media, "/a")
    assert failed.value.reason == reason
    assert "127.0.0.1" not in failed.value.detail


@pytest.mark.parametrize(
    "behaviour",
    [
        media_server.dripping(b"x" * 100, 0.1),
        media_server.raw(b"HTTP/1.1 200 OK\r\n", *[b"X"] * 100, pause=0.1),
        media_server.raw(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 100, pause=0.1),
        lambda handler: handler.rfile.read(1),  # nothing, until the client leaves
    ],
)
def test_one_deadline_bounds_every_way_of_being_slow(
    media: Server, behaviour: media_server.Answer
) -> None:
    media.behaviours["/a"] = behaviour
    with pytest.raises(FetchFailed) as failed:
        fetch(media, "/a", timeout=0.5)
    assert failed.value.reason == "timeout"


def test_a_resolver_that_hangs_ends_at_the_deadline() -> None:
    given_up = threading.Event()

    def hang(host: str, port: int) -> Sequence[str]:
        given_up.wait(240)
        return ["93.184.216.34"]

    fetcher = Fetcher(parse_origins(["cms.example"]), timeout=0.2, resolver=hang)
    with pytest.raises(FetchFailed) as failed:
        fetcher.get("http://cms.example/", max_bytes=CAP)
    fetcher.close()
    assert failed.value.reason == "timeout"
    given_up.set()


def test_a_closed_port_and_an_unknown_name_are_unreachable() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for fetcher, url in (
        (Fetcher(parse_origins([f"127.0.0.1:{port}"])), f"http://127.0.0.1:{port}/"),
        (Fetcher(parse_origins(["cms.example"]), resolver=unknown), "http://cms.example/"),
    ):
        with pytest.raises(FetchFailed) as failed:
            fetcher.get(url, max_bytes=CAP)
        fetcher.close()
        assert failed.value.reason == "unreachable"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("99999", 3600),
        ("soon", None),
        ("-1", None),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
    ],
)
def test_retry_after_is_read_and_capped(media: Server, value: str, seconds: float | None) -> None:
    media.behaviours["/a"] = media_server.failing(429, Retry_After=value)
    with pytest.raises(FetchFailed) as failed:
        fetch(media, "/a")
    assert (failed.value.status, failed.value.retry_after) == (429, seconds)
