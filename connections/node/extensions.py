"""Let other packages drain and stop with a node."""

from typing import Protocol

from connections.hub.hub import Hub


class NodeExtension(Protocol):
    """A part of another package that lives as long as its node."""

    async def drain(self) -> None:
        """Finish pending work; cancelled at the end of the grace period."""

    async def stop(self) -> None:
        """Write pending data, within the two seconds that a stopping node has."""


class NodeExtensions:
    """The extensions of one node."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._joined: list[NodeExtension] = []

    def join(self, extension: NodeExtension) -> None:
        """Add an extension."""
        self._joined.append(extension)

    async def drain(self) -> None:
        """Wait until no connection is left and every extension has drained."""
        await self._hub.emptied.wait()
        for extension in self._joined:
            await self._hub.passes.attempt_work(
                "The drain of an extension", extension.drain()
            )

    async def stop(self) -> None:
        """Stop every extension."""
        for extension in self._joined:
            await self._hub.passes.attempt_work(
                "The stop of an extension", extension.stop()
            )
