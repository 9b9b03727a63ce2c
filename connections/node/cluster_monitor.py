"""Read the state of the cluster from the database at intervals."""

import asyncio
import time
from typing import Any

from django.db.models import DurationField, ExpressionWrapper, F, QuerySet

from connections.alerts.email import deliver
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import (
    LOST_WITHIN,
    read_measurements,
    read_overdue_parts,
)
from connections.config.loader import WebSocketConfig
from connections.metrics.meter import Meter
from connections.models import Node, Sweep
from connections.models.alias import get_connection
from connections.models.clock import Now
from connections.storage.database import Database
from connections.units import Clock

MONITOR_BEATS = 10
"""Beats between two refreshes: ten seconds, by default."""


class ClusterMonitor:
    """
    Reads which minutes of a node were rolled up, and which nodes were lost.

    Ages are by the database's clock, so that nodes' clocks do not matter. A
    sweeper evaluates the alerts; the nodes evaluate those on a sweeper that is
    silent or fails, and on overdue steps.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        node_id: str,
        database: Database,
        meter: Meter,
        clock: Clock = time.monotonic,
    ) -> None:
        self._config = config
        self._evaluator = Evaluator(config.alerts)
        self._clock = clock
        self._node_id = node_id
        self._database = database
        self._meter = meter
        self._sweep_age_seconds: float | None = None
        self._read_at = clock()
        self.lost_nodes = 0
        """Nodes marked as lost within the last ten minutes."""
        self.overdue_parts: list[str] = []
        """The names of the parts of the sweep that are overdue."""

    @property
    def sweep_age_seconds(self) -> float | None:
        """
        The age of the last finished sweep; None while it is unknown.

        Before the first sweep it is the age of the oldest live node.
        """
        if self._sweep_age_seconds is None:
            return None
        return self._sweep_age_seconds + self._clock() - self._read_at

    async def refresh(self) -> None:
        """
        Read the state of the cluster, and evaluate and deliver the alert.

        Raises:
            DatabaseUnavailable: the state from before remains.
        """
        rolled_minute = await self._database.read(self._read)
        self._meter.forget(rolled_minute)
        await self._database.write(self._evaluate)
        # Not in a thread of the database, because a mail server may be slow.
        await asyncio.to_thread(self._deliver)

    def _evaluate(self) -> None:
        """Evaluate the alerts that a sweeper which fails cannot evaluate."""
        measurements = read_measurements()
        names = ["step_overdue"]
        if self.sweep_age_seconds is not None:
            measurements.sweep_age_seconds = self.sweep_age_seconds
            names.append("sweeper_silent")
        self._evaluator.evaluate_some(names, measurements)

    def _deliver(self) -> None:
        try:
            deliver(self._config)
        finally:
            get_connection().close()

    def _read(self) -> int:
        sweeps = _measure_ages(Sweep.objects.exclude(finished_at=None), "finished_at")
        uptimes = _measure_ages(Node.objects.live(), "started_at")
        if uptimes:
            # A cluster that was off all night has not missed any sweeps.
            age_seconds = min([max(uptimes), *sweeps])
            self._sweep_age_seconds, self._read_at = age_seconds, self._clock()
        self.overdue_parts = read_overdue_parts()
        lately = Now() - LOST_WITHIN
        self.lost_nodes = Node.objects.lost_since(lately).count()
        own = Node.objects.filter(node_id=self._node_id)
        return own.values_list("rolled_minute", flat=True).first() or 0


def _measure_ages(rows: QuerySet[Any], column: str) -> list[float]:
    """Return the age of a column of each row, by the database's clock."""
    age = ExpressionWrapper(Now() - F(column), DurationField())
    ages = rows.annotate(age=age).values_list("age", flat=True)
    return [age.total_seconds() for age in ages]
