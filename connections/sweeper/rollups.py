"""
Roll up the minutes of nodes.

The minutes on the nodes' rows become one row per minute and node, and these one row
per hour.
"""

import time
from collections.abc import Iterable
from typing import Any

from connections.metrics.counters import Totals
from connections.models import HourRollup, MinuteRollup, Node, Sweep
from connections.models.alias import atomic
from connections.models.node import LIVE_STATES

_SAME_NAME = (
    "minute",
    "open_connections",
    "max_open",
    "opened",
    "messages_in",
    "messages_out",
    "bytes_in",
    "bytes_out",
    "rate_limited",
    "handling_seconds",
    "duration_seconds",
    "ack_seconds",
    "max_loop_lag_seconds",
    "max_rss_bytes",
    "durations",
    "handling",
    "acks",
)
_BY_LABEL = {
    "ends_by_reason": "ends",
    "refused_by_outcome": "refused",
    "errors_by_kind": "errors",
    "resumes_by_outcome": "resumes",
}
_KEY = ("minute", "node")
_VALUES = tuple(
    field.name
    for field in MinuteRollup._meta.concrete_fields
    if field.name not in (*_KEY, "id")
)
_BUCKETS = ("durations", "handling", "acks")
_HOURS = "hours"
"""The row that whoever writes or deletes hours locks."""

_SETTLED_MINUTES = 10
"""How long after its end an hour is rolled up; a minute may still come later."""

_HOURS_AT_ONCE = 24


def roll_up(batch_size: int) -> int:
    """
    Write the nodes' whole minutes as rows; return how many were written.

    A node closes a minute once and shows it until it is rolled up, and the key of
    a rollup is node and minute. So any number of sweepers may do this, any number
    of times. The unfinished minute of a dead node is written too, and written
    again if the node comes back and continues it.
    """
    node_ids = list(Node.objects.with_minutes().values_list("node_id", flat=True))
    return sum(_roll_up_node(node_id, batch_size) for node_id in node_ids)


def _roll_up_node(node_id: str, batch_size: int) -> int:
    """
    Write the minutes of one node; return how many there were.

    The node's row is locked meanwhile, so that a node which comes back at the same
    time does not lose minutes.
    """
    with atomic():
        node = Node.objects.select_for_update().filter(node_id=node_id).first()
        if node is None:
            return 0
        minutes: list[Totals] = list(node.unrolled)
        last = max((minute["minute"] for minute in minutes), default=0)
        node.rolled_minute = max(node.rolled_minute, last)
        if node.state not in LIVE_STATES:
            if node.minute:
                # At the end of this minute its connections were open elsewhere or gone.
                minutes.append({**node.minute, "open_connections": 0})
            # If the node comes back, its next beat writes all of this again.
            node.unrolled, node.minute = [], {}
        MinuteRollup.objects.bulk_create(
            [MinuteRollup(node_id=node_id, **_read(minute)) for minute in minutes],
            batch_size=batch_size,
            update_conflicts=True,
            unique_fields=_KEY,
            update_fields=_VALUES,
        )
        _forget_hours(minute["minute"] // 60 for minute in minutes)
        node.save(update_fields=["rolled_minute", "unrolled", "minute"])
    return len(minutes)


def _read(minute: Totals) -> dict[str, Any]:
    """Return the columns of a minute; counts that it leaves out are 0."""
    columns = {name: minute[name] for name in _SAME_NAME if name in minute}
    columns |= {name: minute.get(key, {}) for name, key in _BY_LABEL.items()}
    ends = columns["ends_by_reason"]
    return columns | {
        "ended": sum(ends.values()),
        "evicted": ends.get("evicted", 0),
        "refused": sum(columns["refused_by_outcome"].values()),
        "errors": sum(columns["errors_by_kind"].values()),
        "handled": sum(minute.get("handling", ())),
    }


def roll_up_hours() -> int:
    """
    Write the hours that ended, oldest first and 24 at most; return how many.

    An hour is written again after a minute of it that came late.
    """
    oldest = MinuteRollup.objects.order_by("minute").values_list("minute", flat=True)
    first_minute = oldest.first()
    if first_minute is None:
        return 0
    end = int(time.time() // 60 - _SETTLED_MINUTES) // 60
    first = first_minute // 60
    known = set(
        HourRollup.objects.filter(hour__gte=first).values_list("hour", flat=True)
    )
    missing = [hour for hour in range(first, end) if hour not in known]
    for hour in missing[:_HOURS_AT_ONCE]:
        with atomic():
            _lock_hours()
            HourRollup.objects.bulk_create([_sum(hour)], ignore_conflicts=True)
    return len(missing[:_HOURS_AT_ONCE])


def _sum(hour: int) -> HourRollup:
    """Return the sums of an hour over nodes and minutes."""
    minutes = MinuteRollup.objects.filter(
        minute__gte=hour * 60, minute__lt=(hour + 1) * 60
    ).order_by()
    row = HourRollup(hour=hour)
    for point in minutes.series(60):
        del point["minute"]
        for name, value in point.items():
            setattr(row, name, value)
    for name in _BY_LABEL:
        setattr(row, name, minutes.series_by_label(name, 60).get(hour * 60, {}))
    for name in _BUCKETS:
        setattr(row, name, minutes.sum_buckets(name))
    return row


def _forget_hours(hours: Iterable[int]) -> None:
    """Delete the rows of hours that got another minute."""
    ended = {hour for hour in hours if hour < time.time() // 3600}
    if ended:
        _lock_hours()
        HourRollup.objects.filter(hour__in=ended).order_by().delete()


def _lock_hours() -> None:
    """Hold others back until the end of the transaction."""
    Sweep.objects.get_or_create(name=_HOURS)
    Sweep.objects.select_for_update().get(name=_HOURS)
