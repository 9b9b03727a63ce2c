"""Test the client address of a request with forged headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.net.addresses import (
    Source,
    find_source,
    group_address,
    is_listed,
    is_trusted,
)

PROXIES = ("10.0.0.0/8", "::1")


def find(
    peer: str | None,
    *forwarded: str,
    proxies: tuple[str, ...] = PROXIES,
    is_secure: bool = False,
    **headers: str,
) -> Source:
    """Return the source of a request with X-Forwarded-For lines and other headers."""
    lines = [(b"host", b"here.example")]
    lines += [(b"x-forwarded-for", text.encode()) for text in forwarded]
    for name, text in headers.items():
        lines.append((f"x-forwarded-{name}".encode(), text.encode()))
    return find_source(peer, lines, proxies, is_secure=is_secure)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7, 10.0.0.3"], "198.51.100.7"),
        (["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7:4711"], "198.51.100.7"),
        (["[2001:db8::5]:4711"], "2001:db8::5"),
        (["198.51.100.7, "], "198.51.100.7"),
        (["10.0.0.9"], "10.0.0.9"),
        (["198.51.100.7, garbage"], "10.0.0.1"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_the_rightmost_hop_that_is_no_proxy_is_the_client(
    forwarded: list[str], address: str
) -> None:
    """The client can forge all hops to its left."""
    assert find("10.0.0.1", *forwarded).address == address


@pytest.mark.parametrize("zone", ["eth0", "\x1b[31m", "\x00", "1 forged"])
def test_the_zone_of_an_address_is_dropped(zone: str) -> None:
    assert find("10.0.0.1", f"fe80::5%{zone}").address == "fe80::5"


def test_headers_of_an_untrusted_peer_are_ignored() -> None:
    source = find("198.51.100.7", "1.1.1.1", proto="https", host="evil.example")
    assert source == Source("198.51.100.7", False, "here.example", True)


def test_without_trusted_proxies_headers_are_ignored() -> None:
    source = find("10.0.0.1", "1.1.1.1", proto="https", proxies=())
    assert source == Source("10.0.0.1", False, "here.example", True)


def test_a_request_without_forwarded_headers_is_not_flagged() -> None:
    source = find("198.51.100.7", is_secure=True)
    assert source == Source("198.51.100.7", True, "here.example", False)


def test_a_trusted_proxy_names_scheme_and_host() -> None:
    source = find("::1", "198.51.100.7", proto="https", host="shop.example")
    assert source == Source("198.51.100.7", True, "shop.example")


def test_a_trusted_proxy_may_report_an_insecure_request() -> None:
    assert not find("10.0.0.1", proto="https, http", is_secure=True).is_secure


def test_a_unix_socket_is_a_local_proxy() -> None:
    assert find(None, "198.51.100.7").address == "198.51.100.7"
    assert find(None).address == ""


@pytest.mark.parametrize("peer", [None, ""])
def test_a_unix_socket_is_trusted_as_soon_as_it_is_listed(peer: str | None) -> None:
    assert find(peer, "198.51.100.7", proxies=("unix",)).address == "198.51.100.7"
    assert find(peer, "198.51.100.7", proxies=()) == Source(
        "", False, "here.example", True
    )


def test_unix_makes_no_peer_with_an_address_trusted() -> None:
    assert find("127.0.0.1", "198.51.100.7", proxies=("unix",)).address == "127.0.0.1"


def test_a_second_proxy_on_a_unix_socket_is_passed_over() -> None:
    """nginx forwards such a peer as unix:."""
    found = find(None, "198.51.100.7, unix:", proxies=("unix",))
    assert found.address == "198.51.100.7"


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"])
def test_an_ipv4_mapped_network_holds_ipv4_addresses(network: str) -> None:
    assert is_trusted("10.0.0.1", [network])
    assert is_trusted("::ffff:10.0.0.1", [network])
    assert is_listed("10.0.0.1", [network])
    assert not is_listed("11.0.0.1", [network])


def test_an_ipv4_mapped_proxy_is_trusted() -> None:
    assert find("::ffff:10.0.0.1", "198.51.100.7").address == "198.51.100.7"


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:0:1::5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::9", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::5", "2001:db8:0:2::/64"),
        ("::1", "::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("", ""),
    ],
)
def test_ipv6_addresses_are_grouped_by_64_bits(address: str, group: str) -> None:
    assert group_address(address) == group


@given(st.text(), st.text(), st.lists(st.text()))
def test_no_header_value_raises(peer: str, proto: str, forwarded: list[str]) -> None:
    lines = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    lines.append((b"x-forwarded-proto", proto.encode()))
    find_source(peer, lines, PROXIES, is_secure=False)
    assert find_source("::1", lines, PROXIES, is_secure=False).address
    assert isinstance(group_address(peer), str)
