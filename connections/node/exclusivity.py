"""Other live nodes on this database, where each would enforce limits of its own."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from django.db import Error as DatabaseError

from connections.config.loader import WebSocketConfig
from connections.exceptions import UnsharedLimits
from connections.models import Node
from connections.storage.database import Database

logger = logging.getLogger(__name__)

_BEATS = 3
"""A node that does not beat for so many of its intervals is taken for gone."""

_LOOKS_PER_BEAT = 4

_BEATS_TO_BE_SEEN = 3
"""After so many beats of its own a node's row is there, and those of others are."""


def require_shared_limits(
    config: WebSocketConfig,
    redis_url: str | None,
    *,
    node_id: str | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """
    Refuse to start a second node whose limits the first knows nothing of.

    A node is live when it is seen to beat: so one that was killed a moment ago
    keeps its successor for three beats at most, and not at all on one machine.
    Asked again for a node that has begun, only its elders count: of two that
    began at the same moment, unseen by each other, one stays.

    Raises:
        UnsharedLimits: there is a live node, no REDIS_URL, and it is not allowed.
    """
    if redis_url or config.allow_unshared_limits:
        return
    try:
        others = Node.objects.serving_within(config.node.node_timeout_seconds)
        known = {
            node.node_id: (node.generation, node.beat)
            for node in others.started_before(node_id)
            if not _has_ended(node)
        }
        for _ in range(_BEATS * _LOOKS_PER_BEAT if known else 0):
            wait(config.node.beat_seconds / _LOOKS_PER_BEAT)
            for node in Node.objects.filter(node_id__in=known):
                if (node.generation, node.beat) != known[node.node_id]:
                    raise UnsharedLimits(str(node))
    except DatabaseError as exc:
        logger.warning(
            "Nobody knows whether other nodes are live: %s",
            exc,
            extra={"event": "neighbours_unknown"},
        )


async def require_no_older_node(
    config: WebSocketConfig, redis_url: str | None, database: Database, node_id: str
) -> None:
    """
    Ask again for a node that has begun, once others can see it and it them.

    Raises:
        UnsharedLimits: another began at the same moment, and is older.
    """
    await asyncio.sleep(_BEATS_TO_BE_SEEN * config.node.beat_seconds)
    await database.read(require_shared_limits, config, redis_url, node_id=node_id)


def _has_ended(node: Node) -> bool:
    """Tell whether a node ran on this machine and its process is gone."""
    if node.host != socket.gethostname():
        return False
    if node.pid == os.getpid():
        return True  # A predecessor: containers number their processes alike.
    try:
        os.kill(node.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
