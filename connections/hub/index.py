"""Find live connections by client, user, session, token and address."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from connections.hub.connection import LiveConnection
from connections.models import CloseRequest
from connections.net.addresses import Address, Network, find_network, parse_address

Target = CloseRequest.Target

Key = TypeVar("Key")

_KEYS: dict[str, Callable[[LiveConnection], str]] = {
    Target.CLIENT: lambda one: one.client_id,
    Target.USER: lambda one: "" if one.user_id is None else str(one.user_id),
    Target.SESSION_KEY: lambda one: one.session_digest,
    Target.TOKEN: lambda one: "" if one.token_id is None else str(one.token_id),
}
"""The value of each target for a connection; empty where it has none."""


class _Groups(Generic[Key]):
    """Connections by a key; a key with one connection needs no collection."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[Key, LiveConnection | dict[str, LiveConnection]] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key)

    def add(self, key: Key, connection: LiveConnection) -> None:
        found = self._by_key.setdefault(key, connection)
        if isinstance(found, dict):
            found[connection.connection_id] = connection
        elif found is not connection:
            self._by_key[key] = {one.connection_id: one for one in (found, connection)}

    def remove(self, key: Key, connection: LiveConnection) -> None:
        found = self._by_key.get(key)
        if isinstance(found, dict):
            found.pop(connection.connection_id, None)
        if found is connection or found == {}:
            del self._by_key[key]

    def find(self, key: Key) -> list[LiveConnection]:
        found = self._by_key.get(key)
        if found is None:
            return []
        return list(found.values()) if isinstance(found, dict) else [found]


class ConnectionIndex:
    """The connections of one hub by what close requests name."""

    def __init__(self) -> None:
        self._by_target: dict[str, _Groups[str]] = {one: _Groups() for one in _KEYS}
        self._by_address: _Groups[Address] = _Groups()

    def add(self, connection: LiveConnection) -> None:
        """Add a connection under its present client, user, session and token."""
        for target, groups in self._by_target.items():
            if value := _KEYS[target](connection):
                groups.add(value, connection)
        address = parse_address(connection.source_address)
        if address is not None:
            self._by_address.add(address, connection)

    def remove(self, connection: LiveConnection) -> None:
        """Remove a connection, whose keys are those it was added under."""
        for target, groups in self._by_target.items():
            if value := _KEYS[target](connection):
                groups.remove(value, connection)
        address = parse_address(connection.source_address)
        if address is not None:
            self._by_address.remove(address, connection)

    def find(self, target: str, value: str) -> list[LiveConnection]:
        """Return the connections that a target names; [] for any other target."""
        if target == Target.ADDRESS:
            return self._find_within(find_network(value))
        groups = self._by_target.get(target)
        return [] if groups is None else groups.find(value)

    def _find_within(self, network: Network | None) -> list[LiveConnection]:
        if network is None:
            return []
        if network.prefixlen == network.max_prefixlen:
            return self._by_address.find(network.network_address)
        return [
            connection
            for address in self._by_address
            if address in network
            for connection in self._by_address.find(address)
        ]


def find_keys(connection: LiveConnection) -> Iterator[tuple[str, str]]:
    """Yield each target, but networks, nodes and all, with a connection's value."""
    yield Target.CONNECTION, connection.connection_id
    for target, read in _KEYS.items():
        if value := read(connection):
            yield target, value


def is_named(connection: LiveConnection, target: str, value: str, node_id: str) -> bool:
    """Return True if a close request with a target and value names a connection."""
    if target == Target.ALL:
        return True
    if target == Target.NODE:
        return value == node_id
    if target == Target.ADDRESS:
        network = find_network(value)
        address = parse_address(connection.source_address)
        return network is not None and address is not None and address in network
    return (target, value) in find_keys(connection)
