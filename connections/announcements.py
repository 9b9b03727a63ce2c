"""
The way to end connections from anywhere: close requests, posted and announced.

    post_close_requests(
        CloseRequest(target="user", value=str(user.pk), reason="logged_out")
    )

Every node applies them, those of this process within milliseconds, the others
as fast where REDIS_URL is set, and all of them on their next beat whatever was
lost on the way.
"""

import asyncio
import ipaddress
import logging
import math
from collections.abc import Callable

from django.db import transaction

from connections.close_codes import CLOSE_REASONS, LOST, NETWORK
from connections.models import CloseRequest
from connections.pool import get_redis_url

logger = logging.getLogger(__name__)

CLOSE_REQUESTS = "close_requests"
"""The kind of message on the bus that says: there are new ones, look."""

MAY_RETURN = "asked_to_reconnect"
"""The reason (4202) with which a client connects again at once, and resumes."""

STAFF_REASONS = (
    "kicked",
    MAY_RETURN,
    "banned",
    "forbidden",
    "logged_out",
    "revoked",
    "deactivated",
)
"""What staff may give as the reason of a close; after all but one nobody returns."""

REAUTHORISE = "reauthorise"
"""The reason that asks the nodes to look who may stay, and to end the others."""

_REASONS = tuple(
    sorted(
        {
            word
            for word, close_reason in CLOSE_REASONS.items()
            if close_reason not in (LOST, NETWORK)
        }
        | {REAUTHORISE}
    )
)
_MOST_SPREAD_SECONDS = 3600

Listener = Callable[[], bool]
"""
Told, in any thread, of new close requests; must neither wait nor raise.

Returns whether it passes the word on to other nodes.
"""

_listeners: set[Listener] = set()


def post_close_requests(*requests: CloseRequest) -> None:
    """
    Have connections ended, wherever they are; any thread or process may ask.

    For synchronous code: views, admin actions, signal receivers, commands. An
    async caller uses database_sync_to_async() or a node's database.write().
    In a transaction it takes effect on its commit, and not at all if it is
    rolled back.

    A request names whom it means (`target`, `value`) and why (`reason`, one of
    close_codes.CLOSE_REASONS: 4202 "asked_to_reconnect" brings clients back, 4009
    "kicked" does not). Ended are the connections whose handshake had begun
    when a node heard of it; who returns afterwards may stay. With
    `spread_seconds` each connection ends at a moment of its own within that
    time, so that not all return at once; with `idle_seconds` only what its node
    itself saw idle for so long. With the reason REAUTHORISE those end, each for
    its own reason, whose right the database denies.

    Raises:
        ValueError: a request makes no sense; nothing was posted.
        django.db.Error: they could not be written.
    """
    for request in requests:
        _check(request)
    CloseRequest.objects.post(requests)
    if requests:
        announce()


def announce() -> None:
    """
    Have every node look at the database for what concerns its connections, now.

    It looks on its next beat in any case. In a transaction the word goes out
    on the commit.
    """
    # What is written counts, announced or not.
    transaction.on_commit(_announce, robust=True)


def listen(listener: Listener) -> None:
    """Have a listener told of the close requests that this process posts."""
    _listeners.add(listener)


def stop_listening(listener: Listener) -> None:
    """Tell a listener nothing more."""
    _listeners.discard(listener)


def _check(request: CloseRequest) -> None:
    if request.target not in CloseRequest.Target.values:
        allowed = ", ".join(CloseRequest.Target.values)
        raise ValueError(f"target is {request.target!r}, not one of {allowed}")
    if request.reason not in _REASONS:
        raise ValueError(
            f"reason is {request.reason!r}, not one of {', '.join(_REASONS)}"
        )
    if not request.value and request.target != CloseRequest.Target.ALL:
        raise ValueError(f"value is empty: which {request.target} is meant?")
    if request.target == CloseRequest.Target.ADDRESS:
        ipaddress.ip_network(request.value, strict=False)
    spread_seconds = request.spread_seconds
    if not (
        math.isfinite(spread_seconds) and 0 <= spread_seconds <= _MOST_SPREAD_SECONDS
    ):
        raise ValueError(
            f"spread_seconds is {spread_seconds}, not a number from 0 to"
            f" {_MOST_SPREAD_SECONDS}"
        )


def _announce() -> None:
    """Tell the nodes of this process, and through one of them or ourselves all."""
    told = [listener() for listener in tuple(_listeners)]
    redis_url = get_redis_url()
    if redis_url and not any(told):
        asyncio.run(_tell_others(redis_url))


async def _tell_others(redis_url: str) -> None:
    from connections.redis.bus import RedisBus

    bus = RedisBus(redis_url, node_id="none")
    try:
        await bus.publish(CLOSE_REQUESTS, {})
    finally:
        await bus.close()
