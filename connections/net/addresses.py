"""Find a request's client address: the peer's, or one from a trusted proxy."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

Header = tuple[bytes, bytes]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PASSED_ON = frozenset((b"forwarded", b"via", b"x-real-ip"))
"""Headers that proxies add, besides X-Forwarded-*."""

_FORWARDED = b"x-forwarded-"

_OWN_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # RFC 1122: this host
        "127.0.0.0/8",  # RFC 1122: loopback
        "169.254.0.0/16",  # RFC 3927: link-local
        "::/127",  # RFC 4291: unspecified, loopback
        "fe80::/10",  # RFC 4291: link-local
    )
)

UNIX = "unix"
"""The entry of trusted_proxies for proxies that connect over a Unix socket."""

_UNIX_HOP = "unix:"
"""What nginx forwards as the address of a proxy on a Unix socket."""

_MOST_CHARACTERS = 128
"""Longer texts are no address, even with zone, brackets, quotes and port."""

_CLIENT_BITS = 64
"""The prefix length of the smallest IPv6 network that a client gets."""

_MAPPED_BITS = 96
"""Bits before the IPv4 address in ::ffff:192.0.2.1 (RFC 4291, section 2.5.5.2)."""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a request, as far as it can be trusted."""

    address: str
    is_secure: bool
    host: str
    is_forwarded_by_stranger: bool = False
    """True if an untrusted peer sent a forwarded header."""


def find_source(
    peer: str | None,
    headers: Sequence[Header],
    trusted_proxies: Iterable[str],
    *,
    is_secure: bool,
) -> Source:
    """
    Return the source of a request.

    X-Forwarded-For is read from the right, because clients can forge the left
    end: the first address that is no trusted proxy is the client's. The address
    is empty if a proxy on a Unix socket names none.
    """
    trusted = tuple(trusted_proxies)
    host = proto = forwarded_host = ""
    forwarded: list[str] = []
    for name, value in headers:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"x-forwarded-for":
            forwarded.append(value.decode("latin-1"))
        elif name == b"x-forwarded-proto":
            proto = value.decode("latin-1")
        elif name == b"x-forwarded-host":
            forwarded_host = value.decode("latin-1")
    if not is_trusted(peer, trusted):
        has_forwarded = bool(forwarded or proto or forwarded_host)
        return Source(_normalise(peer), is_secure, host, has_forwarded)
    networks = _parse_all(trusted)
    address = _normalise(peer)
    for hop in reversed(",".join(forwarded).split(",")):
        if not hop.strip() or hop.strip() == _UNIX_HOP:
            continue
        parsed = parse_address(hop)
        if parsed is None:
            break
        address = str(parsed)
        if not _is_in(address, networks):
            break
    if proto:
        is_secure = proto.split(",")[-1].strip().lower() in ("https", "wss")
    if forwarded_host:
        host = forwarded_host.split(",")[-1].strip()
    return Source(address, is_secure, host)


def is_passed_on_by_stranger(
    peer: str | None, headers: Sequence[Header], trusted_proxies: Iterable[str]
) -> bool:
    """
    Return True if a proxy that is not trusted forwarded a request.

    The headers of other standards count too; their values are ignored.
    """
    source = find_source(peer, headers, trusted_proxies, is_secure=False)
    if source.is_forwarded_by_stranger:
        return True
    is_passed_on = any(name in _PASSED_ON for name, _ in headers)
    return is_passed_on and not is_trusted(peer, trusted_proxies)


def has_distant_source(
    peer: str | None, headers: Sequence[Header], trusted_proxies: Iterable[str]
) -> bool:
    """
    Return True if a proxy names a client that is not on its own host.

    A trusted proxy may pass on what a client sent. So an address that it names is
    never taken for the loopback one, nor for that of a proxy.
    """
    address = find_source(peer, headers, trusted_proxies, is_secure=False).address
    is_proxy = is_trusted(address, trusted_proxies)
    return not is_proxy and not _is_in(address, _OWN_NETWORKS)


def is_passed_on(headers: Sequence[Header]) -> bool:
    """Return True if a request has a header of a proxy."""
    return any(name in _PASSED_ON or name.startswith(_FORWARDED) for name, _ in headers)


def is_trusted(peer: str | None, trusted_proxies: Iterable[str]) -> bool:
    """
    Return True if a peer is a trusted proxy.

    A peer without an address is on a Unix socket. It is trusted if UNIX or any
    other proxy is listed, because it is a program of this host.
    """
    trusted = tuple(trusted_proxies)
    return _is_in(peer, _parse_all(trusted)) if peer else bool(trusted)


def parse_address(text: str) -> Address | None:
    """Return the address in a text, without port and brackets, or None."""
    return _parse(text) if len(text) <= _MOST_CHARACTERS else None


# A handshake parses its address a dozen times, and clients reconnect.
@lru_cache(4096)
def _parse(text: str) -> Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    # A dual-stack socket shows an IPv4 peer as ::ffff:192.0.2.1. A zone (RFC 4007)
    # means nothing to another host, and may hold any character.
    return parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed))


def parse_network(text: str) -> Network:
    """
    Return the network of an address or CIDR.

    Raises:
        ValueError: the text is neither.
    """
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as exc:
        raise ValueError(
            f"{text!r} is no address or network such as 192.0.2.7, 192.0.2.0/24 or "
            "2001:db8::/64"
        ) from exc
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


@lru_cache(1024)
def find_network(text: str) -> Network | None:
    """Return the network of an address or CIDR; None if the text is neither."""
    try:
        return parse_network(text)
    except ValueError:
        return None


def name_banned_network(text: str) -> str:
    """
    Return the network that a ban of an address or CIDR names, in canonical form.

    An IPv6 address is its /64, because one client has all addresses of it (RFC
    4291, section 2.5.4, and RFC 8981). With /128 it is the one address.

    Raises:
        ValueError: the text is neither.
    """
    network = parse_network(text)
    if isinstance(network, ipaddress.IPv6Network):
        if "/" not in text:
            network = network.supernet(new_prefix=_CLIENT_BITS)
        return str(network)
    is_single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if is_single else network)


def is_listed(address: str, networks: Iterable[str]) -> bool:
    """Return True if an address is in one of the networks."""
    return _is_in(address, _parse_all(tuple(networks)))


def group_address(address: str) -> str:
    """Return the key of per-address limits: the IPv4 address, or the IPv6 /64."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), _CLIENT_BITS), strict=False))
    return address if parsed is None else str(parsed)


@lru_cache(64)
def _parse_all(networks: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in networks if text != UNIX)


@lru_cache(4096)
def _normalise(peer: str | None) -> str:
    """Return an address in canonical form, and any other text unchanged."""
    parsed = parse_address(peer or "")
    return str(parsed) if parsed else peer or ""


def _is_in(address: str, networks: Iterable[Network]) -> bool:
    parsed = parse_address(address)
    return parsed is not None and any(parsed in network for network in networks)
