"""Hold the live connections of one node."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from connections.background import BackgroundTasks
from connections.credentials.identity import Credential
from connections.hub.connection import LiveConnection
from connections.hub.index import ConnectionIndex
from connections.models import CloseRequest
from connections.passes import Passes
from connections.slices import Slices

_SLICE_SECONDS = 0.005
"""How long a pass acts on connections until other tasks run."""

Target = CloseRequest.Target


class Hub:
    """All live connections of a node, found by id, client, user, token or address."""

    def __init__(self) -> None:
        self._by_id: dict[str, LiveConnection] = {}
        self._index = ConnectionIndex()
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

    async def for_each_in_slices(
        self,
        name: str,
        action: Callable[[LiveConnection], object],
        connections: Iterable[LiveConnection] | None = None,
        slices: Slices | None = None,
    ) -> bool:
        """
        Call an action with each connection that is still open; let other tasks run.

        Many connections may end at once, because they arrived at once.
        """
        slices = slices or Slices(_SLICE_SECONDS)
        is_whole = True
        for one in self if connections is None else connections:
            if one.connection_id in self._by_id or one.connection_id in self.viewers:
                is_whole &= self.passes.attempt(name, action, one)
            await slices.check()
        return self.passes.finish(name, is_whole=is_whole)

    def join(self, connection: LiveConnection) -> None:
        """Add a connection that was accepted."""
        self._by_id[connection.connection_id] = connection
        self.emptied.clear()
        self._index.add(connection)

    def leave(self, connection: LiveConnection) -> bool:
        """Remove a connection; return True if it was there."""
        if self._by_id.pop(connection.connection_id, None) is None:
            return False
        self._index.remove(connection)
        if not self._by_id:
            self.emptied.set()
        return True

    def select(self, target: str, value: str, node_id: str) -> list[LiveConnection]:
        """Return the connections that the selector of a close request matches."""
        if target == Target.CONNECTION:
            found = self._by_id.get(value)
            return [found] if found else []
        if target == Target.ALL or (target == Target.NODE and value == node_id):
            return list(self._by_id.values())
        return self._index.find(target, value)

    def renew(self, connection: LiveConnection, credential: Credential) -> None:
        """Change the credential of a connection, whether it has joined or not."""
        if connection.connection_id not in self._by_id:
            connection.renew(credential)
            return
        self._index.remove(connection)
        connection.renew(credential)
        self._index.add(connection)
