"""Drain a node: announce `bye` to all clients at once, and close them spread out."""

import asyncio
import contextlib
import logging
import random
from functools import partial
from weakref import WeakSet

from connections import close_codes
from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.hub.connection import LiveConnection
from connections.hub.hub import Hub
from connections.node.extensions import NodeExtensions
from connections.pool.base import Pool
from connections.units import count_of

logger = logging.getLogger(__name__)

_CLIENTS_PER_SECOND = 10
"""The slowest rate at which a drain closes connections, however long the grace."""

_ENDING_MARGIN_SECONDS = 2
"""The end of the grace period, reserved for connections that do not leave."""

_CONNECTIONS_AT_ONCE = 100
"""Connections handled before the event loop runs other tasks."""


def get_window_seconds(count: int, grace_seconds: float) -> float:
    """Return the seconds over which a drain closes so many connections."""
    return min(
        max(grace_seconds - _ENDING_MARGIN_SECONDS, grace_seconds / 2),
        count / _CLIENTS_PER_SECOND,
    )


class Drain:
    """Drains one node, any number of times."""

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
        self._announced: WeakSet[LiveConnection] = WeakSet()

    def skip_grace(self) -> None:
        """Cut the grace period of the drain under way short."""
        self._skips_grace.set()

    async def run(self) -> None:
        """
        End every connection within the grace period; return when none is left.

        Every client gets `bye` now, and its slot is released, so that it can
        connect to another node first. Each connection is closed at the moment
        that its `bye` names, even if this call is cancelled or the node drained
        again. Connections that are left at the deadline are aborted.
        """
        grace_seconds = self._config.drain.grace_seconds
        leaving = [
            connection for connection in self._hub if connection not in self._announced
        ]
        random.shuffle(leaving)
        window_seconds = get_window_seconds(len(leaving), grace_seconds)
        logger.warning(
            "The node drains: %s to hand over within %g s; new ones are refused",
            count_of(len(leaving), "connection"),
            grace_seconds,
            extra={"event": "drain_started", "count": len(leaving)},
        )
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_seconds
        timers = []
        passes = self._hub.passes
        for index, connection in enumerate(leaving):
            after_seconds = window_seconds * (index + 1) / len(leaving)
            self._announced.add(connection)
            # First, so that a failure below cannot keep the connection open.
            timers.append(
                loop.call_later(after_seconds, connection.end, close_codes.DRAINING)
            )
            announce = partial(self._announce, after_ms=int(after_seconds * 1000))
            passes.attempt("The drain", announce, connection)
            if index % _CONNECTIONS_AT_ONCE == _CONNECTIONS_AT_ONCE - 1:
                await asyncio.sleep(0)
        await self._wait(max(0.0, ends_at - loop.time()))
        for timer in timers:
            timer.cancel()
        await self._abort_rest()

    def _announce(self, connection: LiveConnection, after_ms: int) -> None:
        """Release the slot of a connection, and send `bye` to its client."""
        connection.slot = None
        self._pool.release(connection.connection_id)
        connection.sender.announce(close_codes.DRAINING, after_ms)

    async def _wait(self, seconds: float) -> None:
        """Wait for the last connection and extension, the timeout or skip_grace()."""
        tasks = BackgroundTasks()
        emptied = tasks.start(self._extensions.drain(), "The drain of extensions")
        skipped = tasks.start(self._wait_for_skip(), "The end of the grace period")
        try:
            await asyncio.wait(
                (emptied, skipped),
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            tasks.cancel()

    async def _wait_for_skip(self) -> None:
        await self._skips_grace.wait()

    async def _abort_rest(self) -> None:
        """Abort the connections that are left, and wait briefly for their end."""
        for index, connection in enumerate(self._hub):
            self._hub.passes.attempt("The abort after a drain", _abort, connection)
            if index % _CONNECTIONS_AT_ONCE == _CONNECTIONS_AT_ONCE - 1:
                await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_MARGIN_SECONDS / 2):
                await self._hub.emptied.wait()


def _abort(connection: LiveConnection) -> None:
    connection.close_reason = connection.close_reason or close_codes.DRAINING
    connection.sender.abort()
