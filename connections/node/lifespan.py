"""Follow the lifespan events of an ASGI server."""

import logging
import signal

from connections.asgi import Receive, Send
from connections.background import BackgroundTasks
from connections.exceptions import UnsharedLimits
from connections.node.exclusivity import require_no_older_node, require_shared_limits
from connections.node.gc import keep_collections_short
from connections.node.node import Node
from connections.node.warmup import warm_up
from connections.pool import get_redis_url

logger = logging.getLogger(__name__)


async def follow_lifespan(node: Node, receive: Receive, send: Send) -> None:
    """Start a node at the startup event, and drain and stop it at the shutdown."""
    tasks = BackgroundTasks()
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                if node.database is not None:
                    await node.database.read(
                        require_shared_limits, node.config, get_redis_url()
                    )
            except UnsharedLimits as exc:
                await send({"type": "lifespan.startup.failed", "message": str(exc)})
                return
            await warm_up(node)
            await node.start()
            tasks.start(_yield_to_older_node(node), "The check for older nodes")
            keep_collections_short()
            await send({"type": "lifespan.startup.complete"})
        else:
            node.begin_drain()
            await tasks.stop()
            await node.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _yield_to_older_node(node: Node) -> None:
    """Stop this server where an older node runs without shared limits."""
    if node.database is None:
        return
    try:
        await require_no_older_node(
            node.config, get_redis_url(), node.database, node.node_id
        )
    except UnsharedLimits as exc:
        logger.error("Stopped: %s", exc, extra={"event": "unshared_limits"})
        signal.raise_signal(signal.SIGTERM)
