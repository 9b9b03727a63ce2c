"""The stores of a shared pool that a run breaks, each with its ways between."""

import contextlib
from typing import Protocol

from connections.pool.sharded import name_shards
from connections.testing import Proxy
from tests.integration.pgbouncer import PgBouncer
from tests.integration.redis_cluster import RedisCluster
from tests.integration.redis_process import RedisProcess
from tests.integration.services import PostgresProcess

_POOL_KEYS = ("leases", "slots", "ages", "clients", "suspects")
_POOL_TABLES = "connections_pool_slot, connections_pool_lease, connections_pool_state"


class Way:
    """The proxies between one node and the store, broken and mended together."""

    def __init__(self, *proxies: Proxy) -> None:
        self._proxies = proxies

    def __bool__(self) -> bool:
        """Return False if there is no proxy to break."""
        return bool(self._proxies)

    @property
    def loses_replies(self) -> bool:
        """True while what the store answers is lost."""
        return any(one.loses_replies for one in self._proxies)

    @loses_replies.setter
    def loses_replies(self, value: bool) -> None:
        for one in self._proxies:
            one.loses_replies = value

    def cut(self) -> None:
        """Hold all bytes back."""
        for one in self._proxies:
            one.cut()

    def mend(self) -> None:
        """Carry again."""
        for one in self._proxies:
            one.mend()

    def reset(self) -> None:
        """Reset all connections."""
        for one in self._proxies:
            one.reset()


class SharedStore(Protocol):
    """A server that holds the shared pool."""

    name: str
    """The beginning of its faults' names."""

    def pause(self) -> None:
        """Freeze it; its connections stay open."""

    def resume(self) -> None:
        """Continue it after pause()."""

    def kill(self) -> None:
        """Stop it at once."""

    def start(self) -> object:
        """Start it, and return when it answers."""

    def flush(self) -> None:
        """Lose all slots."""

    async def open_way(
        self, stack: contextlib.AsyncExitStack
    ) -> tuple[Way, dict[str, str]]:
        """Return a node's way to it, and the environment that makes a node take it."""

    def find_leaks(self) -> list[str]:
        """Return what the pool still holds."""


class RedisStore:
    """The pool in Redis."""

    name = "redis"

    def __init__(self, process: RedisProcess) -> None:
        self._process = process
        self.pause, self.resume = process.pause, process.resume
        self.kill, self.start = process.kill, process.start
        self.flush = process.flush

    async def open_way(
        self, stack: contextlib.AsyncExitStack
    ) -> tuple[Way, dict[str, str]]:
        proxy = await stack.enter_async_context(Proxy(self._process.port))
        return Way(proxy), {"REDIS_URL": proxy.url}

    def find_leaks(self) -> list[str]:
        with self._process.connect() as client:
            keys = [f"{{orchestra:pool}}:{name}" for name in _POOL_KEYS]
            return [key for key in keys if client.exists(key)]


class ClusterStore:
    """
    The pool in a Redis Cluster, whose primary with the total is broken.

    A cluster tells its clients the addresses of its nodes, so no proxy is between.
    """

    name = "cluster"

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self._broken = cluster.nodes[0]
        self.flush = cluster.flush

    def pause(self) -> None:
        self._broken = self._find_primary()
        self._broken.pause()

    def resume(self) -> None:
        self._broken.resume()

    def kill(self) -> None:
        self._broken = self._find_primary()
        self._broken.kill()

    def start(self) -> None:
        """Start it as a replica, once its replica has taken over."""
        self._cluster.wait_for_failover(self._broken)
        self._cluster.repair()

    async def open_way(
        self, stack: contextlib.AsyncExitStack
    ) -> tuple[Way, dict[str, str]]:
        return Way(), {"REDIS_URL": self._cluster.url}

    def find_leaks(self) -> list[str]:
        found = []
        for tag in name_shards("orchestra"):
            keys = [f"{{{tag}}}:{name}" for name in _POOL_KEYS]
            with self._cluster.find_primary(keys[0]).connect() as client:
                found += [key for key in keys if client.exists(key)]
        return found

    def _find_primary(self) -> RedisProcess:
        return self._cluster.find_primary("{orchestra:pool:total}:total")


class PostgresStore:
    """
    The pool in PostgreSQL, which holds everything else of the nodes as well.

    Each node reaches it through PgBouncer, and listens on a direct connection.
    """

    name = "postgres"

    def __init__(
        self, process: PostgresProcess, database: str, bouncer: PgBouncer
    ) -> None:
        self._process = process
        self._database = database
        self._bouncer = bouncer
        self.pause, self.resume = process.pause, process.resume
        self.kill, self.start = process.kill, process.start

    def flush(self) -> None:
        with self._process.connect(self._database) as connection:
            connection.execute(f"TRUNCATE {_POOL_TABLES}".encode())

    async def open_way(
        self, stack: contextlib.AsyncExitStack
    ) -> tuple[Way, dict[str, str]]:
        pooled = await stack.enter_async_context(Proxy(self._bouncer.port))
        direct = await stack.enter_async_context(Proxy(self._process.port))
        user = "postgres://orchestra@127.0.0.1"
        return Way(pooled, direct), {
            "DATABASE_URL": f"{user}:{pooled.port}/{self._database}",
            "DATABASE_LISTEN_URL": f"{user}:{direct.port}/{self._database}",
            "DATABASE_POOLED": "true",
        }

    def find_leaks(self) -> list[str]:
        query = "SELECT connection_id FROM connections_pool_slot WHERE taken_for = ''"
        with self._process.connect(self._database) as connection:
            return [str(one) for (one,) in connection.execute(query)]
