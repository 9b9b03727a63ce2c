"""Run the Lua scripts of one folder in Redis or in a Redis Cluster."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.commands.core import AsyncScript
from redis.exceptions import (
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)

from connections.exceptions import RedisUnavailable
from connections.redis.clients import (
    ask,
    close_client,
    make_client,
    make_cluster_client,
)
from connections.redis.schemes import is_cluster_url
from connections.units import Clock

logger = logging.getLogger(__name__)

_COMMANDS_AT_ONCE = 8


class RedisScripts:
    """
    The scripts of one folder, each after its prelude.lua; a few run at once.

    A node of a cluster names the owner of the keys in its first answer, and from
    then on a client of the cluster is used.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        keys: Sequence[str],
        first_arguments: Sequence[Any],
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self.client: Redis = make_client(url, timeout_seconds=timeout_seconds)
        self._url = url
        self._folder = folder
        self._cluster: RedisCluster | None = None
        self._keys = keys
        self._first_arguments = first_arguments
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._scripts = _load_scripts(self.client, folder)
        if is_cluster_url(url):
            self._use_cluster()
        self._gate = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self._failed_at = float("-inf")

    async def run(self, name: str, arguments: Sequence[Any]) -> Any:
        """
        Run a script.

        Raises:
            RedisUnavailable: no answer in time, or Redis refused to run it.
        """
        asked_at = self._clock()
        async with self._gate:
            if self._failed_at >= asked_at:
                # Another command failed while this one waited.
                raise RedisUnavailable("Redis did not answer in time")
            try:
                try:
                    return await self._ask(name, arguments)
                except MovedError:
                    self._use_cluster()
                    logger.info(
                        "REDIS_URL names a node of a Redis Cluster; a client of it is"
                        " used",
                        extra={"event": "redis_cluster"},
                    )
                except ReadOnlyError:
                    # After a fail-over behind one address, new connections reach
                    # the new master.
                    await self.client.connection_pool.disconnect()
                return await self._ask(name, arguments)
            except (
                *(RedisError, RedisClusterException, OSError),
                *(TimeoutError, ValueError),
            ) as exc:
                self._failed_at = self._clock()
                raise RedisUnavailable(
                    str(exc) or "Redis did not answer in time"
                ) from exc

    async def close(self) -> None:
        """Close the connections."""
        await close_client(self.client)
        if self._cluster is not None:
            await self._cluster.aclose()

    async def _ask(self, name: str, arguments: Sequence[Any]) -> Any:
        command = self._scripts[name](
            keys=self._keys, args=[*self._first_arguments, *arguments]
        )
        try:
            return await ask(command, self._timeout_seconds)
        except TimeoutError:
            if self._cluster is not None:
                # Another node may have taken over from one that is silent. redis-py
                # learns it before the next command; by itself only after an error.
                await self._cluster.aclose()
            raise

    def _use_cluster(self) -> None:
        if self._cluster is None:
            self._cluster = make_cluster_client(
                self._url, timeout_seconds=self._timeout_seconds
            )
            self._scripts = _load_scripts(self._cluster, self._folder)


def _load_scripts(client: Any, folder: Path) -> dict[str, AsyncScript]:
    prelude = (folder / "prelude.lua").read_text()
    return {
        path.stem: client.register_script(prelude + path.read_text())
        for path in sorted(folder.glob("*.lua"))
        if path.stem != "prelude"
    }
