"""How a node hands its clients over: told at once, closed in turn."""

import asyncio
import contextlib
import random
from weakref import WeakSet

from connections import close_codes
from connections.config.loader import WebSocketConfig
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.node.extensions import NodeExtensions
from connections.pool.base import Pool

_CLIENTS_PER_SECOND = 10
"""A drain hands clients over no slower than this, however long the grace is."""

_ENDING_MARGIN_SECONDS = 2
"""The last part of the grace period, kept for connections that do not leave."""

_TOLD_AT_ONCE = 100
"""Then the others of the loop have a turn: thousands at once would stop it."""


class Drain:
    """The drain of one node, as often as it is drained."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        hub: Hub,
        pool: Pool,
        extensions: NodeExtensions,
    ) -> None:
        self._config = config
        self._extensions = extensions
        self._hub = hub
        self._pool = pool
        self._skips_grace = asyncio.Event()
        self._told: WeakSet[LiveConnection] = WeakSet()

    def skip_grace(self) -> None:
        """End the one that is under way at once."""
        self._skips_grace.set()

    async def run(self) -> None:
        """
        Let every client go within the grace period; return when all are gone.

        All get `bye` now and their slots stop counting, so that a client may
        connect elsewhere first. Each is closed at the moment its `bye` names,
        even if this is cancelled, or the node drained once more. What has not
        left at the deadline is aborted.
        """
        grace_seconds = self._config.drain.grace_seconds
        leaving = [
            connection for connection in self._hub if connection not in self._told
        ]
        random.shuffle(leaving)
        window_seconds = min(
            max(grace_seconds - _ENDING_MARGIN_SECONDS, grace_seconds / 2),
            len(leaving) / _CLIENTS_PER_SECOND,
        )
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_seconds
        timers = []
        for index, connection in enumerate(leaving):
            after_seconds = window_seconds * (index + 1) / len(leaving)
            self._told.add(connection)
            connection.sender.announce(close_codes.DRAINING, int(after_seconds * 1000))
            connection.slot = None
            self._pool.release(connection.connection_id)
            timers.append(
                loop.call_later(after_seconds, connection.end, close_codes.DRAINING)
            )
            if index % _TOLD_AT_ONCE == _TOLD_AT_ONCE - 1:
                await asyncio.sleep(0)
        await self._wait(max(0.0, ends_at - loop.time()))
        for timer in timers:
            timer.cancel()
        await self._abort_rest()

    async def _wait(self, seconds: float) -> None:
        """Wait until nobody is left and no work, for so long, or told to skip it."""
        emptied = asyncio.create_task(self._extensions.drain())
        skipped = asyncio.create_task(self._skips_grace.wait())
        try:
            await asyncio.wait(
                (emptied, skipped),
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            emptied.cancel()
            skipped.cancel()

    async def _abort_rest(self) -> None:
        """Abort what is still here, and give it a moment to notice."""
        for index, connection in enumerate(self._hub):
            connection.close_reason = connection.close_reason or close_codes.DRAINING
            connection.sender.abort()
            if index % _TOLD_AT_ONCE == _TOLD_AT_ONCE - 1:
                await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_MARGIN_SECONDS / 2):
                await self._hub.emptied.wait()
