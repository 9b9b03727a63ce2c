"""Follow the lifespan events of an ASGI server."""

import asyncio
import contextlib
import logging
import signal
from functools import partial

from connections.asgi import Receive, Send
from connections.background import BackgroundTasks
from connections.exceptions import UnsharedLimits
from connections.node.exclusivity import require_no_older_node, require_shared_limits
from connections.node.gc import keep_collections_short, leave_collections_to_python
from connections.node.hosting import get_hosting
from connections.node.node import Node
from connections.node.warmup import warm_up

logger = logging.getLogger(__name__)

_END_SECONDS = 1
"""How long a stop waits for the last connections, so that their ends are recorded."""


async def follow_lifespan(node: Node, receive: Receive, send: Send) -> None:
    """Start a node at the startup event, and drain and stop it at the shutdown."""
    tasks = BackgroundTasks()
    hosting = get_hosting(node)
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                if node.database is not None:
                    await node.database.read(
                        require_shared_limits, node.config, node.pool_kind
                    )
            except UnsharedLimits as exc:
                await send({"type": "lifespan.startup.failed", "message": str(exc)})
                return
            await warm_up(node)
            await hosting.begin()
            tasks.repeat(
                partial(_yield_to_older_node, node),
                "The check for older nodes",
                node.config.node.beat_seconds,
            )
            keep_collections_short()
            await send({"type": "lifespan.startup.complete"})
        else:
            hosting.release_signals()
            node.begin_drain()
            await tasks.stop()
            await _wait_for_ends(node)
            await hosting.end()
            leave_collections_to_python()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _wait_for_ends(node: Node) -> None:
    """Wait briefly for connections whose sockets ended just now, as under granian."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await node.hub.emptied.wait()


async def _yield_to_older_node(node: Node) -> bool:
    """Stop this server where an older node runs without shared limits."""
    if node.database is None:
        return True
    try:
        await require_no_older_node(
            node.config, node.pool_kind, node.database, node.node_id
        )
    except UnsharedLimits as exc:
        logger.error("Stopped: %s", exc, extra={"event": "unshared_limits"})
        signal.raise_signal(signal.SIGTERM)
    return True
