"""List what is wrong, with links: open alerts, and parts of nodes that are degraded."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from connections.config.alert_rules import format_value
from connections.dashboard.charts.scales import format_seconds
from connections.dashboard.map import name_node
from connections.dashboard.sites import make_page_url
from connections.dashboard.snapshot import Snapshot
from connections.models import Alert, Node
from connections.node.current import find_running
from connections.units import count_of

_SILENT_SECONDS = 5
_MOST_LINKS = 3
_DRAINING = "draining"
_PRESENCE = "presence_degraded"
_WITHOUT_RUNBOOK = (_DRAINING, _PRESENCE)

Link = tuple[str, str]
"""A label and a URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong, or that staff should know."""

    name: str
    kind: str
    """The state of the alert; `degraded` or `draining` for a part of a node."""

    badge: str
    text: str
    numbers: str = ""
    since: datetime | None = None
    lasted: str = ""
    runbook: str = ""
    links: Sequence[Link] = ()


def list_open_alerts(snapshot: Snapshot) -> list[Alert]:
    """Return the open alerts, with that of this node on its own database."""
    recorded = [one for one in snapshot.alerts if one.state != Alert.State.RESOLVED]
    running = find_running()
    watch = running[1].own_alerts.database_down if running else None
    own = watch.alert if watch else None
    return sorted([*([own] if own else []), *recorded], key=lambda one: one.state)


def list_faults(snapshot: Snapshot, alerts: Sequence[Alert]) -> list[Fault]:
    """Return firing alerts, then pending ones, then degraded and draining parts."""
    alerted = {one.rule for one in alerts}
    if "database_down" in alerted:
        # Most steps need the database, and are overdue without it.
        alerted.add("step_overdue")
    return [
        *(_describe_alert(snapshot, one) for one in alerts),
        *_find_degraded(snapshot, alerted),
    ]


def _describe_alert(snapshot: Snapshot, alert: Alert) -> Fault:
    rule, lasted = alert.rule, snapshot.taken_at - alert.since
    now, peak, threshold = (
        format_value(rule, value)
        for value in (alert.value, alert.peak, alert.threshold)
    )
    is_firing = alert.state == Alert.State.FIRING
    return Fault(
        name=rule.replace("_", " "),
        kind=alert.state,
        badge=alert.severity if is_firing else alert.state,
        text=alert.detail,
        numbers=f"now {now} · peak {peak} · alerts from {threshold}",
        since=alert.since,
        lasted=format_seconds(max(0.0, lasted.total_seconds())),
        runbook=_link_runbook(rule),
        links=_find_links(snapshot, rule),
    )


def _find_degraded(snapshot: Snapshot, alerted: set[str]) -> Iterator[Fault]:
    """Yield the degraded parts that no open alert names."""
    for node in snapshot.nodes:
        if node.node_id not in snapshot.seen:
            continue
        for rule, text in _describe_parts(snapshot, node):
            if rule in alerted:
                continue
            is_draining = rule == _DRAINING
            yield Fault(
                name=rule.replace("_", " "),
                kind=_DRAINING if is_draining else "degraded",
                badge=_DRAINING if is_draining else "degraded",
                text=f"node {name_node(node)}: {text}",
                runbook="" if rule in _WITHOUT_RUNBOOK else _link_runbook(rule),
                links=[_link_node(node)],
            )


def _describe_parts(snapshot: Snapshot, node: Node) -> Iterator[tuple[str, str]]:
    """Yield the rule and the text of each part of a live node that is degraded."""
    if node.degraded and not node.counters.get("pool_lost_with_database"):
        yield "pool_degraded", node.degraded
    if reason := node.counters.get("presence_degraded"):
        yield _PRESENCE, reason
    if full := node.counters.get("pool_full"):
        yield "pool_full", full
    if overdue := node.counters.get("overdue_steps"):
        yield "step_overdue", ", ".join(overdue)
    age: Any = getattr(node, "beat_age", None)
    silent_seconds = age.total_seconds() if age is not None else 0.0
    if silent_seconds > _SILENT_SECONDS:
        yield "dead_node", f"has not beaten for {format_seconds(silent_seconds)}"
    if node.state == Node.State.DRAINING:
        left = len(snapshot.seen[node.node_id])
        yield _DRAINING, f"{count_of(left, 'connection')} left, new ones are refused"


def _find_links(snapshot: Snapshot, rule: str) -> list[Link]:
    """Return links to what an alert is about: nodes, clients, or a list."""
    links = []
    if rule in _OF_NODE:
        found = [node for node in snapshot.nodes if _OF_NODE[rule](node)]
        links += [_link_node(node) for node in found[:_MOST_LINKS]]
    if rule in ("pool_full", "pool_near_exhaustion"):
        links += _link_clients(snapshot)
    if rule in _LISTS:
        label, page, query = _LISTS[rule]
        url = make_page_url(f"connections_{page}_changelist")
        links.append((label, url and url + query))
    # A site may have the dashboard and not the other lists.
    return [(label, url) for label, url in links if url]


def _link_clients(snapshot: Snapshot) -> list[Link]:
    """Return links to the connections of the clients that hold most."""
    held = Counter(one.client_id for one in snapshot).most_common(_MOST_LINKS)
    url = make_page_url("connections_connection_changelist")
    return [
        (
            f"{client_id} ({count})",
            url and f"{url}?{urlencode({'client_id': client_id})}",
        )
        for client_id, count in held
    ]


def _link_node(node: Node) -> Link:
    url = make_page_url("connections_node_change", node.node_id)
    return f"node {name_node(node)}", url


def _link_runbook(rule: str) -> str:
    return f"{make_page_url('connections_live_runbook')}#{rule}"


def _count(name: str) -> Callable[[Node], bool]:
    return lambda node: bool(node.counters.get(name))


def _count_recent(name: str) -> Callable[[Node], bool]:
    return lambda node: bool(node.counters.get("recent", {}).get(name))


_OF_NODE: dict[str, Callable[[Node], bool]] = {
    "pool_full": _count("pool_full"),
    "pool_degraded": lambda node: bool(node.degraded),
    "dead_node": lambda node: node.state == Node.State.LOST,
    "leak_suspected": lambda node: any(
        node.counters.get(name) for name in ("stuck_consumers", "leak_suspects")
    ),
    "step_overdue": _count("overdue_steps"),
    "recorder_behind": _count("recorder_lag_seconds"),
    "high_error_rate": _count_recent("errors"),
    "slow_consumers": _count_recent("slow_consumers"),
    "authentication_failures": _count_recent("auth_failures"),
    "loop_lag": lambda node: node.loop_lag_seconds > 0.1,
}
"""Which nodes an alert is about."""

_LISTS = {
    "high_error_rate": ("errors", "errorevent", ""),
    "mass_disconnect": ("ended connections", "connection", "?state=closed"),
    "reconnect_storm": ("ended connections", "connection", "?state=closed"),
    "slow_consumers": (
        "slow consumers",
        "connection",
        "?state=closed&reason=slow_consumer",
    ),
    "authentication_failures": ("bans", "ban", ""),
    "pool_full": ("open connections", "connection", ""),
    "pool_near_exhaustion": ("open connections", "connection", ""),
}
"""The list that an alert is about: label, page and query."""
