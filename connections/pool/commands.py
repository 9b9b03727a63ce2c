"""Run the scripts of a pool, or of one of its shards, in Redis."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from connections.exceptions import PoolUnavailable, RedisUnavailable
from connections.redis.clients import KEEPS_KEYS, find_policy
from connections.redis.scripts import RedisScripts
from connections.units import Clock

logger = logging.getLogger(__name__)

_SCRIPTS = Path(__file__).with_name("scripts")
KEYS = ("leases", "slots", "ages", "clients", "tombs", "state", "suspects", "order")
SHARD_KEYS = (*KEYS, "budget")
TOTAL_KEYS = ("total",)


class PoolCommands:
    """The scripts of one pool, shard or total; their keys share a hash tag."""

    def __init__(
        self,
        url: str,
        *,
        tag: str,
        keys: Sequence[str] = KEYS,
        first_arguments: Sequence[Any],
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._scripts = RedisScripts(
            url,
            _SCRIPTS / "total" if keys is TOTAL_KEYS else _SCRIPTS,
            keys=[f"{{{tag}}}:{name}" for name in keys],
            first_arguments=first_arguments,
            timeout_seconds=timeout_seconds,
            clock=clock,
        )

    async def run(self, name: str, arguments: Sequence[Any]) -> Any:
        """
        Run a script.

        Raises:
            PoolUnavailable: no answer in time, or Redis refused to run it.
        """
        try:
            return await self._scripts.run(name, arguments)
        except RedisUnavailable as exc:
            raise PoolUnavailable(str(exc)) from exc

    async def warn_of_eviction(self) -> None:
        """Log a warning if Redis may remove keys when its memory is full."""
        try:
            policy = await find_policy(self._scripts.client, self._timeout_seconds)
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
        await self._scripts.close()
