"""Refuse to start beside another live node whose limits are not shared."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from django.db import Error as DatabaseError

from connections.config.loader import WebSocketConfig
from connections.exceptions import DatabaseUnavailable, UnsharedLimits
from connections.models import Node
from connections.storage.database import Database

logger = logging.getLogger(__name__)

_BEATS = 3
"""A node whose beat stands still for so many intervals counts as gone."""

_POLLS_PER_BEAT = 4

_BEATS_TO_APPEAR = 3
"""Beats after which the row of a new node is written, where nothing is slow."""

_PIDS_OF_HOST = 0xEFFFFFFC
"""The inode of the first namespace of process ids (PROC_PID_INIT_INO in Linux)."""

_LOOKS = 4
"""How often a new node looks for older ones, each time after twice as long."""


def is_in_container() -> bool:
    """
    Return True if this process sees a part of its host's processes alone.

    The hosts of containers may have the same name, and their process ids are the same
    small numbers.
    """
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _PIDS_OF_HOST
    except OSError:
        return False  # No Linux, so no container.


def require_shared_limits(
    config: WebSocketConfig,
    pool: str,
    *,
    node_id: str | None = None,
    wait: Callable[[float], None] = time.sleep,
    sees_part: Callable[[], bool] = is_in_container,
) -> None:
    """
    Refuse to start a node beside another whose pool it does not share.

    A node counts as live while its heartbeat advances. After a kill on another
    host, or in a container, a successor waits at most three beats; on the same host
    it does not wait. With node_id, only nodes that started before that one count: of
    two that started at the same moment, one stays.

    Raises:
        UnsharedLimits: another node is live whose pool is in its own memory or of
            another kind, and allow_unshared_limits is not set.
    """
    try:
        _require_shared_limits(config, pool, node_id, wait, sees_part)
    except DatabaseError as exc:
        logger.warning(
            "Whether other nodes are live could not be checked: %s",
            exc,
            extra={"event": "neighbours_unknown"},
        )


async def require_no_older_node(
    config: WebSocketConfig,
    pool: str,
    database: Database,
    node_id: str,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """
    Look for older nodes from a running one, after 3, 9, 21 and 45 beats.

    Where hosts or the database are slow, rows are written late and beats come late,
    so one look could miss a node. While the database is away no look counts.

    Raises:
        UnsharedLimits: another node is live that started before this one.
    """
    looks = 0
    while looks < _LOOKS:
        await asyncio.sleep(2**looks * _BEATS_TO_APPEAR * config.node.beat_seconds)
        try:
            await database.read(_require_shared_limits, config, pool, node_id, wait)
        except DatabaseUnavailable as exc:
            logger.debug("Other nodes are looked for later: %s", exc)
        else:
            looks += 1


def _require_shared_limits(
    config: WebSocketConfig,
    pool: str,
    node_id: str | None,
    wait: Callable[[float], None],
    sees_part: Callable[[], bool] = is_in_container,
) -> None:
    """Do as require_shared_limits(), and raise the errors of the database."""
    if config.allow_unshared_limits:
        return
    serving = Node.objects.serving_within(config.node.node_timeout_seconds)
    others = serving.beside_pool(pool)
    # What runs elsewhere has no process here, or that of another.
    knows_ended = not sees_part()
    known = {
        node.node_id: (node.generation, node.beat)
        for node in others.started_before(node_id)
        if not (knows_ended and _has_ended(node))
    }
    for _ in range(_BEATS * _POLLS_PER_BEAT if known else 0):
        wait(config.node.beat_seconds / _POLLS_PER_BEAT)
        for node in Node.objects.filter(node_id__in=known):
            if (node.generation, node.beat) != known[node.node_id]:
                raise UnsharedLimits(str(node), pool=pool, other_pool=node.pool)


def _has_ended(node: Node) -> bool:
    """Return True if a node ran on this host and its process is gone."""
    if node.host != socket.gethostname():
        return False
    if node.pid == os.getpid():
        return True  # A predecessor.
    try:
        os.kill(node.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
