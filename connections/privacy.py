"""
Reduce the address and the program of a client to what `privacy` lets be recorded.

A connection reduces them when it is made, so that records, samples, counts and logs
have the reduced form alone. Limits and bans take the whole address, from memory.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.utils.crypto import salted_hmac

from connections.config.loader import get_config
from connections.config.privacy import FAMILY, FULL, NETWORK
from connections.interning import share
from connections.net.addresses import (
    UNIX,
    group_address,
    parse_address,
    parse_network,
)

HIDDEN = "[not recorded]"
"""Stands in texts for what is not recorded."""

_BITS = {4: 24, 6: 48}
"""The prefix lengths of recorded networks, by the version of IP."""

_DIGEST_CHARACTERS = 32

_FORWARDED = (b"x-forwarded-for", b"x-real-ip", b"forwarded")

_SEPARATORS = re.compile(r"[\s,;=\"]+")
"""Between the parts of such a header."""

_FAMILIES = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
)
"""Marks of browsers in a User-Agent: the first one found names the browser."""

_PRODUCT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")
"""The first product of a User-Agent (RFC 9110, section 10.1.5), without its version."""


def reduce_address(text: str) -> str:
    """Return an address, or a network, as far as it is recorded; empty for nothing."""
    mode = get_config().privacy.addresses
    if mode == FULL or not text:
        return text
    if mode != NETWORK:
        return ""
    try:
        network = parse_network(text)
    except ValueError:
        return ""
    bits = _BITS[network.version]
    if network.prefixlen > bits:
        network = ipaddress.ip_network((network.network_address, bits), strict=False)
    return str(network)


def reduce_user_agent(text: str) -> str:
    """Return the User-Agent of a client as far as it is recorded."""
    mode = get_config().privacy.user_agents
    if mode == FULL or not text:
        return text
    if mode != FAMILY:
        return ""
    for mark, family in _FAMILIES:
        if mark in text:
            return family
    found = _PRODUCT.match(text)
    return share(found[0]) if found else ""


def reduce_target(target: str, value: str) -> str:
    """Return the value of an action's target as far as it is recorded."""
    return reduce_address(value) if target == "address" else value


def show_address(text: str) -> str:
    """Return an address for a log line: as it is recorded, or a word in its place."""
    return (reduce_address(text) or HIDDEN) if text else UNIX


def show_peer(text: str | None) -> str | None:
    """Return host and port for an access line; the port with a whole address only."""
    address = (text or "").rpartition(":")[0]
    return text if get_config().privacy.addresses == FULL else show_address(address)


def name_address(address: str) -> str:
    """
    Return the client id of an address; an IPv6 /64 is one client.

    An address that is not recorded has a digest in its place, keyed by SECRET_KEY.
    """
    group = group_address(address)
    return f"address:{digest_address(group)}"


def digest_address(group: str) -> str:
    """Return the key by which the stores know an address: itself, or its digest."""
    if get_config().privacy.addresses == FULL or group == UNIX:
        return group
    return salted_hmac(__name__, group, algorithm="sha256").hexdigest()[
        :_DIGEST_CHARACTERS
    ]


def find_hidden(scope: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parts of a scope that are not recorded whole, with their reductions."""
    privacy = get_config().privacy
    client = scope.get("client")
    if privacy.addresses != FULL and client:
        yield str(client[0]), reduce_address(str(client[0])) or HIDDEN
    for name, value in scope.get("headers") or ():
        text = value.decode("latin-1")
        if privacy.addresses != FULL and name in _FORWARDED:
            for hop in _SEPARATORS.split(text):
                if parse_address(hop) is not None:
                    yield hop, reduce_address(hop) or HIDDEN
        elif privacy.user_agents != FULL and name == b"user-agent":
            yield text, reduce_user_agent(text) or HIDDEN
