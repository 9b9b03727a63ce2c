"""Store nodes: one row a server process, from its start to its end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

ID_LENGTH = 32
LIVE_STATES = ("serving", "draining")


class NodeQuerySet(models.QuerySet["Node"]):
    def live(self) -> NodeQuerySet:
        """Nodes that have neither stopped nor been taken for dead."""
        return self.filter(state__in=LIVE_STATES)

    def serving_within(self, seconds: float) -> NodeQuerySet:
        """Nodes that take connections and beat so recently, by the database's clock."""
        return self.filter(
            state="serving", beat_at__gte=Now() - timedelta(seconds=seconds)
        )

    def started_before(self, node_id: str | None) -> NodeQuerySet:
        """Nodes that began before one, by moment and then id; all, for None."""
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
        """Live nodes whose last beat is older than a moment of the database's clock."""
        return self.live().filter(beat_at__lt=moment)

    def gone_before(self, moment: datetime) -> NodeQuerySet:
        """Nodes that ended before a moment."""
        return self.exclude(state__in=LIVE_STATES).filter(stopped_at__lt=moment)

    def lost_since(self, moment: datetime | Combinable) -> NodeQuerySet:
        """Nodes that were found dead after a moment."""
        return self.filter(state="lost", stopped_at__gte=moment)

    def with_minutes(self) -> NodeQuerySet:
        """Nodes that show minutes for a sweeper to take over."""
        unfinished = ~Q(state__in=LIVE_STATES) & ~Q(minute={})
        return self.filter(~Q(unrolled=[]) | unfinished).order_by("node_id")

    def beat(self, **facts: Any) -> int:
        """Move the counters of the nodes selected; return how many there are."""
        return self.update(beat=F("beat") + 1, beat_at=Now(), **facts)

    def mark_lost(self, node: Node) -> bool:
        """Record a node as dead, unless it has beaten since it was read."""
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
    state = models.CharField(
        max_length=10, choices=State.choices, default=State.SERVING
    )
    generation = models.PositiveIntegerField(
        default=1, help_text="How often the node came back after it was taken for dead."
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
        help_text="Why the limits do not hold across nodes just now; empty: they do.",
    )
    loop_lag_seconds = models.FloatField(
        default=0, help_text="How far the event loop was behind, in the last 10 s."
    )
    counters = models.JSONField(
        default=dict, help_text="What it has counted since its start."
    )
    minute = models.JSONField(
        default=dict, help_text="What it has counted in the minute under way."
    )
    unrolled = models.JSONField(
        default=list, help_text="Its whole minutes that no sweeper has taken over."
    )
    rolled_minute = models.PositiveBigIntegerField(
        default=0, help_text="The last whole minute that a sweeper has taken over."
    )

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid} ({self.node_id[:8]})"
