"""Doing beforehand what the first handshakes would have to wait for."""

import asyncio
import logging
import threading

from django.db import DatabaseError

from connections.credentials.tokens import verify_access_tokens
from connections.exceptions import DatabaseUnavailable, Refused
from connections.node.node import Node
from connections.storage.database import READERS

logger = logging.getLogger(__name__)

_SECONDS = 5
"""A node whose database is away starts all the same."""


async def warm_up(node: Node) -> None:
    """
    Read the bans, and have each thread that reads connect and look up a token.

    In a storm upon a cold node, the first look-up takes longer than a handshake
    may wait for it. Never raises.
    """
    if node.database is None:
        return
    # One thread would do the work of all, were it done before the next begins.
    together = threading.Barrier(READERS)

    def look_up() -> None:
        together.wait(_SECONDS)
        verify_access_tokens(["nobody's"])

    try:
        async with asyncio.timeout(_SECONDS):
            await node.gate.open()
            await asyncio.gather(*(node.database.read(look_up) for _ in range(READERS)))
    except (
        *(DatabaseError, DatabaseUnavailable, Refused),
        *(TimeoutError, threading.BrokenBarrierError),
    ) as exc:
        together.abort()
        logger.warning(
            "The database does not answer yet: %s", exc, extra={"event": "not_warm"}
        )
