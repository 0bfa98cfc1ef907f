"""Which addresses count as public, and how the allow-list is read."""

from __future__ import annotations

import ipaddress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faces.addresses import find_origin, is_nameable, is_public, parse_origins
from faces.errors import ConfigError

INWARD_V4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1",  # noqa: S104  # an address to refuse
    "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255",
]  # fmt: skip
PUBLIC_V4 = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "172.32.0.1", "192.0.1.1"]
INWARD_V6 = [
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1",
    "64:ff9b:1::7f00:1", "100::1", "5f00::1", "::ffff:0:127.0.0.1",
    "2a00:1450::5efe:127.0.0.1", "2a00:1450::200:5efe:10.0.0.1",
]  # fmt: skip
PUBLIC_V6 = ["2606:4700::1111", "2a00:1450:4001:80e::200e", "2a00:1450::5efe:8.8.8.8"]


def embeddings(v4: str) -> list[str]:
    """The IPv6 spellings that carry this IPv4 address to the same host."""
    number = int(ipaddress.IPv4Address(v4))
    return [
        str(ipaddress.IPv6Address(0xFFFF << 32 | number)),
        str(ipaddress.IPv6Address((0x64FF9B << 96) | number)),
    ]


@pytest.mark.parametrize("text", INWARD_V4 + INWARD_V6)
def test_inward_addresses_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC_V4 + PUBLIC_V6)
def test_ordinary_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("v4", INWARD_V4)
def test_an_inward_address_stays_one_inside_ipv6(v4: str) -> None:
    assert not any(is_public(ipaddress.ip_address(text)) for text in embeddings(v4))


@pytest.mark.parametrize("v4", PUBLIC_V4)
def test_a_public_address_stays_one_inside_ipv6(v4: str) -> None:
    assert all(is_public(ipaddress.ip_address(text)) for text in embeddings(v4))


def test_a_scoped_address_is_not_public() -> None:
    assert not is_public(ipaddress.ip_address("2606:4700::1111%eth0"))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_and_its_embeddings_are_judged_alike(v4: ipaddress.IPv4Address) -> None:
    assert {is_public(ipaddress.ip_address(text)) for text in embeddings(str(v4))} == {
        is_public(v4)
    }


@given(st.ip_addresses())
def test_nothing_public_needs_naming_and_metadata_cannot_be_named(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert not (is_public(address) and is_nameable(address))
    if address.is_link_local or address.is_multicast:
        assert not is_nameable(address)


@pytest.mark.parametrize("text", ["169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1"])  # noqa: S104  # an address to refuse
def test_an_operator_cannot_open_metadata_or_multicast_addresses(text: str) -> None:
    address = ipaddress.ip_address(text)
    host = f"[{text}]" if address.version == 6 else text
    (origin,) = parse_origins([f"http://{host}:80"])
    assert not origin.admits(address)


@pytest.mark.parametrize(
    ("entry", "opened"),
    [
        ("127.0.0.1:9000", True),
        ("http://127.0.0.1:9000", True),
        ("localhost:9000", True),
        ("127.0.0.1", False),
        ("localhost", False),
        ("media.example:9000", False),
        ("127.1:9000", False),
        ("2130706433:9000", False),
        ("0x7f000001:9000", False),
    ],
)
def test_only_an_address_or_localhost_with_its_port_opens_loopback(
    entry: str, opened: bool
) -> None:
    loopback = ipaddress.ip_address("127.0.0.1")
    assert any(origin.admits(loopback) for origin in parse_origins([entry])) is opened


def test_a_named_private_address_opens_no_other() -> None:
    (origin,) = parse_origins(["http://10.1.2.3:9000"])
    assert origin.admits(ipaddress.ip_address("10.1.2.3"))
    assert not origin.admits(ipaddress.ip_address("10.1.2.4"))


@pytest.mark.parametrize(
    ("entry", "url", "covered"),
    [
        ("cms.example", "https://cms.example/a.jpg", True),
        ("cms.example", "http://CMS.example:80/a.jpg", True),
        ("cms.example", "http://cms.example:8080/a.jpg", False),
        ("cms.example", "https://a.cms.example/", False),
        ("https://cms.example", "http://cms.example/", False),
        ("*.cms.example", "https://a.b.cms.example/", True),
        ("*.cms.example", "https://cms.example/", False),
        ("*.cms.example", "https://evilcms.example/", False),
        ("cms.example:8443", "https://cms.example:8443/", True),
        ("bücher.example", "https://xn--bcher-kva.example/", True),
        ("[2606:4700::1]", "https://[2606:4700:0::1]/", True),
    ],
)
def test_the_list_covers_scheme_host_and_port(entry: str, url: str, covered: bool) -> None:
    assert (find_origin(parse_origins([entry]), httpx2.URL(url)) is not None) is covered


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.com", "a b", "http://u@cms.example", "ftp://cms.example", "cms.example/path",
     "cms.example?q", "cms.example#f", "cms.example:0", "cms.example:99999", "::1", "a:b",
     "cms.example:80:80", "cms%2eexample", "-cms.example", "*.127.0.0.1", "//cms.example", "1xn--"],
)  # fmt: skip
def test_an_entry_of_another_shape_is_named_at_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="MEDIA_ALLOWED_HOSTS"):
        parse_origins([entry])
