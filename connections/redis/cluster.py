"""
Make clients of a Redis Cluster from a URL. Imported only if REDIS_URL is set.

`redis+cluster://user:password@host-1:6379,host-2:6379` (`rediss+cluster://` for TLS)
names some nodes of the cluster; options of the query go to the client.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Connection, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url

from connections.deadline import deadline
from connections.redis.schemes import CLUSTER_SCHEMES

_PORT = 6379

HOST_SECONDS = 0.3
"""How long one of several hosts may take, so that the next is asked before a command
fails."""

Address = tuple[str, int]


def parse_cluster_url(url: str) -> tuple[list[Address], dict[str, Any]]:
    """
    Return the nodes of a redis+cluster:// URL, and options as redis-py names them.

    Raises:
        ValueError: a host or port is malformed, or the database is not 0.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    scheme = CLUSTER_SCHEMES[parts.scheme]
    # redis-py reads the rest of the URL, so that options mean the same.
    options: dict[str, Any] = {
        **parse_url(f"{scheme}://localhost{parts.path}?{parts.query}")
    }
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    if options.pop("db", 0):
        raise ValueError("a Redis Cluster has no database but 0")
    if credentials:
        user, _, password = credentials.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    return [_parse_address(address) for address in hosts.split(",")], options


def make_node_options(url: str) -> dict[str, Any]:
    """
    Return the options of a pool of connections to any node that a URL names.

    Messages of pub/sub reach every node of a cluster, so that one node will do.

    Raises:
        ValueError: the URL cannot be used.
    """
    nodes, options = parse_cluster_url(url)
    is_tls = CLUSTER_SCHEMES[urlsplit(url).scheme] == "rediss"
    kind = _NodeTlsConnection if is_tls else _NodeConnection
    return {**options, "connection_class": kind, "nodes": nodes}


def make_whole_client(url: str, **options: Any) -> RedisCluster:
    """
    Return a client that follows each key to its node.

    Raises:
        ValueError: the URL cannot be used.
    """
    nodes, own = parse_cluster_url(url)
    is_tls = CLUSTER_SCHEMES[urlsplit(url).scheme] == "rediss"
    known = [ClusterNode(host, port) for host, port in nodes]
    return RedisCluster(
        startup_nodes=known, **{**({"ssl": True} if is_tls else {}), **options, **own}
    )


class _AnyNode:
    """Opens a connection to one of several nodes, and to another if it is away."""

    def __init__(self, *, nodes: Sequence[Address], **options: Any) -> None:
        super().__init__(**options)
        self._nodes = nodes

    async def _connect(self) -> None:
        *others, last = random.sample(self._nodes, len(self._nodes))
        for self.host, self.port in others:
            with suppress(OSError, TimeoutError):
                async with deadline(HOST_SECONDS):
                    await super()._connect()  # type: ignore[misc] # Of the other base.
                return
        self.host, self.port = last
        await super()._connect()  # type: ignore[misc]


class _NodeConnection(_AnyNode, Connection):
    """A connection to any node of a cluster."""


class _NodeTlsConnection(_AnyNode, SSLConnection):
    """A connection to any node of a cluster, with TLS."""


def _parse_address(address: str) -> Address:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise ValueError(f"{address!r} is no node of a cluster")
    return parts.hostname, parts.port or _PORT
