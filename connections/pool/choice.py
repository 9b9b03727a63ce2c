"""Choose the pool of a node by the configuration and Django's settings."""

from importlib.util import find_spec

from django.apps import apps
from django.conf import settings

from connections.config.fields import Problem
from connections.config.loader import WebSocketConfig
from connections.models.alias import get_connection
from connections.pool.parent import name_pool
from connections.redis.schemes import is_cluster_url
from connections.storage.in_test import is_testing

PoolKind = str
"""
`memory`, `postgres`, `redis`, `cluster` (shards in a Redis Cluster), or the name of
the pool of workers and their parent.
"""


def is_in_redis(kind: PoolKind) -> bool:
    """Return True if a pool is in Redis, of one server or a cluster."""
    return kind in ("redis", "cluster")


def get_redis_url() -> str | None:
    """Return settings.REDIS_URL, or None."""
    return getattr(settings, "REDIS_URL", None) or None


def get_listen_url() -> str:
    """Return settings.DATABASE_LISTEN_URL, or an empty text."""
    return getattr(settings, "DATABASE_LISTEN_URL", None) or ""


def choose_pool(
    config: WebSocketConfig, redis_url: str | None, *, has_database: bool = True
) -> PoolKind:
    """
    Return the pool that the key `pool` means for a node.

    A node without a database has its slots in memory unless it has a Redis. A worker
    has them in the memory of its parent instead. In a test of Django, auto is never
    PostgreSQL: tests may roll back, and a database with open connections cannot be
    dropped.
    """
    is_postgres = has_database and get_connection().vendor == "postgresql"
    if config.pool != "auto" and has_database:
        kind = config.pool
    elif redis_url:
        kind = "redis"
    else:
        kind = "postgres" if is_postgres and not is_testing() else "memory"
    if kind == "redis" and redis_url and is_cluster_url(redis_url):
        return "cluster"
    parent = name_pool() if has_database else None
    return parent if kind == "memory" and parent is not None else kind


def find_choice_problem(
    config: WebSocketConfig, redis_url: str | None
) -> Problem | None:
    """Return why the key `pool` cannot be followed, or None."""
    needed = ""
    if config.pool == "redis" and not redis_url:
        needed = "redis needs REDIS_URL in settings"
    elif not apps.is_installed("connections"):
        pass  # A node without a database has its slots in memory or in Redis.
    elif config.pool == "postgres" and get_connection().vendor != "postgresql":
        needed = "postgres needs PostgreSQL in DATABASES"
    elif choose_pool(config, redis_url) == "postgres" and not find_spec("psycopg"):
        needed = (
            "on PostgreSQL it needs psycopg 3: pip install 'psycopg[binary]';"
            " with psycopg2 write memory, which limits each process by itself"
        )
    return Problem("websocket.pool", config.pool, needed) if needed else None
