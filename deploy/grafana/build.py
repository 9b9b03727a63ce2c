"""
Generate the two Grafana boards: `python deploy/grafana/build.py`.

The JSON is committed, so that users of a board do not need the SDK; a test
compares it with the output of this script.
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
"""An expression and its legend; {N} becomes the selector, [R] the interval."""

STATS: list[tuple[str, str, str, str]] = [
    ("Open", "Open connections.", "short", "sum(active_websocket_connections{N})"),
    (
        "Pool",
        "Share of max_total_connections that is taken.",
        "percentunit",
        "max(websocket_pool_slots{N} / websocket_pool_limit{N})",
    ),
    (
        "Messages in",
        "Messages from clients per second.",
        "ops",
        'sum(rate(websocket_messages_total{N, direction="in"}[R]))',
    ),
    (
        "Errors",
        "Share of received messages whose handling failed.",
        "percentunit",
        "sum(rate(websocket_errors_total{N}[R])) /"
        ' clamp_min(sum(rate(websocket_messages_total{N, direction="in"}[R])), 1)',
    ),
    (
        "Loop lag",
        "Greatest delay of any event loop in the last ten seconds.",
        "s",
        "max(websocket_event_loop_lag_seconds{N})",
    ),
    (
        "Degraded",
        "Nodes that do not enforce limits across nodes.",
        "short",
        "sum(websocket_pool_degraded{N})",
    ),
]

OVERVIEW: list[tuple[str, str, str, list[Query]]] = [
    (
        "Open connections by route",
        "Open connections by route.",
        "short",
        [("sum by (route) (active_websocket_connections{N})", "{{route}}")],
    ),
    (
        "Handshakes by outcome",
        "Answered handshakes per second, by outcome.",
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
        "Ended connections per second, by reason.",
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
        "Messages per second from and to clients.",
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
        "Messages per second whose handling failed, by kind.",
        "ops",
        [("sum by (kind) (rate(websocket_errors_total{N}[R]))", "{{kind}}")],
    ),
    (
        "Session duration",
        "Durations of ended connections.",
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
        "95th percentile of handling a message, and of sending an ack.",
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
        "Handshakes per second refused for their credentials.",
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
        "Sessions attached per second, by outcome.",
        "ops",
        [("sum by (outcome) (rate(websocket_resumes_total{N}[R]))", "{{outcome}}")],
    ),
    (
        "Pool",
        "Taken slots, and the limit.",
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
        "Open connections of each node.",
        "short",
        [("sum by (instance) (active_websocket_connections{N})", "{{instance}}")],
    ),
    (
        "Event-loop lag",
        "Greatest delay of each node's event loop.",
        "s",
        [("websocket_event_loop_lag_seconds{N}", "{{instance}}")],
    ),
    (
        "Consumers against connections",
        "Running consumers beyond open connections, and suspected leaks.",
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
        "Growth of the process since its start, per open connection.",
        "bytes",
        [("websocket_memory_per_connection_bytes{N}", "{{instance}}")],
    ),
    (
        "Unsent bytes",
        "Bytes that clients have not read yet, in total and of the slowest.",
        "bytes",
        [
            ("websocket_send_buffer_bytes{N}", "{{instance}} total"),
            ("websocket_send_buffer_max_bytes{N}", "{{instance}} maximum"),
        ],
    ),
    (
        "Slow consumers and rate limits",
        "Connections over the high-water mark; dropped messages per second.",
        "short",
        [
            ("websocket_slow_consumers{N}", "{{instance}} slow"),
            ("rate(websocket_rate_limited_total{N}[R])", "{{instance}} dropped"),
        ],
    ),
    (
        "Round trips",
        "95th percentile of the time from ping to pong.",
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
        "Age of the oldest waiting row.",
        "s",
        [("websocket_recorder_lag_seconds{N}", "{{instance}}")],
    ),
    (
        "Leases",
        "Time since each node renewed its leases; these last node.lease_seconds.",
        "s",
        [("websocket_lease_age_seconds{N}", "{{instance}}")],
    ),
    (
        "Failures of periodic work",
        "Failures per second, by part; the node retries each.",
        "ops",
        [
            (
                "sum by (instance, part) (rate(websocket_failures_total{N}[R]))",
                "{{instance}} {{part}}",
            )
        ],
    ),
    (
        "Database",
        "1 while the database answers reads and accepts writes of the node.",
        "bool_on_off",
        [("websocket_database_up{N}", "{{instance}}")],
    ),
    (
        "Overdue steps",
        "Periodic steps of nodes, and parts of the sweep, that have not succeeded for"
        " three of their intervals.",
        "short",
        [
            ("websocket_steps_overdue{N}", "{{instance}} steps"),
            ("max(websocket_sweep_parts_overdue{N})", "parts of the sweep"),
        ],
    ),
    (
        "Intervals since the last success",
        "Time since a periodic step last succeeded, in its own intervals; the five"
        " oldest. From three on the step is overdue.",
        "short",
        [
            (
                "topk(5, (time() - websocket_step_last_success_timestamp_seconds{N})"
                " / websocket_step_interval_seconds{N})",
                "{{instance}} {{step}}",
            )
        ],
    ),
    (
        "Last sweep",
        "Time since the last finished sweep.",
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
