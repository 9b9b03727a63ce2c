"""Make the pool and the bus of a node."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from connections.config.fields import Problem
from connections.config.loader import WebSocketConfig
from connections.exceptions import ConfigError
from connections.pool.base import OnTaken, Pool, SharedPool
from connections.pool.choice import (
    PoolKind,
    choose_pool,
    find_choice_problem,
    get_listen_url,
    get_redis_url,
    is_in_redis,
)
from connections.pool.local import LocalPool
from connections.pool.outage import OutagePool
from connections.pool.parent import ParentLine, ParentPool
from connections.redis.encryption import find_keys_problem
from connections.redis.schemes import is_cluster_url
from connections.storage.database import Database

if TYPE_CHECKING:
    from connections.bus import Bus

__all__ = ["choose_pool", "find_choice_problem", "get_redis_url", "is_in_redis"]

_ALLOWED_URLS = (
    "redis://host:6379/0, rediss:// for TLS, unix:///path/of/the/socket,"
    " redis+sentinel://host:26379/0?service=name (rediss+sentinel:// for TLS), or"
    " redis+cluster://host-1:6379,host-2:6379 (rediss+cluster:// for TLS)"
)


def find_url_problem(redis_url: str | None) -> Problem | None:
    """Return why a REDIS_URL cannot be used, or None; never with its password."""
    if not redis_url:
        return None
    # A URL that may contain a password is not shown.
    is_secret = "@" in redis_url or "password" in redis_url
    shown = redis_url.partition("://")[0] + "://..." if is_secret else redis_url
    if not find_spec("redis"):
        return Problem("REDIS_URL", shown[:100], "it needs: pip install channels-redis")
    from connections.redis.clients import make_client

    try:
        make_client(redis_url, timeout_seconds=1)
    except ValueError:
        return Problem("REDIS_URL", shown[:100], _ALLOWED_URLS)
    return None


def find_redis_problems(redis_url: str | None) -> list[Problem]:
    """Return why REDIS_URL or REDIS_ENCRYPTION_KEYS cannot be used; no secrets."""
    found = (find_url_problem(redis_url), find_keys_problem())
    return [problem for problem in found if problem is not None]


def require_usable_pool(config: WebSocketConfig, redis_url: str | None) -> None:
    """
    Refuse to serve with settings of the pool that cannot be used.

    Raises:
        ConfigError: the key `pool`, the URL or the keys of Redis cannot be used.
    """
    problems = find_redis_problems(redis_url)
    if problems:
        raise ConfigError("the settings of Redis", problems)
    problem = find_choice_problem(config, redis_url)
    if problem is not None:
        raise ConfigError(config.source or "the configuration", [problem])


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


def make_shared(
    kind: PoolKind,
    config: WebSocketConfig,
    *,
    redis_url: str | None,
    node_id: str,
    on_taken: OnTaken,
    line: ParentLine | None = None,
) -> tuple[Pool, Bus | None]:
    """
    Return the pool of a node, and the bus that it starts and closes, if it has one.

    Raises:
        ValueError: the URL cannot be used.
    """
    if kind == "postgres":
        return make_postgres_pool(config, node_id=node_id, on_taken=on_taken)
    bus = make_bus(redis_url, node_id=node_id)
    pool = make_pool(config, redis_url=redis_url, bus=bus, on_taken=on_taken, line=line)
    return pool, bus


def make_bus(redis_url: str | None, *, node_id: str) -> Bus | None:
    """
    Return the bus of a node in Redis; None without a REDIS_URL.

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
    bus: Bus | None,
    on_taken: OnTaken,
    line: ParentLine | None = None,
) -> Pool:
    """
    Return the pool of a node in Redis; in memory without a REDIS_URL.

    on_taken is called on the event loop, between renewals, with slots that were
    taken away. A call may be missing; the next renewal then reports those slots.
    With a line the pool is that of the parent. The bus is started and closed with
    the pool.

    Raises:
        ValueError: the URL cannot be used.
    """
    max_total = config.max_total_connections
    evict_oldest = config.on_client_limit == "evict_oldest"
    shared: SharedPool
    if line is not None:
        shared = ParentPool(line, max_total=max_total, evict_oldest=evict_oldest)
    elif not redis_url or bus is None:
        return LocalPool(max_total=max_total, evict_oldest=evict_oldest)
    else:
        from connections.pool.redis import RedisPool
        from connections.pool.sharded import ShardedPool
        from connections.redis.bus import RedisBus

        if not isinstance(bus, RedisBus):
            raise TypeError("the pool in Redis needs a bus in Redis")
        kind = ShardedPool if is_cluster_url(redis_url) else RedisPool
        shared = kind(
            redis_url,
            bus=bus,
            max_total=max_total,
            lease_seconds=config.node.lease_seconds,
            evict_oldest=evict_oldest,
        )
    return _survive_outages(shared, config, on_taken)


def make_postgres_pool(
    config: WebSocketConfig, *, node_id: str, on_taken: OnTaken
) -> tuple[Pool, Bus]:
    """Return the pool and the bus of a node in PostgreSQL, as make_pool() does."""
    from connections.pool.postgres import PostgresPool
    from connections.postgres.bus import PostgresBus

    database = Database()
    bus = PostgresBus(database, node_id=node_id, listen_url=get_listen_url())
    shared = PostgresPool(
        database,
        node_id=node_id,
        bus=bus,
        max_total=config.max_total_connections,
        lease_seconds=config.node.lease_seconds,
        evict_oldest=config.on_client_limit == "evict_oldest",
    )
    return _survive_outages(shared, config, on_taken), bus


def _survive_outages(
    shared: SharedPool, config: WebSocketConfig, on_taken: OnTaken
) -> Pool:
    return OutagePool(
        shared,
        policy=config.on_pool_outage,
        max_total=config.max_total_connections,
        evict_oldest=config.on_client_limit == "evict_oldest",
        on_taken=on_taken,
    )
