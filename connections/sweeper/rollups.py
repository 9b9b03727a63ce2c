"""From the counters on the nodes' rows to one row for each minute and node."""

from typing import Any

from django.db import transaction

from connections.metrics.counters import Totals
from connections.models import MinuteRollup, Node
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


def roll_up(batch_size: int) -> int:
    """
    Write the nodes' whole minutes as rows; return how many were written.

    A node closes a minute once and shows it until it is taken over; its row's
    key is node and minute. So it does not matter how often, how late or by how
    many sweepers this is done. The minute that a dead node did not finish is
    written too, and written again should it come back and go on.
    """
    node_ids = list(Node.objects.with_minutes().values_list("node_id", flat=True))
    return sum(_take_over(node_id, batch_size) for node_id in node_ids)


def _take_over(node_id: str, batch_size: int) -> int:
    """
    Write what one node shows; return how many minutes that were.

    Its row is locked meanwhile: what is written is what it shows, and not what
    it showed before it came back to life.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update().filter(node_id=node_id).first()
        if node is None:
            return 0
        minutes: list[Totals] = list(node.unrolled)
        last = max((minute["minute"] for minute in minutes), default=0)
        node.rolled_minute = max(node.rolled_minute, last)
        if node.state not in LIVE_STATES:
            minutes += [node.minute] if node.minute else []
            # Should it come back, its next beat shows all of it again.
            node.unrolled, node.minute = [], {}
        MinuteRollup.objects.bulk_create(
            [MinuteRollup(node_id=node_id, **_read(minute)) for minute in minutes],
            batch_size=batch_size,
            update_conflicts=True,
            unique_fields=_KEY,
            update_fields=_VALUES,
        )
        node.save(update_fields=["rolled_minute", "unrolled", "minute"])
    return len(minutes)


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
