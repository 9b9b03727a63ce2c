"""From the counters on the nodes' rows to one row for each minute and node."""

from typing import Any

from django.db import transaction

from connections.metrics.counters import Totals
from connections.models import MinuteRollup, Node
from connections.querysets import LIVE_STATES

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


def roll_up(batch_size: int) -> int:
    """
    Write the nodes' whole minutes as rows; return how many were written.

    A node closes a minute once and shows it until it is taken over; its row's
    key is node and minute. So it does not matter how often, how late or by how
    many sweepers this is done. The minute that a dead node did not finish is
    written too, unless the node came back and finished it.
    """
    count = 0
    for node in Node.objects.with_minutes():
        if node.unrolled:
            count += _write(node, node.unrolled, batch_size, is_whole=True)
            last = max(minute["minute"] for minute in node.unrolled)
            Node.objects.filter(node_id=node.node_id, rolled_minute__lt=last).update(
                rolled_minute=last
            )
        if node.state not in LIVE_STATES:
            if node.minute:
                count += _write(node, [node.minute], batch_size, is_whole=False)
            # Should it come back, its next beat shows all of it again.
            gone = Node.objects.filter(node_id=node.node_id)
            gone.exclude(state__in=LIVE_STATES).update(unrolled=[], minute={})
    return count


def _write(
    node: Node, minutes: list[Totals], batch_size: int, *, is_whole: bool
) -> int:
    rows = [MinuteRollup(node_id=node.node_id, **_read(minute)) for minute in minutes]
    for start in range(0, len(rows), batch_size):
        with transaction.atomic():
            MinuteRollup.objects.bulk_create(
                rows[start : start + batch_size],
                update_conflicts=is_whole,
                ignore_conflicts=not is_whole,
                unique_fields=_KEY if is_whole else None,
                update_fields=_VALUES if is_whole else None,
            )
    return len(rows)


def _read(minute: Totals) -> dict[str, Any]:
    """Return the columns of a minute; what it leaves out did not happen."""
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
