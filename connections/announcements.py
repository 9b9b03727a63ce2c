"""
Post close requests, which end connections on every node.

    post_close_requests(
        CloseRequest(target="user", value=str(user.pk), reason="logged_out")
    )

Every node applies them: a node of this process within milliseconds, other nodes
as fast where nodes share a pool, and otherwise on their next beat.
"""

import asyncio
import ipaddress
import json
import logging
import math
from collections.abc import Callable

from django.db import transaction

from connections.audit import record_ends
from connections.close_codes import CLOSE_REASONS, LOST, NETWORK
from connections.config.loader import get_config
from connections.models import CloseRequest
from connections.models.alias import atomic, get_alias
from connections.pool import choose_pool, get_redis_url, is_in_redis
from connections.postgres.messages import CHANNELS, notify

logger = logging.getLogger(__name__)

CLOSE_REQUESTS = "close_requests"
"""The kind of bus message that announces new close requests."""

MAY_RETURN = "asked_to_reconnect"
"""The reason (4202) after which a client reconnects at once and resumes."""

STAFF_REASONS = (
    "kicked",
    MAY_RETURN,
    "banned",
    "forbidden",
    "logged_out",
    "revoked",
    "deactivated",
)
"""The reasons that staff may choose; clients return only after MAY_RETURN."""

REAUTHORISE = "reauthorise"
"""The reason that makes nodes recheck connections instead of ending them all."""

FORGET = "forget"
"""The reason that kicks a person that is forgotten; nodes drop their counts of who
uses them."""

_REASONS = tuple(
    sorted(
        {
            word
            for word, close_reason in CLOSE_REASONS.items()
            if close_reason not in (LOST, NETWORK)
        }
        | {FORGET, REAUTHORISE}
    )
)
MOST_SPREAD_SECONDS = 3600

Listener = Callable[[], bool]
"""
Called in any thread for new close requests; must neither block nor raise.

Returns True if it forwards the announcement to other nodes.
"""

_listeners: set[Listener] = set()


def post_close_requests(*requests: CloseRequest) -> None:
    """
    Post close requests for connections of any node, from any thread or process.

    For synchronous code: views, admin actions, signal receivers, commands. An
    async caller uses database_sync_to_async() or a node's database.write().
    In a transaction the requests count from its commit.

    A request selects connections (`target`, `value`) and has a `reason` of
    close_codes.CLOSE_REASONS: after 4202 "asked_to_reconnect" clients return,
    after 4009 "kicked" they do not. It closes connections whose handshake began
    before the node received the request; later reconnects are unaffected. With
    `spread_seconds` the ends are spread over that time; with `idle_seconds` only
    connections that were idle for so long end. With the reason REAUTHORISE the
    nodes recheck the connections, and end those that may not stay.

    Raises:
        ValueError: a request is not valid; none was posted.
        django.db.Error: the requests were not written.
    """
    for request in requests:
        _check(request)
    with atomic():
        post_unrecorded(*requests)
        record_ends(requests)


def post_unrecorded(*requests: CloseRequest) -> None:
    """Post the close requests of an action that is in the audit stream already."""
    CloseRequest.objects.post(requests)
    if requests:
        announce()


def announce() -> None:
    """
    Make every node read close requests and bans now, not on its next beat.

    In a transaction it takes effect on the commit.
    """
    # The requests count without an announcement, which may fail.
    transaction.on_commit(_announce, using=get_alias(), robust=True)


def listen(listener: Listener) -> None:
    """Add a listener for the close requests that this process posts."""
    _listeners.add(listener)


def stop_listening(listener: Listener) -> None:
    """Remove a listener."""
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
        math.isfinite(spread_seconds) and 0 <= spread_seconds <= MOST_SPREAD_SECONDS
    ):
        raise ValueError(
            f"spread_seconds is {spread_seconds}, not a number from 0 to"
            f" {MOST_SPREAD_SECONDS}"
        )


def _announce() -> None:
    """Call the listeners; publish on the bus of the nodes if none of them does."""
    has_forwarded = [listener() for listener in tuple(_listeners)]
    if any(has_forwarded):
        return
    redis_url = get_redis_url()
    pool = choose_pool(get_config(), redis_url)
    if is_in_redis(pool) and redis_url:
        asyncio.run(_publish(redis_url))
    elif pool == "postgres":
        notify(f"{CHANNELS}all", [json.dumps({"kind": CLOSE_REQUESTS})])


async def _publish(redis_url: str) -> None:
    from connections.redis.bus import RedisBus

    bus = RedisBus(redis_url, node_id="none")
    try:
        await bus.publish(CLOSE_REQUESTS, {})
    finally:
        await bus.close()
