"""Render each panel of the dashboard as a self-contained piece of HTML."""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from connections.close_codes import get_codes
from connections.config.alert_rules import format_value
from connections.dashboard.attention import list_faults, list_open_alerts
from connections.dashboard.charts.cells import draw_row
from connections.dashboard.charts.histogram import draw_histogram
from connections.dashboard.charts.scales import NOTHING, format_seconds
from connections.dashboard.charts.trend import Series, draw_trend
from connections.dashboard.details import offer_for_node
from connections.dashboard.filters import Selection
from connections.dashboard.map import (
    STATES,
    count_columns,
    count_states,
    is_shown,
    make_map,
    name_node,
)
from connections.dashboard.observed import describe_observed
from connections.dashboard.sites import make_page_url
from connections.dashboard.snapshot import Snapshot
from connections.dashboard.statistics import Statistics
from connections.dashboard.tiles import estimate_quantile, make_tiles
from connections.dashboard.top import describe_top
from connections.dashboard.trends import describe_trends
from connections.metrics.counters import DURATION_EDGES
from connections.models import Alert, Node
from connections.node.live_state import ConnectionState, LiveState
from connections.units import as_utc

NAMES = (
    "problem",
    "top",
    "alerts",
    "tiles",
    "trends",
    "map",
    "errors",
    "durations",
    "refused",
    "reasons",
    "limits",
    "nodes",
)
_TEMPLATES = "admin/connections/livedashboard"
_NARROW = 900
_PADDING = 34
_GAP = 16
_MOST_KINDS = 5
_SILENT_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """The panels for one selection, drawn from one snapshot."""

    number: int
    taken_at: datetime
    html: Mapping[str, str]
    firing: int
    keys: Mapping[str, str]
    """The keys of the map's cells, by region; see charts.cells.Grid."""

    def as_message(self) -> dict[str, Any]:
        """Return the message that browsers receive."""
        return {
            "type": "panels",
            "number": self.number,
            "taken_at": as_utc(self.taken_at).isoformat(),
            "firing": self.firing,
            "html": dict(self.html),
            "keys": dict(self.keys),
        }


def render_panels(
    snapshot: Snapshot,
    statistics: Statistics,
    selection: Selection,
    allowed: Collection[str],
) -> Panels:
    """Return every panel as HTML, with links to the allowed actions."""
    shown = [
        one
        for node_id, connections in snapshot.seen.items()
        if selection.node in ("", node_id)
        for one in connections
        if is_shown(one, selection)
    ]
    regions = make_map(snapshot, selection)
    alerts = list_open_alerts(snapshot)
    firing = sum(one.state == Alert.State.FIRING for one in alerts)
    contexts: dict[str, dict[str, Any]] = {
        "problem": {},
        "top": describe_top(snapshot, selection),
        "tiles": {
            "tiles": make_tiles(
                statistics,
                shown,
                _list_shown_nodes(snapshot, selection),
                firing=firing,
                pending=len(alerts) - firing,
            )
        },
        "map": {
            "regions": regions,
            "columns": count_columns(len(regions), selection.width),
            "counts": _count_by_state(shown),
            "quiet_glyph": draw_row([(LiveState.QUIET, "")]),
            "list_url": make_page_url("connections_connection_changelist"),
        },
        "trends": describe_trends(statistics, selection.range, _half(selection)),
        "errors": _show_errors(statistics, selection),
        "refused": _show_refused(statistics, selection),
        "durations": _show_durations(snapshot, statistics, shown, selection),
        "alerts": {
            "faults": list_faults(snapshot, alerts),
            "resolved": [
                _show_resolved(one)
                for one in snapshot.alerts
                if one.resolved_at is not None
            ],
        },
        "reasons": {"reasons": _show_reasons(statistics)},
        "limits": describe_observed(_list_shown_nodes(snapshot, selection)),
        "nodes": {
            "nodes": [
                _show_node(snapshot, node, selection, allowed)
                for node in snapshot.nodes
            ]
        },
    }
    common = {"selection": selection, "snapshot": snapshot, "states": STATES}
    html = {
        name: render_to_string(f"{_TEMPLATES}/{name}.html", common | contexts[name])
        for name in NAMES
    }
    keys = {region.value: region.keys for region in regions if region.keys}
    return Panels(
        number=snapshot.number,
        taken_at=snapshot.taken_at,
        firing=firing,
        html=html,
        keys=keys,
    )


def _list_shown_nodes(snapshot: Snapshot, selection: Selection) -> list[Node]:
    """Return the live nodes that are selected."""
    return [
        node
        for node in snapshot.nodes
        if node.node_id in snapshot.seen and selection.node in ("", node.node_id)
    ]


def _half(selection: Selection) -> int:
    """Return the width of a chart; two stand side by side on wide pages."""
    if selection.width < _NARROW:
        return selection.width - _PADDING
    return (selection.width - _GAP) // 2 - _PADDING


def _count_by_state(shown: Sequence[ConnectionState]) -> list[dict[str, Any]]:
    return [
        {
            "glyph": draw_row([(state.value, "")]),
            "state": state.value,
            "word": word,
            "meaning": meaning,
            "count": count,
        }
        for (state, word, meaning), count in zip(
            STATES, count_states(shown), strict=True
        )
    ]


def _show_errors(statistics: Statistics, selection: Selection) -> dict[str, Any]:
    """Return the trend of errors per minute."""
    return _show_counts("Errors", statistics.errors, statistics, selection)


def _show_refused(statistics: Statistics, selection: Selection) -> dict[str, Any]:
    """Return the trend of refused handshakes per minute."""
    return _show_counts("Refused", statistics.refused, statistics, selection)


def _show_counts(
    title: str,
    counts: Mapping[str, Sequence[float]],
    statistics: Statistics,
    selection: Selection,
) -> dict[str, Any]:
    """Return the trend of counts by kind; the rarest kinds are one line."""
    kinds = list(counts.items())
    named, rest = kinds[:_MOST_KINDS], kinds[_MOST_KINDS:]
    if rest:
        columns = zip(*(values for _, values in rest), strict=True)
        named.append(("other", [sum(column) for column in columns]))
    series = [
        Series(
            name=kind.replace("_", " "),
            kind=f"k{index}",
            values=[value / statistics.step_minutes for value in values],
            is_filled=index == 0,
        )
        for index, (kind, values) in enumerate(named)
    ]
    total = sum(map(sum, counts.values()))
    chart: SafeString | str = ""
    if total:
        chart = draw_trend(
            series,
            statistics.times,
            label=f"{title} per minute over {selection.range}: {total} in total",
            width=_half(selection),
        )
    legend = [
        {"kind": one.kind, "name": one.name, "count": sum(values)}
        for one, (_, values) in zip(series, named, strict=True)
    ]
    return {"chart": chart, "legend": legend, "total": total}


def _show_durations(
    snapshot: Snapshot,
    statistics: Statistics,
    shown: Sequence[ConnectionState],
    selection: Selection,
) -> dict[str, Any]:
    """Return the histogram of closed sessions, overlaid with ages of open ones."""
    now = snapshot.taken_at.timestamp()
    ages = [0] * (len(DURATION_EDGES) + 1)
    for one in shown:
        ages[bisect_left(DURATION_EDGES, now - one.opened_at)] += 1
    chart = draw_histogram(
        DURATION_EDGES, statistics.durations, ages, width=_half(selection)
    )
    names = [f"up to {format_seconds(edge)}" for edge in DURATION_EDGES]
    names.append(f"over {format_seconds(DURATION_EDGES[-1])}")
    quantiles = [
        (label, None if value is None else format_seconds(value))
        for label, value in (
            ("p50", estimate_quantile(statistics.durations, 0.5)),
            ("p95", estimate_quantile(statistics.durations, 0.95)),
        )
    ]
    return {
        "chart": chart,
        "rows": list(zip(names, statistics.durations, ages, strict=True)),
        "closed": sum(statistics.durations),
        "open": len(shown),
        "quantiles": quantiles,
    }


def _show_reasons(statistics: Statistics) -> list[dict[str, Any]]:
    """Return the close reasons, the most frequent first."""
    total = sum(statistics.reasons.values()) or 1
    return [
        {
            "codes": ", ".join(map(str, get_codes(reason))) or NOTHING,
            "reason": reason,
            "count": count,
            "percent": round(100 * count / total, 1),
        }
        for reason, count in statistics.reasons.items()
    ]


def _show_resolved(alert: Alert) -> dict[str, Any]:
    """Return a resolved alert's row of the table."""
    lasted = (alert.resolved_at or alert.since) - alert.since
    return {
        "alert": alert,
        "name": alert.rule.replace("_", " "),
        "peak": format_value(alert.rule, alert.peak),
        "threshold": format_value(alert.rule, alert.threshold),
        "lasted": format_seconds(lasted.total_seconds()),
    }


def _show_node(
    snapshot: Snapshot, node: Node, selection: Selection, allowed: Collection[str]
) -> dict[str, Any]:
    """Return a node's row of the table."""
    is_live = node.node_id in snapshot.seen
    age: Any = getattr(node, "beat_age", None)
    beat_seconds = age.total_seconds() if age is not None else 0.0
    ended_at = None if is_live else node.stopped_at
    uptime = (ended_at or snapshot.taken_at) - node.started_at
    return {
        "node": node,
        "name": name_node(node),
        "query": selection.query(node=node.node_id),
        "actions": offer_for_node(node, allowed) if is_live else [],
        "is_live": is_live,
        "is_silent": is_live and beat_seconds > _SILENT_SECONDS,
        "open": len(snapshot.seen.get(node.node_id, ())),
        "uptime": format_seconds(uptime.total_seconds()),
        "beat": format_seconds(max(0.0, round(beat_seconds, 1))),
        "lag": format_seconds(node.loop_lag_seconds),
        "is_recorded": node.node_id in snapshot.recorded_nodes,
    }
