"""Store the counts of each node and minute, and of each hour, and query series."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.db import models
from django.db.models import F, Max, Sum

from connections.models.alias import PrimaryQuerySet

_MINUTES_READ_AT_ONCE = 1440


class _JoinedTexts(models.Aggregate):
    """The texts of a JSON column, separated by commas."""

    function = "GROUP_CONCAT"
    output_field = models.TextField()

    def as_postgresql(
        self, compiler: Any, connection: Any, **context: Any
    ) -> tuple[str, Any]:
        template = "STRING_AGG(%(expressions)s::text, ',')"
        return self.as_sql(compiler, connection, template=template, **context)


class MinuteRollupQuerySet(PrimaryQuerySet["MinuteRollup"]):
    SUMS = (
        "opened",
        "ended",
        "refused",
        "evicted",
        "messages_in",
        "messages_out",
        "bytes_in",
        "bytes_out",
        "errors",
        "rate_limited",
        "handled",
        "handling_seconds",
        "duration_seconds",
        "ack_seconds",
    )
    """Columns that can be summed over nodes and over minutes."""

    def between(self, first: datetime, last: datetime) -> MinuteRollupQuerySet:
        """Minutes that began within [first, last)."""
        return self.filter(
            minute__gte=math.ceil(first.timestamp() / 60),
            minute__lt=math.ceil(last.timestamp() / 60),
        ).order_by()

    def of_node(self, node_id: str) -> MinuteRollupQuerySet:
        """Minutes of one node."""
        return self.filter(node_id=node_id)

    def series(self, step_minutes: int) -> list[dict[str, Any]]:
        """
        Return the selected minutes as one series of points, oldest first.

        A point has `minute` (a multiple of the step), the SUMS, the maximum of
        open connections at the end of a minute, and the largest loop lag. A step
        without rows has no point.
        """
        stepped = self.annotate(step=F("minute") - F("minute") % step_minutes)
        points: dict[int, dict[str, Any]] = {
            point["step"]: {"minute": point["step"], **point}
            for point in stepped.values("step").annotate(
                **{name: Sum(name) for name in self.SUMS},
                max_loop_lag_seconds=Max("max_loop_lag_seconds"),
            )
        }
        # The sum over nodes within a minute, then the maximum over minutes.
        per_minute = self.values("minute").annotate(total=Sum("open_connections"))
        most_open: dict[int, int] = {}
        for minute, total in per_minute.values_list("minute", "total"):
            step = minute - minute % step_minutes
            most_open[step] = max(most_open.get(step, 0), total)
        for step, point in points.items():
            del point["step"]
            point["open_connections"] = most_open[step]
        return [points[step] for step in sorted(points)]

    def series_by_label(self, column: str, step_minutes: int) -> dict[int, Any]:
        """
        Return the counts of a column by label, summed within each step.

        Keys are the steps' first minutes. Columns are ends_by_reason,
        refused_by_outcome, errors_by_kind and resumes_by_outcome.
        """
        series: dict[int, dict[str, int]] = {}
        for step, rows in self._list_column(column, step_minutes):
            sums: dict[str, int] = {}
            for counts in rows:
                for label, count in counts.items():
                    sums[label] = sums.get(label, 0) + count
            if sums:
                series[step] = sums
        return {step: series[step] for step in sorted(series)}

    def sum_buckets(self, column: str) -> list[int]:
        """Return the summed buckets of a histogram: durations, handling or acks."""
        sums: list[int] = []
        for _, rows in self._list_column(column, _MINUTES_READ_AT_ONCE):
            buckets = [*filter(None, rows), *([sums] if sums else [])]
            sums = [sum(counts) for counts in zip(*buckets, strict=True)] or sums
        return sums

    def _list_column(
        self, column: str, step_minutes: int
    ) -> Iterator[tuple[int, list[Any]]]:
        """
        Yield each step with its rows' values of a JSON column.

        The database joins the texts of a step, because a row for each node and
        minute takes longer to fetch than all its numbers to add.
        """
        step = F("minute") - F("minute") % step_minutes
        rows = self.annotate(step=step).values_list("step")
        for found, texts in rows.annotate(texts=_JoinedTexts(column)):
            yield found, json.loads(f"[{texts}]")


class _Counts(models.Model):
    """
    The counts of some minutes.

    Numbers that charts and alerts sum are columns. Counts by label are JSON, as are
    the buckets of histograms, whose edges are in connections.metrics.counters and
    whose last bucket is open.
    """

    open_connections = models.PositiveIntegerField(
        default=0, help_text="Open at the end of the minute."
    )
    opened = models.PositiveBigIntegerField(default=0)
    ended = models.PositiveBigIntegerField(default=0)
    refused = models.PositiveBigIntegerField(default=0)
    evicted = models.PositiveBigIntegerField(default=0)
    messages_in = models.PositiveBigIntegerField(default=0)
    messages_out = models.PositiveBigIntegerField(default=0)
    bytes_in = models.PositiveBigIntegerField(default=0)
    bytes_out = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    rate_limited = models.PositiveBigIntegerField(default=0)
    handled = models.PositiveBigIntegerField(default=0)
    handling_seconds = models.FloatField(default=0)
    duration_seconds = models.FloatField(
        default=0, help_text="Sum over the connections that ended."
    )
    ack_seconds = models.FloatField(default=0)
    max_loop_lag_seconds = models.FloatField(default=0)
    ends_by_reason = models.JSONField(default=dict)
    refused_by_outcome = models.JSONField(default=dict)
    errors_by_kind = models.JSONField(default=dict)
    resumes_by_outcome = models.JSONField(default=dict)
    durations = models.JSONField(default=list)
    handling = models.JSONField(default=list)
    acks = models.JSONField(default=list)

    class Meta:
        abstract = True


class MinuteRollup(_Counts):
    """The counts of one node in one minute; sums over nodes are the cluster's."""

    node = models.ForeignKey(
        "connections.Node",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    minute = models.PositiveBigIntegerField(
        help_text="Minutes since 1970, by the node's clock."
    )
    max_open = models.PositiveIntegerField(default=0)
    max_rss_bytes = models.PositiveBigIntegerField(
        default=0, help_text="The process's resident memory."
    )

    objects = MinuteRollupQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-minute"]
        constraints = [
            models.UniqueConstraint(fields=["minute", "node"], name="rollup_minute")
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.node_id[:8]}"

    @property
    def at(self) -> datetime:
        """The start of the minute."""
        return datetime.fromtimestamp(self.minute * 60, UTC)


class HourRollup(_Counts):
    """
    The counts of all nodes in one hour, from their minutes.

    A range of seven days reads an hour of ten nodes as one row instead of 600. Open
    connections are the most at the end of a minute. An hour without minutes has a
    row too, so the rows have no hole.
    """

    hour = models.PositiveBigIntegerField(unique=True, help_text="Hours since 1970.")

    objects = PrimaryQuerySet["HourRollup"].as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-hour"]

    def __str__(self) -> str:
        return f"{datetime.fromtimestamp(self.hour * 3600, UTC):%Y-%m-%d %H:%M}"
