"""
Write the two boards of this folder: `python deploy/grafana/build.py`.

The JSON is committed, so that nobody needs the SDK to use a board; a test
compares it with what this writes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos

BOARDS = Path(__file__).parent / "boards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

_NODES = 'job=~"$job", instance=~"$instance"'
_WIDTH = 24
_PANEL_WIDTH, _PANEL_HEIGHT = 12, 8
_STAT_WIDTH, _STAT_HEIGHT = 4, 4

Query = tuple[str, str]
"""An expression, and the legend of its series; NODES stands for the selector."""

STATS: list[tuple[str, str, str, str]] = [
    ("Open", "Connections open now.", "short", "sum(active_websocket_connections{N})"),
    (
        "Pool",
        "The part of max_total_connections that is taken.",
        "percentunit",
        "max(websocket_pool_slots{N} / websocket_pool_limit{N})",
    ),
    (
        "Messages in",
        "Messages from clients a second.",
        "ops",
        'sum(rate(websocket_messages_total{N, direction="in"}[R]))',
    ),
    (
        "Errors",
        "Messages whose handling failed, of those that came.",
        "percentunit",
        "sum(rate(websocket_errors_total{N}[R])) /"
        ' clamp_min(sum(rate(websocket_messages_total{N, direction="in"}[R])), 1)',
    ),
    (
        "Loop lag",
        "The worst of any node in the last ten seconds.",
        "s",
        "max(websocket_event_loop_lag_seconds{N})",
    ),
    (
        "Degraded",
        "Nodes whose limits do not hold across nodes.",
        "short",
        "sum(websocket_pool_degraded{N})",
    ),
]

OVERVIEW: list[tuple[str, str, str, list[Query]]] = [
    (
        "Open connections by route",
        "Which routes clients are on.",
        "short",
        [("sum by (route) (active_websocket_connections{N})", "{{route}}")],
    ),
    (
        "Handshakes by outcome",
        "How handshakes were answered, a second.",
        "ops",
        [
            (
                "sum by (outcome) (rate(websocket_connections_total{N}[R]))",
                "{{outcome}}",
            )
        ],
    ),
    (
        "Ends by reason",
        "Why connections ended, a second.",
        "ops",
        [
            (
                "sum by (reason) (rate(websocket_disconnects_total{N}[R])) > 0",
                "{{reason}}",
            )
        ],
    ),
    (
        "Messages",
        "Messages a second, from clients and to them.",
        "ops",
        [
            (
                "sum by (direction) (rate(websocket_messages_total{N}[R]))",
                "{{direction}}",
            )
        ],
    ),
    (
        "Errors by kind",
        "Messages whose handling failed, a second.",
        "ops",
        [("sum by (kind) (rate(websocket_errors_total{N}[R]))", "{{kind}}")],
    ),
    (
        "Session duration",
        "How long connections that ended had lived.",
        "s",
        [
            (
                f"histogram_quantile({part}, sum by (le)"
                " (rate(websocket_connection_duration_seconds_bucket{N}[R])))",
                legend,
            )
            for part, legend in ((0.5, "p50"), (0.95, "p95"))
        ],
    ),
    (
        "Handling and acks",
        "95 of 100 messages were handled, and acks sent, within so long.",
        "s",
        [
            (
                "histogram_quantile(0.95, sum by (le)"
                f" (rate(websocket_{name}_duration_seconds_bucket{{N}}[R])))",
                name,
            )
            for name in ("handler", "ack")
        ],
    ),
    (
        "Refused credentials",
        "Handshakes refused for their credentials, a second.",
        "ops",
        [
            (
                "sum by (reason) (rate(websocket_auth_failures_total{N}[R]))",
                "{{reason}}",
            )
        ],
    ),
    (
        "Sessions by outcome",
        "How clients came back to their sessions, a second.",
        "ops",
        [("sum by (outcome) (rate(websocket_resumes_total{N}[R]))", "{{outcome}}")],
    ),
    (
        "Pool",
        "Slots taken, and how many there are.",
        "short",
        [
            ("max(websocket_pool_slots{N})", "taken"),
            ("max(websocket_pool_limit{N})", "limit"),
        ],
    ),
]

NODE: list[tuple[str, str, str, list[Query]]] = [
    (
        "Open connections",
        "Each node's share; a lasting difference is worth a look.",
        "short",
        [("sum by (instance) (active_websocket_connections{N})", "{{instance}}")],
    ),
    (
        "Event-loop lag",
        "How far a node's loop was behind, at worst.",
        "s",
        [("websocket_event_loop_lag_seconds{N}", "{{instance}}")],
    ),
    (
        "Consumers against connections",
        "Consumers alive beyond open connections, and what is suspected as a leak.",
        "short",
        [
            (
                "websocket_consumers_alive{N} - on (job, instance)"
                " sum by (job, instance) (active_websocket_connections{N})",
                "{{instance}} more consumers",
            ),
            ("websocket_leak_suspects{N}", "{{instance}} suspects"),
        ],
    ),
    (
        "Memory per connection",
        "What the process grew by since its start, for each open connection.",
        "bytes",
        [("websocket_memory_per_connection_bytes{N}", "{{instance}}")],
    ),
    (
        "Unsent bytes",
        "What clients have not read yet, in all and of the slowest.",
        "bytes",
        [
            ("websocket_send_buffer_bytes{N}", "{{instance}} in all"),
            ("websocket_send_buffer_max_bytes{N}", "{{instance}} most of one"),
        ],
    ),
    (
        "Slow consumers and rate limits",
        "Connections over the high-water mark; messages dropped a second.",
        "short",
        [
            ("websocket_slow_consumers{N}", "{{instance}} slow"),
            ("rate(websocket_rate_limited_total{N}[R])", "{{instance}} dropped"),
        ],
    ),
    (
        "Round trips",
        "95 of 100 pings were answered within so long.",
        "s",
        [
            (
                "histogram_quantile(0.95, sum by (instance, le)"
                " (rate(websocket_ping_round_trip_seconds_bucket{N}[R])))",
                "{{instance}}",
            )
        ],
    ),
    (
        "Recorder's backlog",
        "Rows that wait for the database.",
        "short",
        [("websocket_recorder_pending_rows{N}", "{{instance}}")],
    ),
    (
        "Recorder's lag",
        "How long the oldest row has waited.",
        "s",
        [("websocket_recorder_lag_seconds{N}", "{{instance}}")],
    ),
    (
        "Leases",
        "Since a node renewed its leases; beyond node.lease_seconds they are lost.",
        "s",
        [("websocket_lease_age_seconds{N}", "{{instance}}")],
    ),
    (
        "Failures of a node's own parts",
        "Each is tried again; what does not stop is a fault.",
        "ops",
        [
            (
                "sum by (instance, part) (rate(websocket_failures_total{N}[R]))",
                "{{instance}} {{part}}",
            )
        ],
    ),
    (
        "Last sweep",
        "Since a sweep was last finished.",
        "s",
        [
            (
                "time() - max(websocket_sweeper_last_run_timestamp_seconds{N})",
                "last sweep",
            )
        ],
    ),
]


def build() -> dict[str, str]:
    """Return the text of each board by its file's name."""
    overview = _begin("Orchestra: overview", "orchestra-overview")
    node = _begin("Orchestra: nodes", "orchestra-nodes")
    top = _add_stats(overview)
    _add_panels(overview, OVERVIEW, top)
    _add_panels(node, NODE, 0)
    return {"overview.json": _encode(overview), "nodes.json": _encode(node)}


def _begin(title: str, uid: str) -> Dashboard:
    board = Dashboard(title).uid(uid).readonly().refresh("30s").time("now-3h", "now")
    board.tags(["orchestra", "websocket"])
    board.with_variable(
        DatasourceVariable("datasource").label("Data source").type("prometheus")
    )
    for name in ("job", "instance"):
        board.with_variable(
            QueryVariable(name)
            .label(name.capitalize())
            .datasource(SOURCE)
            .query(f"label_values(active_websocket_connections, {name})")
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    return board


def _add_stats(board: Dashboard) -> int:
    for index, (title, description, unit, expression) in enumerate(STATS):
        place = GridPos(
            h=_STAT_HEIGHT, w=_STAT_WIDTH, x=index * _STAT_WIDTH % _WIDTH, y=0
        )
        board.with_panel(
            Stat()
            .id(index + 1)
            .title(title)
            .description(description)
            .unit(unit)
            .datasource(SOURCE)
            .grid_pos(place)
            .with_target(_make_query(expression, title))
        )
    return _STAT_HEIGHT


def _add_panels(
    board: Dashboard, panels: list[tuple[str, str, str, list[Query]]], top: int
) -> None:
    for index, (title, description, unit, queries) in enumerate(panels):
        column, row = index % 2, index // 2
        place = GridPos(
            h=_PANEL_HEIGHT,
            w=_PANEL_WIDTH,
            x=column * _PANEL_WIDTH,
            y=top + row * _PANEL_HEIGHT,
        )
        panel = Timeseries().id(101 + index).title(title).description(description)
        panel.unit(unit).datasource(SOURCE).grid_pos(place).min(0)
        for number, (expression, legend) in enumerate(queries):
            query = _make_query(expression, legend).ref_id("ABCD"[number])
            panel.with_target(query)
        board.with_panel(panel)


def _make_query(expression: str, legend: str) -> Dataquery:
    whole = expression.replace("{N}", f"{{{_NODES}}}").replace("{N,", f"{{{_NODES},")
    whole = whole.replace("[R]", "[$__rate_interval]")
    return Dataquery().expr(whole).legend_format(legend).datasource(SOURCE).ref_id("A")


def _encode(board: Dashboard) -> str:
    text: Any = JSONEncoder(sort_keys=True, indent=2).encode(board.build())
    return f"{text}\n"


def main() -> None:
    """Write the boards."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    for name, text in build().items():
        json.loads(text)
        (BOARDS / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
