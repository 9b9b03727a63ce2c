"""Start a node under a server that is not ours, and end it with its event loop."""

import asyncio

from connections.background import BackgroundTasks
from connections.node.node import Node
from connections.node.other_server import report_other_server
from connections.node.stop_signals import StopSignals


class Hosting:
    """
    The time of one node under a server that is not ours.

    The startup event of the server begins it, or the first connection, whichever
    is earlier.
    """

    def __init__(self, node: Node) -> None:
        self.tasks = BackgroundTasks()
        self._node = node
        self._signals = StopSignals(node)
        self._has_begun = False

    async def begin(self) -> bool:
        """Start the node, and return False if an earlier call has done so."""
        await self._node.start()
        if self._has_begun or not self._node.is_running:
            return False
        self._has_begun = True
        report_other_server(self._node.config)
        self._signals.watch()
        self.tasks.start(self._stop_with_loop(), "The end of the node")
        return True

    def release_signals(self) -> None:
        """Give the stop signals back to the server."""
        self._signals.release()

    async def end(self) -> None:
        """Stop the node, and then what runs beside it."""
        await self._node.stop()
        await self.tasks.stop()

    async def _stop_with_loop(self) -> None:
        """Write the last records when a server without lifespan ends its loop."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._node.stop()


def get_hosting(node: Node) -> Hosting:
    """Return the hosting of a node; the first call creates it."""
    if node.hosting is None:
        node.hosting = Hosting(node)
    return node.hosting
