"""Two nodes that share a database and a Redis, and the leases of their pool."""

from collections.abc import Mapping

import redis

from connections.testing import LiveServer, Proxy, Servers
from tests.integration.redis_process import RedisProcess


def start_pair(
    servers: Servers,
    redis_process: RedisProcess,
    config: Mapping[str, object],
    proxy: Proxy | None = None,
) -> tuple[LiveServer, LiveServer]:
    """Start two nodes of one cluster; the first may see Redis through a proxy."""
    url = redis_process.url
    return servers.start_pair(
        config=dict(config),
        environment={"REDIS_URL": proxy.url if proxy else url},
        arguments=("--no-sweeper",),
        second={"environment": {"REDIS_URL": url}},
    )


def count_live(client: redis.Redis) -> int:
    """Return the number of live leases by the clock of Redis."""
    seconds, microseconds = client.time()
    now = f"({seconds * 1000 + microseconds // 1000}"
    return client.zcount("{orchestra:pool}:leases", now, "+inf")
