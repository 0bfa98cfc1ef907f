"""Who is on the other end."""

from __future__ import annotations

import pytest

from app.auth import Keys
from app.keys import entry
from app.limits import Limits
from app.peers import client_of, only_this_machine
from faces.addresses import parse_networks
from faces.errors import ConfigError, Forbidden, RateLimited, Unauthorized


def scope(peer: str | None, *headers: tuple[bytes, bytes], method: str = "GET") -> dict:
    return {"client": (peer, 1) if peer else None, "headers": list(headers), "method": method}


HOST = (b"host", b"localhost:8000")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_let_in(peer: str) -> None:
    only_this_machine(scope(peer, HOST), dict([HOST]))


@pytest.mark.parametrize("peer", [None, "10.0.0.1", "::ffff:10.0.0.1", "testclient"])
def test_others_are_not(peer: str | None) -> None:
    with pytest.raises(Forbidden):
        only_this_machine(scope(peer, HOST), dict([HOST]))


@pytest.mark.parametrize(
    "host",
    [
        *("", "localhost.evil.example", "127.0.0.1.evil", "[::2]", "2130706433", "example"),
        *("[::1].evil.example", "[127.0.0.1]evil.example:80", "[localhost].evil.example"),
    ],
)
def test_names_that_are_not_loopback_are_refused(host: str) -> None:
    header = (b"host", host.encode())
    with pytest.raises(Forbidden):
        only_this_machine(scope("127.0.0.1", header), dict([header]))


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "http://localhost:9000"}, True),
        ({"origin": "null"}, True),
        ({"origin": "null", "sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"}, True),
    ],
)
def test_a_foreign_page_may_look_but_not_change(headers: dict[str, str], foreign: bool) -> None:
    pairs = [HOST, *((k.encode(), v.encode()) for k, v in headers.items())]
    only_this_machine(scope("127.0.0.1", *pairs), dict(pairs))
    change = scope("127.0.0.1", *pairs, method="POST")
    if foreign:
        with pytest.raises(Forbidden):
            only_this_machine(change, dict(pairs))
    else:
        only_this_machine(change, dict(pairs))


def test_the_client_behind_a_proxy_is_the_last_address_it_added() -> None:
    trusted = parse_networks(["10.0.0.0/8"])
    forwarded = (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2")
    assert client_of(scope("10.1.2.3", forwarded), {}, trusted) == "2.2.2.2"
    second = (b"x-forwarded-for", b"3.3.3.3")
    assert client_of(scope("10.1.2.3", forwarded, second), {}, trusted) == "3.3.3.3"
    assert client_of(scope("9.9.9.9", forwarded), {}, trusted) == "9.9.9.9"
    nonsense = (b"x-forwarded-for", b"unknown")
    assert client_of(scope("10.1.2.3", nonsense), {}, trusted) == "10.1.2.3"


def test_ipv6_clients_count_by_their_network() -> None:
    one = client_of(scope("2001:db8:1:2::1"), {}, ())
    assert one == client_of(scope("2001:db8:1:2:ffff::1"), {}, ())
    assert one != client_of(scope("2001:db8:1:3::1"), {}, ())


@pytest.mark.parametrize("entry", ["proxy", "10.0.0.0/99", "10.0.0.0/8/8"])
def test_a_network_that_is_none_is_a_configuration_error(entry: str) -> None:
    with pytest.raises(ConfigError, match="TRUSTED_PROXIES"):
        parse_networks([entry])


def test_a_limit_counts_each_name_alone() -> None:
    limits = Limits(per_key="3/minute", per_address="")
    for _ in range(3):
        limits.key("a")
    with pytest.raises(RateLimited) as caught:
        limits.key("a")
    assert 1 <= caught.value.retry_after <= 60
    limits.key("b")
    for _ in range(100):
        limits.address("1.1.1.1")


@pytest.mark.parametrize("text", ["many", "5", "5/fortnight"])
def test_a_limit_that_is_none_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match="RATE_LIMIT_PER_KEY"):
        Limits(per_key=text, per_address="")


def test_old_and_new_key_of_one_name_are_both_valid() -> None:
    keys = Keys(",".join(entry("cms", "index", key) for key in ("old", "new")))
    for key in (b"old", b"new"):
        assert keys.caller({b"x-api-key": key}).name == "cms"
        assert keys.caller({b"authorization": b"bearer " + key}).role == "index"
    with pytest.raises(Unauthorized):
        keys.caller({b"x-api-key": b"ol"})
