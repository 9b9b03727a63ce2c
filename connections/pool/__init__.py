"""Choose the pool of a node: its own memory, or Redis where REDIS_URL is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from connections.config.fields import Problem
from connections.config.loader import WebSocketConfig
from connections.exceptions import ConfigError
from connections.pool.base import OnTaken, Pool
from connections.pool.local import LocalPool
from connections.redis.encryption import find_keys_problem

if TYPE_CHECKING:
    from connections.redis.bus import RedisBus


_ALLOWED_URLS = (
    "redis://host:6379/0, rediss:// for TLS, unix:///path/of/the/socket, or"
    " redis+sentinel://host:26379/0?service=name (rediss+sentinel:// for TLS)"
)


def get_redis_url() -> str | None:
    """Return settings.REDIS_URL; without it there may be one node only."""
    return getattr(settings, "REDIS_URL", None) or None


def find_url_problem(redis_url: str | None) -> Problem | None:
    """Return why a REDIS_URL cannot be used, or None; never with its password."""
    if not redis_url:
        return None
    from connections.redis.clients import make_client

    try:
        make_client(redis_url, timeout_seconds=1)
    except ValueError:
        # A URL that may contain a password is not shown.
        is_secret = "@" in redis_url or "password" in redis_url
        shown = redis_url.partition("://")[0] + "://..." if is_secret else redis_url
        return Problem("REDIS_URL", shown[:100], _ALLOWED_URLS)
    return None


def find_redis_problems(redis_url: str | None) -> list[Problem]:
    """Return why REDIS_URL or REDIS_ENCRYPTION_KEYS cannot be used; no secrets."""
    found = (find_url_problem(redis_url), find_keys_problem())
    return [problem for problem in found if problem is not None]


def require_valid_redis(redis_url: str | None) -> None:
    """
    Refuse to serve with settings of Redis that cannot be used.

    Raises:
        ConfigError: the URL or the keys cannot be used.
    """
    problems = find_redis_problems(redis_url)
    if problems:
        raise ConfigError("the settings of Redis", problems)


async def read_policy(redis_url: str) -> str | None:
    """Return the maxmemory-policy of Redis; None if it does not answer."""
    from redis.exceptions import RedisError

    from connections.redis.clients import close_client, find_policy, make_client

    client = make_client(redis_url, timeout_seconds=1)
    try:
        return await find_policy(client, 1)
    except (RedisError, OSError, TimeoutError):
        return None
    finally:
        await close_client(client)


def make_bus(redis_url: str | None, *, node_id: str) -> RedisBus | None:
    """
    Return the bus of a node; None without a REDIS_URL.

    Raises:
        ValueError: the URL cannot be used.
    """
    if not redis_url:
        return None
    from connections.redis.bus import RedisBus

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

    on_taken is called on the event loop, between renewals, with slots that were
    taken away. A call may be missing; the next renewal then reports those slots.
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
