"""Which pool a node uses: its own memory, or Redis where REDIS_URL is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from connections.config import WebSocketConfig
from connections.pool.base import OnTaken, Pool
from connections.pool.local import LocalPool

if TYPE_CHECKING:
    from connections.bus import RedisBus


def get_redis_url() -> str | None:
    """Return settings.REDIS_URL; without it this is the only node."""
    return getattr(settings, "REDIS_URL", None) or None


def make_bus(redis_url: str | None, *, node_id: str) -> RedisBus | None:
    """
    Return the bus of a node; None where it is the only one.

    Raises:
        ValueError: the URL cannot be used.
    """
    if not redis_url:
        return None
    from connections.bus import RedisBus

    return RedisBus(redis_url, node_id=node_id)


def make_pool(
    config: WebSocketConfig,
    *,
    redis_url: str | None,
    bus: RedisBus | None,
    on_taken: OnTaken,
) -> Pool:
    """
    Return the pool of a node.

    on_taken is called on the event loop, between renewals, with slots that
    others took away; the next renewal reports what such a call may have missed.
    The bus is started and closed with the pool.

    Raises:
        ValueError: the URL cannot be used.
    """
    max_total = config.max_total_connections
    evict_oldest = config.on_client_limit == "evict_oldest"
    if not redis_url or bus is None:
        return LocalPool(max_total=max_total, evict_oldest=evict_oldest)
    from connections.pool.outage import OutagePool
    from connections.pool.redis import RedisPool

    shared = RedisPool(
        redis_url,
        bus=bus,
        max_total=max_total,
        lease_seconds=config.node.lease_seconds,
        evict_oldest=evict_oldest,
    )
    return OutagePool(
        shared,
        policy=config.on_pool_outage,
        max_total=max_total,
        evict_oldest=evict_oldest,
        on_taken=on_taken,
    )
