"""What a package that builds on this one has live and end with a node."""

from typing import Protocol

from connections.hub.hub import Hub


class NodeExtension(Protocol):
    """Lives as long as the node that it joined."""

    async def drain(self) -> None:
        """Finish what is under way; cancelled at the end of the grace period."""

    async def stop(self) -> None:
        """Write what is left, within the seconds that a stopping node has."""


class NodeExtensions:
    """Those of one node."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._joined: list[NodeExtension] = []

    def join(self, extension: NodeExtension) -> None:
        """Have a companion end with the node."""
        self._joined.append(extension)

    async def drain(self) -> None:
        """Wait until every client has left and no work is under way."""
        await self._hub.emptied.wait()
        for extension in self._joined:
            await extension.drain()

    async def stop(self) -> None:
        """Have all write what is left."""
        for extension in self._joined:
            await extension.stop()
