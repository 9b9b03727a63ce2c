"""Warm up a node, so that the first handshakes do not have to wait."""

import asyncio
import logging
import threading

from django.db import DatabaseError

from connections.credentials.tokens import verify_access_tokens
from connections.deadline import deadline
from connections.exceptions import DatabaseUnavailable, Refused
from connections.node.node import Node
from connections.storage.database import READERS

logger = logging.getLogger(__name__)

_SECONDS = 5
"""The limit of the warm-up; a node starts even while its database is away."""


async def warm_up(node: Node) -> None:
    """
    Read the bans, and let each reading thread connect and look up a token.

    Without it, the first look-up on a cold node takes longer than a handshake may
    wait when many clients connect at once. Never raises.
    """
    if node.database is None:
        return
    # The barrier keeps one thread from doing the look-ups of all.
    together = threading.Barrier(READERS)

    def look_up() -> None:
        together.wait(_SECONDS)
        verify_access_tokens(["nobody's"])

    try:
        async with deadline(_SECONDS):
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
