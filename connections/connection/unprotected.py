"""Give the connections of consumers outside protect() the node of their process."""

import logging

from connections import close_codes
from connections.access.proxies import find_scope_source, with_address, with_scheme
from connections.access.source_log import SourceLog
from connections.asgi import ARRIVED, Message, with_extension
from connections.connection.routes import find_route
from connections.exceptions import Refused
from connections.hub.connection import LiveConnection
from connections.node.current import get_detached_node, get_started_node
from connections.node.node import Node

logger = logging.getLogger(__name__)

_sources = SourceLog()
_reported: set[tuple[str, str]] = set()


async def with_node(scope: Message, consumer_class: type) -> Message:
    """
    Return a scope with what protect() gives it: node, address, scheme and route.

    Only a server sets the key "asgi", which the specification requires (ASGI 3.0,
    "Connection Scope"). A scope without it is that of a unit test, for example of
    Channels' WebsocketCommunicator. Its node is in memory and never starts.

    Raises:
        ConfigError: the configuration or the pool has problems.
    """
    if "asgi" not in scope:
        return {**scope, "node": get_detached_node(), "is_unprotected": True}
    # The counters of a node begin with the routes that are known at its start.
    route = scope.get("route") or find_route(consumer_class, scope)
    node = await get_started_node()
    scope = with_extension(scope, ARRIVED, node.clock())
    scope |= {"node": node, "is_unprotected": True}
    source = find_scope_source(scope)
    _sources.record(source)
    scope = {**with_address(with_scheme(scope, source), source), "route": route}
    _report(consumer_class, route)
    return scope


async def require_admission(node: Node, connection: LiveConnection) -> None:
    """
    Check for a drain and for bans, as protect() does ahead of its consumers.

    Raises:
        Refused: the node drains, the client is banned, or the database is away.
    """
    if node.is_draining:
        raise Refused(close_codes.DRAINING)
    await node.gate.open()
    node.gate.require(connection)


def _report(consumer_class: type, route: str) -> None:
    """Log once for each route what it lacks."""
    if (consumer_class.__name__, route) in _reported:
        return
    _reported.add((consumer_class.__name__, route))
    logger.warning(
        "%s is served without protect() on the route %r: %s",
        consumer_class.__name__,
        route,
        COSTS,
        extra={"event": "unprotected_route", "route": route},
    )


COSTS = (
    "the project's own middleware alone checks Host, Origin and credentials, and no "
    "access token, ticket or JWT is taken"
)
"""What a route without protect() lacks."""
