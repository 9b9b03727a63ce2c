"""Run the scripts of the Redis pool."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from connections.exceptions import PoolUnavailable
from connections.redis.clients import ask, close_client, make_client
from connections.units import Clock

_SCRIPTS = Path(__file__).with_name("scripts")
_KEYS = ("leases", "slots", "ages", "clients", "tombs", "state", "suspects", "order")
_COMMANDS_AT_ONCE = 8


class PoolCommands:
    """The scripts of one pool in one Redis; a few run at once."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        first_arguments: Sequence[Any],
        timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self._client = make_client(url, timeout_seconds=timeout_seconds)
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
                command = self._scripts[name](
                    keys=self._keys, args=[*self._first_arguments, *arguments]
                )
                return await ask(command, self._timeout_seconds)
            except (RedisError, OSError, TimeoutError) as exc:
                self._failed_at = self._clock()
                raise PoolUnavailable(
                    str(exc) or "Redis did not answer in time"
                ) from exc

    async def close(self) -> None:
        """Close the connections."""
        await close_client(self._client)


def _load_scripts(client: Any) -> dict[str, AsyncScript]:
    prelude = (_SCRIPTS / "prelude.lua").read_text()
    return {
        path.stem: client.register_script(prelude + path.read_text())
        for path in sorted(_SCRIPTS.glob("*.lua"))
        if path.stem != "prelude"
    }
