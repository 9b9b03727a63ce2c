"""What a package that builds on this one has live and end with a node."""

from typing import Protocol

from connections.hub.hub import Hub


class Companion(Protocol):
    """Lives as long as the node that it joined."""

    async def drain(self) -> None:
        """Finish what is under way; cancelled at the end of the grace period."""

    async def stop(self) -> None:
        """Write what is left, within the seconds that a stopping node has."""


class Companions:
    """Those of one node."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._joined: list[Companion] = []

    def join(self, companion: Companion) -> None:
        """Have a companion end with the node."""
        self._joined.append(companion)

    async def drain(self) -> None:
        """Wait until every client has left and no work is under way."""
        await self._hub.emptied.wait()
        for companion in self._joined:
            await companion.drain()

    async def stop(self) -> None:
        """Have all write what is left."""
        for companion in self._joined:
            await companion.stop()
