"""A snapshot of all nodes and open connections, shared by all viewers."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.db.models import DurationField, ExpressionWrapper, F, Q
from django.utils import timezone

from connections.config.loader import get_config
from connections.models import Alert, Connection, Node
from connections.models.clock import Now
from connections.models.node import ID_LENGTH, LIVE_STATES
from connections.node.live_state import (
    ConnectionState,
    classify_idle,
    decode,
)
from connections.node.top import Report, decode_report

KEY_LENGTH = 7
_FRESH = timedelta(seconds=10)
"""A sample is used if it is at most this much older than its node's beat."""

_GONE = timedelta(minutes=15)
"""How long a stopped or lost node remains on the dashboard."""

_RESOLVED = timedelta(days=1)
"""How long a resolved alert remains on the dashboard."""

_MOST_RESOLVED = 5
_MOST_RECORDED = 20_000


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Open connections by node; all viewers within a second share one object."""

    number: int
    taken_at: datetime
    nodes: tuple[Node, ...]
    """Live nodes first; each has `beat_age`, a timedelta."""

    seen: dict[str, list[ConnectionState]]
    """Open connections by node, oldest first."""

    recorded_nodes: frozenset[str]
    """Nodes without a sample; their connections come from the recorded rows."""

    alerts: tuple[Alert, ...] = ()
    """Firing alerts, then pending ones, then recently resolved ones."""

    tops: Mapping[str, Report] = field(default_factory=dict)
    """What nodes with a sample counted in the last minutes, by node."""

    problem: str = ""
    """Why the database fails, as the rest of "the database ..."; empty: it works."""

    is_from_memory: bool = False
    """True if nothing was read: the one node is that of this process."""

    def __iter__(self) -> Iterator[ConnectionState]:
        for connections in self.seen.values():
            yield from connections

    @property
    def open_count(self) -> int:
        """The number of open connections."""
        return sum(map(len, self.seen.values()))

    def find(self, key: str) -> tuple[str, ConnectionState] | None:
        """Return the open connection with a key or id, and its node."""
        found = self._by_key.get(make_key(key) if len(key) == ID_LENGTH else key)
        if found and len(key) == ID_LENGTH and found[1].connection_id != key:
            return None
        return found

    @cached_property
    def _by_key(self) -> dict[str, tuple[str, ConnectionState]]:
        return {
            make_key(one.connection_id): (node_id, one)
            for node_id, connections in self.seen.items()
            for one in connections
        }


def make_key(connection_id: str) -> str:
    """Return a short key of a connection, unique among open connections."""
    try:
        tail = bytes.fromhex(connection_id[-10:])
    except ValueError:
        tail = connection_id.encode()[-5:].rjust(5, b"-")
    return base64.urlsafe_b64encode(tail)[:KEY_LENGTH].decode()


def take_snapshot(number: int) -> Snapshot:
    """Read the nodes, their connections and the alerts from the database."""
    moment = timezone.now()
    age = ExpressionWrapper(Now() - F("beat_at"), output_field=DurationField())
    nodes = list(
        Node.objects.filter(
            Q(state__in=LIVE_STATES) | Q(stopped_at__gte=moment - _GONE)
        )
        .select_related("picture")
        .annotate(beat_age=age)
        .order_by("started_at")
    )
    nodes.sort(key=lambda node: node.state not in LIVE_STATES)
    seen: dict[str, list[ConnectionState]] = {}
    tops: dict[str, Report] = {}
    without: list[str] = []
    for node in nodes:
        if node.state not in LIVE_STATES:
            continue
        content = _get_content(node)
        states = decode(content) if content else None
        if states is not None:
            seen[node.node_id] = states
            report = decode_report(_get_top(node))
            if report is not None:
                tops[node.node_id] = report
        else:
            seen[node.node_id] = []
            without.append(node.node_id)
    if without:
        _read_recorded(without, seen, moment)
    return Snapshot(
        number=number,
        taken_at=moment,
        nodes=tuple(nodes),
        seen=seen,
        recorded_nodes=frozenset(without),
        alerts=_read_alerts(moment),
        tops=tops,
    )


def _read_alerts(moment: datetime) -> tuple[Alert, ...]:
    real = Alert.objects.filter(is_test=False)
    lately = real.filter(resolved_at__gte=moment - _RESOLVED)
    open_ones = sorted(real.open(), key=lambda alert: alert.state)
    return (*open_ones, *lately.order_by("-resolved_at")[:_MOST_RESOLVED])


def _get_content(node: Any) -> bytes:
    """Return a node's sample, or nothing if it is stale."""
    sample = getattr(node, "picture", None)
    if sample is None or sample.taken_at is None:
        return b""
    if sample.taken_at < node.beat_at - _FRESH:
        return b""
    return bytes(sample.content)


def _get_top(node: Any) -> bytes | None:
    return None if node.picture.top is None else bytes(node.picture.top)


def _read_recorded(
    node_ids: list[str], seen: dict[str, list[ConnectionState]], moment: datetime
) -> None:
    """Read the open connections of nodes without a sample from their rows."""
    timeout_seconds = get_config().idle_timeout_seconds
    rows = (
        Connection.objects.open()
        .filter(node_id__in=node_ids)
        .order_by("opened_at")
        .values_list(
            "node_id",
            "connection_id",
            "client_id",
            "user_id",
            "route",
            "address",
            "opened_at",
            "last_activity_at",
            "messages_in",
            "messages_out",
            "bytes_in",
            "bytes_out",
            "errors",
        )[:_MOST_RECORDED]
    )
    for node_id, key, client, user, route, address, opened, active, *counts in rows:
        idle_seconds = max(0.0, (moment - active).total_seconds())
        seen[node_id].append(
            ConnectionState(
                key,
                client,
                "" if user is None else str(user),
                "",
                route,
                address,
                opened.timestamp(),
                classify_idle(idle_seconds, timeout_seconds).value,
                idle_seconds,
                *counts,
            )
        )
