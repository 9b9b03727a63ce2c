"""Write a node's row in the database with each beat."""

import os
import socket
from typing import Any

from django.utils import timezone

from connections.metrics.meter import Meter
from connections.models import Node
from connections.models.clock import Now
from connections.node.recorder import Recorder
from connections.pool.base import Usage
from connections.storage.database import Database
from connections.storage.text import clean
from connections.version import VERSION


class NodeRow:
    """
    The row of one node; each beat writes the columns that change.

    A node whose row was marked as lost starts a new generation.
    """

    def __init__(self, *, node_id: str, pool: str, database: Database) -> None:
        self._node_id = node_id
        self._pool = pool
        self._database = database
        self._started_at = timezone.now()
        self._generation = 1
        self._is_written = False

    async def beat(self, columns: dict[str, Any]) -> bool:
        """
        Advance the row's counter; return False if the row had to be created anew.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        if await self._database.write(self._advance, columns):
            return True
        # There is no row before the first beat. Later, the row was marked as lost or
        # pruned, and the node returns with a new generation.
        self._generation += self._is_written
        await self._database.write(self._write, columns)
        self._is_written = True
        return False

    async def stop(self, columns: dict[str, Any]) -> None:
        """
        Record that the node has stopped.

        Raises:
            DatabaseUnavailable: the database did not answer.
        """
        stopped = {"state": Node.State.STOPPED, "stopped_at": Now()}
        await self._database.write(self._write, columns | stopped)

    def _advance(self, columns: dict[str, Any]) -> bool:
        """Return whether there was a live row of this generation to advance."""
        own = Node.objects.live().filter(
            node_id=self._node_id, generation=self._generation
        )
        return bool(own.beat(**columns))

    def make(self, columns: dict[str, Any]) -> Node:
        """Return the row without writing it; it has beaten now."""
        fixed = self._describe_process()
        return Node(
            node_id=self._node_id, **{**fixed, "beat_at": timezone.now(), **columns}
        )

    def _write(self, columns: dict[str, Any]) -> None:
        Node.objects.update_or_create(
            node_id=self._node_id,
            defaults={**self._describe_process(), "beat_at": Now(), **columns},
        )

    def _describe_process(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": VERSION,
            "pool": self._pool,
            "generation": self._generation,
            "started_at": self._started_at,
            "stopped_at": None,
        }


def describe_node(
    *,
    is_draining: bool,
    open_connections: int,
    degraded_reason: str | None,
    usage: Usage | None,
    meter: Meter,
    recorder: Recorder | None,
    leak_suspects: int,
    overdue_steps: list[str],
    full_pool: str,
    is_pool_covered: bool,
    observed: str,
    presence: dict[str, Any],
) -> dict[str, Any]:
    """Return the columns of a node's row that each beat writes."""
    latest = meter.latest
    counters = latest["counters"] | {
        "leak_suspects": leak_suspects,
        "overdue_steps": overdue_steps,
        "pool_full": full_pool,
        "pool_lost_with_database": is_pool_covered,
        "observed": observed,
        **presence,
    }
    if recorder is not None:
        counters["recorder_pending"] = recorder.pending
        counters["recorder_lag_seconds"] = round(recorder.lag_seconds, 1)
    if usage is not None:
        counters["pool_slots"] = usage.slots
        counters["pool_limit"] = usage.limit
    return latest | {
        "state": Node.State.DRAINING if is_draining else Node.State.SERVING,
        "open_connections": open_connections,
        "degraded": clean(degraded_reason or "", 255),
        "counters": counters,
    }
