"""Keep the node of each event loop."""

import asyncio
from weakref import WeakKeyDictionary

from connections.config.loader import get_config
from connections.layers.local import LocalLayer
from connections.node.node import Node
from connections.pool import get_redis_url
from connections.storage.database import Database

_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()
_detached: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()


def get_node() -> Node:
    """
    Return the node of the running event loop; the first call creates it.

    Raises:
        ConfigError: the configuration has problems.
    """
    loop = asyncio.get_running_loop()
    node = _nodes.get(loop)
    if node is None or node.has_stopped:
        config = get_config()
        config.require_valid()
        node = Node(config, database=Database(), redis_url=get_redis_url())
        LocalLayer.is_served = True
        _nodes[loop] = node
    return node


def find_running() -> tuple[asyncio.AbstractEventLoop, Node] | None:
    """Return the node of this process and its event loop, from any thread."""
    for loop, node in list(_nodes.items()):
        if loop.is_running() and not node.has_stopped:
            return loop, node
    return None


def get_detached_node() -> Node:
    """Return a node without a database: its limits are in memory alone."""
    loop = asyncio.get_running_loop()
    node = _detached.get(loop)
    if node is None:
        node = _detached[loop] = Node(get_config())
    return node
