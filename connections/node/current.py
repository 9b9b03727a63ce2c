"""Keep the node of each event loop."""

import asyncio
import logging
from weakref import WeakKeyDictionary, WeakSet

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError

from connections.config.loader import get_config
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable, UnsharedLimits
from connections.layers.local import LocalLayer
from connections.node.exclusivity import require_no_older_node
from connections.node.hosting import get_hosting
from connections.node.node import Node
from connections.pool import get_redis_url, require_usable_pool
from connections.storage.database import Database, find_missing_tables

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2
"""How long a first connection waits for the database to name its tables."""

_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()
_detached: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()
_starts: WeakKeyDictionary[asyncio.AbstractEventLoop, "_Start"] = WeakKeyDictionary()
_brief: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
"""The event loops that end with their request, as under WSGI."""


def get_node() -> Node:
    """
    Return the node of the running event loop; the first call creates it.

    Raises:
        ConfigError: the configuration has problems.
    """
    loop = asyncio.get_running_loop()
    node = _nodes.get(loop)
    # A node that drained is the last one of its process.
    if node is None or (node.has_stopped and not node.is_draining):
        config = get_config()
        config.require_valid()
        node = Node(config, database=Database(), redis_url=get_redis_url())
        LocalLayer.is_served = True
        _nodes[loop] = node
    return node


def has_node() -> bool:
    """Return True if the running event loop has a node."""
    return asyncio.get_running_loop() in _nodes


def end_with_request() -> None:
    """Know the running event loop as one that ends with its request."""
    _brief.add(asyncio.get_running_loop())


def is_brief() -> bool:
    """Return True if the running event loop ends with its request."""
    return asyncio.get_running_loop() in _brief


async def release_node() -> None:
    """Stop the node of the running event loop, which ends now, and its threads."""
    node = _nodes.pop(asyncio.get_running_loop(), None)
    if node is None:
        return
    await node.stop()
    if node.database is not None:
        await node.database.close()


async def get_started_node() -> Node:
    """
    Return the node of the running event loop; the first calls start it together.

    A project without the app or its tables gets a node that records nothing. While
    the database is away the node is not started, and its gate refuses handshakes;
    the next call tries again.

    Raises:
        ConfigError: the configuration or the pool has problems.
    """
    loop = asyncio.get_running_loop()
    node = _nodes.get(loop)
    if node is None or not (node.is_running or node.is_draining):
        start = _starts.setdefault(loop, _Start())
        node = await start.run()
    return node


class _Start:
    """The start of the node of one event loop by its first connections."""

    def __init__(self) -> None:
        self._attempt: asyncio.Future[Node] | None = None

    async def run(self) -> Node:
        """Make one attempt for all callers, which each may be cancelled."""
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._attempt)

    async def _start(self) -> Node:
        config = get_config()
        config.require_valid()
        require_usable_pool(config, get_redis_url())
        missing = "connections is not in INSTALLED_APPS"
        if apps.is_installed("connections"):
            node = get_node()
            try:
                missing = await _find_missing(node)
            except (DatabaseError, DatabaseUnavailable, TimeoutError) as exc:
                logger.warning(
                    "The database does not answer yet: %s",
                    exc or "no answer in time",
                    extra={"event": "tables_unknown"},
                )
                return node
        if missing:
            logger.warning(
                "Limits hold, but nothing is recorded: %s. Kicks, bans, the dashboard "
                "and close requests need it. Add the app, migrate, and restart.",
                missing,
                extra={"event": "no_tables"},
            )
            node = Node(config, redis_url=get_redis_url())
            _nodes[asyncio.get_running_loop()] = node
        await start_without_lifespan(node)
        return node


async def start_without_lifespan(node: Node) -> None:
    """Start a node at a connection, if no event of its server has done so."""
    if node.has_own_server:
        await node.start()
        return
    hosting = get_hosting(node)
    if await hosting.begin():
        hosting.tasks.start(_report_older_node(node), "The check for older nodes")


async def _find_missing(node: Node) -> str:
    """
    Return what keeps a node from recording, or an empty text.

    Raises:
        DatabaseUnavailable, DatabaseError, TimeoutError: the database is away.
    """
    if node.database is None:
        return ""
    await node.database.join_test()
    try:
        async with deadline(_LOOK_SECONDS):
            tables, _ = await node.database.read(find_missing_tables)
    except ImproperlyConfigured as exc:
        return f"the project has no database ({exc})"
    if tables:
        return f"tables are missing ({', '.join(sorted(tables)[:3])}, ...)"
    return ""


async def _report_older_node(node: Node) -> None:
    """Report once that another process counts on its own."""
    if node.database is None:
        return
    try:
        await require_no_older_node(
            node.config, node.pool_kind, node.database, node.node_id
        )
    except UnsharedLimits as exc:
        logger.error(
            "Each process counts on its own, so clients may have a multiple of each "
            "limit: %s",
            exc,
            extra={"event": "unshared_limits"},
        )


def find_running() -> tuple[asyncio.AbstractEventLoop, Node] | None:
    """Return the lasting node of this process and its loop, from any thread."""
    for loop, node in list(_nodes.items()):
        if loop.is_running() and loop not in _brief and not node.has_stopped:
            return loop, node
    return None


def get_detached_node() -> Node:
    """Return a node that never starts, for a consumer that no server runs."""
    loop = asyncio.get_running_loop()
    node = _detached.get(loop)
    if node is None:
        node = _detached[loop] = Node(get_config())
    return node
