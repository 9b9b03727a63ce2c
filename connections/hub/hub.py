"""Hold the live connections of one node."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from connections.background import BackgroundTasks
from connections.hub.connection import LiveConnection
from connections.models import CloseRequest
from connections.net.addresses import Network, parse_address, parse_network
from connections.passes import Passes

Target = CloseRequest.Target


class Hub:
    """All live connections of a node, found by id, client, user, token or address."""

    def __init__(self) -> None:
        self._by_id: dict[str, LiveConnection] = {}
        self._by_client: dict[str, dict[str, LiveConnection]] = {}
        self.viewers: dict[str, LiveConnection] = {}
        """Connections of the dashboard: a pool and records know none of them, but
        they end with the rights of their users."""
        self.sending = BackgroundTasks()
        """Messages and close frames on their way to connections."""
        self.passes = Passes()
        """Isolates the connections of a pass, and counts its failures."""
        self.emptied = asyncio.Event()
        self.emptied.set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[LiveConnection]:
        return iter(list(self._by_id.values()))

    def __contains__(self, connection_id: str) -> bool:
        return connection_id in self._by_id

    def get(self, connection_id: str) -> LiveConnection | None:
        """Return a connection of this node, or None."""
        return self._by_id.get(connection_id)

    def for_each(
        self,
        name: str,
        action: Callable[[LiveConnection], object],
        connections: Iterable[LiveConnection] | None = None,
    ) -> bool:
        """Call an action with each connection; return True if none failed."""
        return self.passes.for_each(
            name, action, self if connections is None else connections
        )

    def join(self, connection: LiveConnection) -> None:
        """Add a connection that was accepted."""
        self._by_id[connection.connection_id] = connection
        self.emptied.clear()
        clients = self._by_client.setdefault(connection.client_id, {})
        clients[connection.connection_id] = connection

    def leave(self, connection: LiveConnection) -> bool:
        """Remove a connection; return True if it was there."""
        if self._by_id.pop(connection.connection_id, None) is None:
            return False
        clients = self._by_client[connection.client_id]
        del clients[connection.connection_id]
        if not clients:
            del self._by_client[connection.client_id]
        if not self._by_id:
            self.emptied.set()
        return True

    def select(self, target: str, value: str, node_id: str) -> list[LiveConnection]:
        """Return the connections that the selector of a close request matches."""
        if target == Target.CONNECTION:
            found = self._by_id.get(value)
            return [found] if found else []
        if target == Target.CLIENT:
            return list(self._by_client.get(value, {}).values())
        if target == Target.ALL or (target == Target.NODE and value == node_id):
            return list(self._by_id.values())
        is_selected = make_selector(target, value, node_id)
        return [one for one in self if is_selected(one)]


def make_selector(
    target: str, value: str, node_id: str
) -> Callable[[LiveConnection], bool]:
    """Return a test for the connections of a node that a close request selects."""
    network = _find_network(value) if target == Target.ADDRESS else None
    is_here = target == Target.ALL or value == node_id
    selectors: dict[str, Callable[[LiveConnection], bool]] = {
        Target.CONNECTION: lambda one: one.connection_id == value,
        Target.CLIENT: lambda one: one.client_id == value,
        Target.USER: lambda one: str(one.user_id) == value,
        Target.SESSION_KEY: lambda one: one.session_digest == value,
        Target.TOKEN: lambda one: str(one.token_id) == value,
        Target.ADDRESS: lambda one: _is_within(one.address, network),
        Target.NODE: lambda one: is_here,
        Target.ALL: lambda one: is_here,
    }
    return selectors.get(target, lambda one: False)


def _find_network(text: str) -> Network | None:
    """Return the network that a close request names, or None."""
    try:
        return parse_network(text)
    except ValueError:
        return None


def _is_within(address: str, network: Network | None) -> bool:
    parsed = parse_address(address)
    return network is not None and parsed is not None and parsed in network
