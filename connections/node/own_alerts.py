"""Watch the pool and the database of one node, and report a full or lost one."""

import os
import socket
from collections.abc import Awaitable, Callable

from connections.alerts import database_down
from connections.config.loader import WebSocketConfig
from connections.hub.hub import Hub
from connections.metrics.meter import Meter
from connections.node import full_pool
from connections.node.periodic import PeriodicWork
from connections.pool.base import Pool, Usage
from connections.storage.database import Database
from connections.units import Clock

_SLOW_SECONDS = 10
"""The interval by which these steps are judged: one may wait for a write."""


class OwnAlerts:
    """The two watches of one node; one without a database watches its pool alone."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        hub: Hub,
        meter: Meter,
        pool: Pool,
        is_pool_in_database: bool,
        get_usage: Callable[[], Usage | None],
        read_usage: Callable[[], Awaitable[Usage]],
        database: Database | None,
        clock: Clock,
    ) -> None:
        self.full_pool = full_pool.FullPool(
            hub=hub,
            meter=meter,
            get_usage=get_usage,
            read_usage=read_usage,
            is_shared=pool.is_shared,
            clock=clock,
        )
        self._pool = pool
        self._is_pool_in_database = is_pool_in_database
        self._is_pool_covered = False
        self.database_down: database_down.DatabaseDownAlert | None = None
        if database is not None:
            self.database_down = database_down.DatabaseDownAlert(
                config,
                place=f"{socket.gethostname()}:{os.getpid()}",
                database=database,
                clock=clock,
            )

    def start(self, periodic: PeriodicWork) -> None:
        """Begin to watch."""
        periodic.start(
            "The watch of the pool", self.full_pool.poll, full_pool.POLL_SECONDS
        )
        if self.database_down is not None:
            periodic.start(
                "The watch of the database",
                self.database_down.poll,
                database_down.POLL_SECONDS,
                expected_seconds=_SLOW_SECONDS,
            )

    def covers_pool(self) -> bool:
        """
        Return True if the alert of the database covers the outage of the pool.

        That holds until the pool is back, which may be a moment after the database.
        """
        alert = self.database_down.alert if self.database_down is not None else None
        self._is_pool_covered = (
            self._is_pool_in_database
            and self._pool.is_degraded
            and (self._is_pool_covered or alert is not None)
        )
        return self._is_pool_covered

    async def stop(self) -> None:
        """Cancel the mail under way."""
        if self.database_down is not None:
            await self.database_down.stop()
