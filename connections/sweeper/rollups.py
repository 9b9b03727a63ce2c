"""Roll the minutes on the nodes' rows up to one row per minute and node."""

from typing import Any

from connections.metrics.counters import Totals
from connections.models import MinuteRollup, Node
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
            minutes += [node.minute] if node.minute else []
            # If the node comes back, its next beat writes all of this again.
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
