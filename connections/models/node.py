"""Store nodes: one row per server process, from its start to its end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.expressions import Combinable

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import Now

ID_LENGTH = 32
LIVE_STATES = ("serving", "draining")


class NodeQuerySet(PrimaryQuerySet["Node"]):
    def live(self) -> NodeQuerySet:
        """Nodes that have neither stopped nor been marked as lost."""
        return self.filter(state__in=LIVE_STATES)

    def serving_within(self, seconds: float) -> NodeQuerySet:
        """Nodes that accept connections and beat recently, by the database's clock."""
        return self.filter(
            state="serving", beat_at__gte=Now() - timedelta(seconds=seconds)
        )

    def beside_pool(self, pool: str) -> NodeQuerySet:
        """
        Nodes that share no limits with a node of a pool.

        Nodes of older releases do not name theirs: beside Redis it is Redis.
        """
        if pool == "memory":
            return self.all()
        return self.exclude(pool__in=["redis", ""] if pool == "redis" else [pool])

    def started_before(self, node_id: str | None) -> NodeQuerySet:
        """Nodes that started before another, by time and then id; None: all nodes."""
        if node_id is None:
            return self.all()
        own = self.filter(node_id=node_id).first()
        if own is None:
            return self.none()
        is_earlier = Q(started_at__lt=own.started_at)
        return self.filter(
            is_earlier | Q(started_at=own.started_at, node_id__lt=own.node_id)
        )

    def silent_since(self, moment: datetime | Combinable) -> NodeQuerySet:
        """Live nodes whose last beat was before a moment of the database's clock."""
        return self.live().filter(beat_at__lt=moment)

    def gone(self) -> NodeQuerySet:
        """Nodes that have stopped or are lost."""
        return self.exclude(state__in=LIVE_STATES)

    def lost_since(self, moment: datetime | Combinable) -> NodeQuerySet:
        """Nodes that were marked as lost after a moment."""
        return self.filter(state="lost", stopped_at__gte=moment)

    def with_minutes(self) -> NodeQuerySet:
        """Nodes with minutes that a sweeper can roll up."""
        unfinished = ~Q(state__in=LIVE_STATES) & ~Q(minute={})
        return self.filter(~Q(unrolled=[]) | unfinished).order_by("node_id")

    def beat(self, **columns: Any) -> int:
        """Advance the counters of the selected nodes; return how many there are."""
        return self.update(beat=F("beat") + 1, beat_at=Now(), **columns)

    def mark_lost(self, node: Node) -> bool:
        """Mark a node as lost, unless it has beaten since it was read."""
        unchanged = self.live().filter(
            node_id=node.node_id, beat=node.beat, generation=node.generation
        )
        return bool(unchanged.update(state="lost", stopped_at=Now()))


class Node(models.Model):
    """One server process, from its start to its end."""

    class State(models.TextChoices):
        SERVING = "serving"
        DRAINING = "draining"
        STOPPED = "stopped"
        LOST = "lost"

    node_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=40)
    pool = models.CharField(
        max_length=10,
        blank=True,
        default="",
        db_default="",
        help_text="Where the node's slots are; empty: written by an older release.",
    )
    state = models.CharField(
        max_length=10, choices=State.choices, default=State.SERVING
    )
    generation = models.PositiveIntegerField(
        default=1,
        help_text="Grows each time the node returns after it was lost.",
    )
    beat = models.PositiveBigIntegerField(
        default=0, help_text="Grows with each beat; stands still when the node is dead."
    )
    beat_at = models.DateTimeField()
    started_at = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True, blank=True)
    open_connections = models.PositiveIntegerField(default=0)
    degraded = models.CharField(
        max_length=255,
        blank=True,
        help_text="Why the limits do not hold across nodes at present; empty: they do.",
    )
    loop_lag_seconds = models.FloatField(
        default=0, help_text="The largest lag of the event loop in the last 10 s."
    )
    counters = models.JSONField(
        default=dict, help_text="Counts since the start of the node."
    )
    minute = models.JSONField(default=dict, help_text="Counts of the minute under way.")
    unrolled = models.JSONField(
        default=list, help_text="Whole minutes that no sweeper has rolled up."
    )
    rolled_minute = models.PositiveBigIntegerField(
        default=0, help_text="The last whole minute that a sweeper has rolled up."
    )

    objects = NodeQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid} ({self.node_id[:8]})"
