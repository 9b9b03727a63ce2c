"""What a node knows of its cluster, read from the database now and then."""

import asyncio
import time
from typing import Any

from django.db import connection
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Now

from connections.alerts.email import deliver
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import LOST_WITHIN
from connections.config.loader import WebSocketConfig
from connections.metrics.meter import Meter
from connections.models import Node, Sweep
from connections.storage.database import Database
from connections.units import Clock

MONITOR_BEATS = 10
"""Beats between two looks: ten seconds, by default."""


class ClusterMonitor:
    """
    Asks which of a node's minutes a sweeper has taken over, and how others fare.

    Ages are by the database's clock, so that nodes' clocks do not matter. A
    sweeper evaluates the alerts; that it is silent itself is for the nodes to see.
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
        """Nodes found dead within the last ten minutes."""

    @property
    def sweep_age_seconds(self) -> float | None:
        """
        How long no sweep was finished, while there were nodes; None: not known yet.

        Before the first sweep it counts from the start of the oldest node.
        """
        if self._sweep_age_seconds is None:
            return None
        return self._sweep_age_seconds + self._clock() - self._read_at

    async def refresh(self) -> None:
        """
        Read all of it once.

        Raises:
            DatabaseUnavailable: what was known before stands.
        """
        rolled_minute = await self._database.read(self._read)
        self._meter.forget(rolled_minute)
        await self._database.write(self._watch_sweeper)
        # Not in a thread of the database: a mail server may take its time.
        await asyncio.to_thread(self._deliver)

    def _watch_sweeper(self) -> None:
        age_seconds = self.sweep_age_seconds
        if age_seconds is not None:
            self._evaluator.evaluate_one("sweeper_silent", age_seconds)

    def _deliver(self) -> None:
        try:
            deliver(self._config)
        finally:
            connection.close()

    def _read(self) -> int:
        sweeps = _measure_ages(Sweep.objects.exclude(finished_at=None), "finished_at")
        lives = _measure_ages(Node.objects.live(), "started_at")
        if lives:
            # A cluster that was off all night has not missed its sweeps.
            age_seconds = min([max(lives), *sweeps])
            self._sweep_age_seconds, self._read_at = age_seconds, self._clock()
        lately = Now() - LOST_WITHIN
        self.lost_nodes = Node.objects.lost_since(lately).count()
        own = Node.objects.filter(node_id=self._node_id)
        return own.values_list("rolled_minute", flat=True).first() or 0


def _measure_ages(rows: QuerySet[Any], column: str) -> list[float]:
    """Return how long ago a moment of each row was, by the database's clock."""
    age = ExpressionWrapper(Now() - F(column), DurationField())
    ages = rows.annotate(age=age).values_list("age", flat=True)
    return [age.total_seconds() for age in ages]
