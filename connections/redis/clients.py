"""
Make Redis clients from a URL. Imported only if REDIS_URL is set.

redis://, rediss:// and unix:// are redis-py's own, with its options in the
query (`rediss://host/0?ssl_ca_certs=/etc/ca.pem`). Beside them, for Sentinel:
`redis+sentinel://user:password@host-1:26379,host-2:26379/0?service=mymaster`
(`rediss+sentinel://` for TLS); other options of the query go to the client. For a
Redis Cluster: redis+cluster://, in cluster.py.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from connections.deadline import deadline
from connections.redis.cluster import (
    HOST_SECONDS,
    make_node_options,
    make_whole_client,
)
from connections.redis.schemes import is_cluster_url

_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_SENTINEL_PORT = 26379

_CONNECT_FACTOR = 3
"""The time to connect, in timeouts of a command: ask() gives up first."""

KEEPS_KEYS = "noeviction"
"""The maxmemory-policy under which Redis removes no key."""

Answer = TypeVar("Answer")


def make_timeouts(timeout_seconds: float) -> dict[str, Any]:
    """
    Return the timeouts of a client whose commands pass ask().

    redis-py has none for replies, because it would give up on a reply that arrived
    while the event loop stood still.
    """
    return {
        "socket_timeout": None,
        "socket_connect_timeout": _CONNECT_FACTOR * timeout_seconds,
    }


def make_client(url: str, *, timeout_seconds: float, **options: Any) -> Redis:
    """
    Return a client for commands that pass ask().

    A broken connection is reopened once, at once, so a command may be sent twice and
    must be idempotent. Options in the URL take precedence.

    Raises:
        ValueError: the URL cannot be used; its password is not in the text.
    """
    options = {
        **make_timeouts(timeout_seconds),
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "decode_responses": True,
        **options,
    }
    if is_cluster_url(url):
        options |= make_node_options(url)
        return Redis.from_pool(ConnectionPool(**options))
    scheme = urlsplit(url).scheme
    if scheme not in _SENTINEL_SCHEMES:
        client: Redis = Redis.from_url(url, **options)
        return client
    host = parse_sentinel_url(url)
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        host.pop("sentinels"), sentinel_kwargs=host["sentinel_kwargs"]
    )
    del host["sentinel_kwargs"]
    master: Redis = sentinel.master_for(host.pop("master_name"), **options, **host)
    return master


def make_cluster_client(url: str, *, timeout_seconds: float) -> RedisCluster:
    """
    Return a client of the Redis Cluster that a URL names, or a node of which.

    Raises:
        ValueError: the URL names a Sentinel, or cannot be used.
    """
    options: dict[str, Any] = {
        **make_timeouts(timeout_seconds),
        "retry": Retry(NoBackoff(), 1),
        "decode_responses": True,
    }
    if is_cluster_url(url):
        return make_whole_client(url, **options)
    if urlsplit(url).scheme in _SENTINEL_SCHEMES:
        raise ValueError("a node of a Redis Cluster has no Sentinel")
    return RedisCluster.from_url(url, **options)


async def find_policy(client: Redis | RedisCluster, timeout_seconds: float) -> str:
    """
    Return what Redis does with its keys when its memory is full.

    Raises:
        RedisError, OSError, TimeoutError: Redis did not answer, or may not say it.
    """
    memory: dict[str, Any] = await ask(client.info("memory"), timeout_seconds)
    return str(memory.get("maxmemory_policy", KEEPS_KEYS))


async def close_client(client: Redis) -> None:
    """Close a client's connections, to the sentinels as well."""
    await client.aclose()
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager else ():
        await sentinel.aclose()


def make_layer_host(url: str, **options: Any) -> dict[str, Any]:
    """
    Return a URL as an item of channels-redis's `hosts`.

    Raises:
        ValueError: the URL cannot be used.
    """
    if is_cluster_url(url):
        return {**options, **make_node_options(url)}
    if urlsplit(url).scheme in _SENTINEL_SCHEMES:
        return {**options, **parse_sentinel_url(url)}
    return {**options, "address": url}


def parse_sentinel_url(url: str) -> dict[str, Any]:
    """
    Return the options of a redis+sentinel:// URL, as redis-py names them.

    User and password are those of the master and of the sentinels.

    Raises:
        ValueError: no `service` is named, or a host or port is malformed.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    scheme = _SENTINEL_SCHEMES[parts.scheme]
    # redis-py reads the rest of the URL, so that options mean the same.
    found = parse_url(f"{scheme}://localhost{parts.path}?{parts.query}")
    options: dict[str, Any] = {**found}
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    service = options.pop("service", None)
    if not service:
        raise ValueError("a redis+sentinel:// URL needs ?service=<name of the master>")
    access: dict[str, Any] = {"ssl": True} if scheme == "rediss" else {}
    if credentials:
        user, _, password = credentials.partition(":")
        access |= {"username": unquote(user) or None, "password": unquote(password)}
    return {
        **options,
        **access,
        "master_name": service,
        "sentinels": [_parse_address(address) for address in hosts.split(",")],
        "sentinel_kwargs": {
            **access,
            "socket_timeout": HOST_SECONDS,
            "socket_connect_timeout": HOST_SECONDS,
            # By default redis-py asks a dead sentinel again for seconds, and a
            # command that gives up meanwhile never comes to the next one.
            "retry": Retry(NoBackoff(), 0),
        },
    }


def _parse_address(address: str) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise ValueError(f"{address!r} is no host of a sentinel")
    return parts.hostname, parts.port or _SENTINEL_PORT


async def ask(command: Awaitable[Answer], timeout_seconds: float) -> Answer:
    """
    Await a reply of Redis.

    redis-py 8.1 swallows a cancellation that arrives together with the reply, and
    the cancelled task would run on. This function raises it.

    Raises:
        TimeoutError: no reply in time; whether the command took effect is unknown.
        RedisError, OSError: as redis-py does.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    async with deadline(timeout_seconds):
        answer = await command
    if task and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError
    return answer
