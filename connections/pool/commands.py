"""Run the scripts of the Redis pool."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import RedisCluster
from redis.commands.core import AsyncScript
from redis.exceptions import (
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)

from connections.exceptions import PoolUnavailable
from connections.redis.clients import (
    KEEPS_KEYS,
    ask,
    close_client,
    find_policy,
    make_client,
    make_cluster_client,
)
from connections.units import Clock

logger = logging.getLogger(__name__)

_SCRIPTS = Path(__file__).with_name("scripts")
_KEYS = ("leases", "slots", "ages", "clients", "tombs", "state", "suspects", "order")
_COMMANDS_AT_ONCE = 8


class PoolCommands:
    """
    The scripts of one pool in one Redis or Redis Cluster; a few run at once.

    A node of a cluster names the owner of the pool's keys in its first answer, and
    from then on a client of the cluster is used.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        first_arguments: Sequence[Any],
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self._url = url
        self._client = make_client(url, timeout_seconds=timeout_seconds)
        self._cluster: RedisCluster | None = None
        self._keys = [f"{{{prefix}:pool}}:{name}" for name in _KEYS]
        self._first_arguments = first_arguments
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._scripts = _load_scripts(self._client)
        self._gate = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self._failed_at = float("-inf")

    async def run(self, name: str, arguments: Sequence[Any]) -> Any:
        """
        Run a script.

        Raises:
            PoolUnavailable: no answer in time, or Redis refused to run it.
        """
        asked_at = self._clock()
        async with self._gate:
            if self._failed_at >= asked_at:
                # Another command failed while this one waited.
                raise PoolUnavailable("Redis did not answer in time")
            try:
                try:
                    return await self._ask(name, arguments)
                except MovedError:
                    self._use_cluster()
                except ReadOnlyError:
                    # After a fail-over behind one address, new connections reach
                    # the new master.
                    await self._client.connection_pool.disconnect()
                return await self._ask(name, arguments)
            except (
                *(RedisError, RedisClusterException, OSError),
                *(TimeoutError, ValueError),
            ) as exc:
                self._failed_at = self._clock()
                raise PoolUnavailable(
                    str(exc) or "Redis did not answer in time"
                ) from exc

    async def warn_of_eviction(self) -> None:
        """Log a warning if Redis may remove keys when its memory is full."""
        try:
            policy = await find_policy(self._client, self._timeout_seconds)
        except (RedisError, OSError, TimeoutError) as exc:
            logger.info(
                "The maxmemory-policy of Redis is unknown: %s",
                exc,
                extra={"event": "redis_policy_unknown"},
            )
            return
        if policy != KEEPS_KEYS:
            logger.warning(
                "The maxmemory-policy of Redis is %s: it may remove keys of the pool,"
                " which then recovers; set noeviction",
                policy,
                extra={"event": "redis_evicts"},
            )

    async def close(self) -> None:
        """Close the connections."""
        await close_client(self._client)
        if self._cluster is not None:
            await self._cluster.aclose()

    async def _ask(self, name: str, arguments: Sequence[Any]) -> Any:
        command = self._scripts[name](
            keys=self._keys, args=[*self._first_arguments, *arguments]
        )
        return await ask(command, self._timeout_seconds)

    def _use_cluster(self) -> None:
        if self._cluster is None:
            self._cluster = make_cluster_client(
                self._url, timeout_seconds=self._timeout_seconds
            )
            self._scripts = _load_scripts(self._cluster)
            logger.info(
                "REDIS_URL names a node of a Redis Cluster; the pool uses its client",
                extra={"event": "redis_cluster"},
            )


def _load_scripts(client: Any) -> dict[str, AsyncScript]:
    prelude = (_SCRIPTS / "prelude.lua").read_text()
    return {
        path.stem: client.register_script(prelude + path.read_text())
        for path in sorted(_SCRIPTS.glob("*.lua"))
        if path.stem != "prelude"
    }
