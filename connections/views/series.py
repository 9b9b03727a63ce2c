"""Describe the counters of a node as families of Prometheus metrics."""

import platform
import time
from collections.abc import Iterator

import channels
import django
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from connections.close_codes import APPLICATION, CLOSE_REASONS, PEER
from connections.metrics.counters import (
    CREDENTIAL_OUTCOMES,
    UNKNOWN_ROUTE,
    CompressionCounts,
    RouteCounters,
    Tally,
)
from connections.node.node import Node
from connections.node.recorder import Recorder
from connections.version import VERSION
from connections.views.families import add_sizes, count_by, make_histogram
from connections.views.presence import describe_presence

_REASONS = (*CLOSE_REASONS, APPLICATION, PEER)
_ERROR_KINDS = ("internal", "invalid_json", "invalid_message", "unknown_type")
_HTTP_REASONS = (
    "application_timeout",
    "bad_request",
    "body_too_large",
    "busy",
    "not_stored",
    "over_budget",
    "timeout",
    "too_many_requests",
)
_RESUME_OUTCOMES = ("new", "resumed", "nothing_missed", "gap", "reset")


def describe_series(node: Node) -> Iterator[Metric]:
    """Yield the metrics of a node; called on its event loop."""
    yield from _describe_traffic(node)
    yield from _describe_ends(node)
    yield from _describe_latencies(node)
    yield from _describe_buffers(node)
    yield _describe_compression(node.counters.compression)
    yield from _describe_pool(node)
    yield from describe_presence(node.presence)
    yield from _describe_health(node)
    yield from _describe_configuration(node)
    if node.recorder is not None:
        yield from _describe_recorder(node.recorder)


def _describe_traffic(node: Node) -> Iterator[Metric]:
    routes = node.counters.measure_routes(node.hub)
    routes.setdefault(UNKNOWN_ROUTE, RouteCounters())
    active = GaugeMetricFamily(
        "active_websocket_connections", "Open connections.", labels=["route"]
    )
    outcomes = CounterMetricFamily(
        "websocket_connections",
        "Answered handshakes by outcome: accepted, or the reason of the refusal.",
        labels=["route", "outcome"],
    )
    messages = CounterMetricFamily(
        "websocket_messages", "Messages by direction.", labels=["route", "direction"]
    )
    sizes = CounterMetricFamily(
        "websocket_message_bytes",
        "Bytes of message payloads.",
        labels=["route", "direction"],
    )
    by_size = HistogramMetricFamily(
        "websocket_message_size_bytes",
        "Sizes of message payloads; a route has them from its first message on.",
        labels=["route", "direction"],
    )
    would_have = CounterMetricFamily(
        "websocket_would_have",
        "Decisions of limits that are observed and not enforced, by limit.",
        labels=["limit", "route"],
    )
    refused = Tally(node.counters.refused_early)
    for route, counted in routes.items():
        active.add_metric([route], counted.open_connections)
        messages.add_metric([route, "in"], counted.messages_in)
        messages.add_metric([route, "out"], counted.messages_out)
        sizes.add_metric([route, "in"], counted.bytes_in)
        sizes.add_metric([route, "out"], counted.bytes_out)
        add_sizes(by_size, [route, "in"], counted.sizes_in, counted.bytes_in)
        add_sizes(by_size, [route, "out"], counted.sizes_out, counted.bytes_out)
        observed = node.config.enforce.find_observed(route)
        for limit, count in (dict.fromkeys(observed, 0) | counted.would_have).items():
            would_have.add_metric([limit, route], count)
        answered = {"accepted": 0, "pool_full": 0, **counted.outcomes}
        if route == UNKNOWN_ROUTE:
            for outcome, count in refused.items():
                answered[outcome] = answered.get(outcome, 0) + count
        for outcome, count in answered.items():
            outcomes.add_metric([route, outcome], count)
    yield from (active, outcomes, messages, sizes, by_size, would_have)
    recent = node.meter.get_recent()
    rate = GaugeMetricFamily(
        "websocket_message_rate",
        "Messages per second over the last 60 seconds.",
        labels=["direction"],
    )
    rate.add_metric(["in"], recent["messages_in"] / recent["seconds"])
    rate.add_metric(["out"], recent["messages_out"] / recent["seconds"])
    yield rate
    yield GaugeMetricFamily(
        "websocket_error_rate",
        "Share of received messages whose handling failed, over the last 60 seconds.",
        recent["errors"] / max(recent["messages_in"], recent["errors"], 1),
    )


def _describe_ends(node: Node) -> Iterator[Metric]:
    counters = node.counters
    outcomes = Tally()
    for route in counters.routes.values():
        for outcome, count in route.outcomes.items():
            outcomes.add(outcome, count)
    failures = {word: outcomes.get(word, 0) for word in sorted(CREDENTIAL_OUTCOMES)}
    yield count_by(
        "websocket_disconnects",
        "Connections that ended, by reason.",
        "reason",
        dict.fromkeys(_REASONS, 0) | counters.ends,
    )
    yield count_by(
        "websocket_errors",
        "Messages whose handling failed, by kind.",
        "kind",
        dict.fromkeys(_ERROR_KINDS, 0) | counters.errors,
    )
    yield count_by(
        "websocket_auth_failures",
        "Handshakes refused because of their credentials.",
        "reason",
        failures,
    )
    yield count_by(
        "websocket_http_refused",
        "HTTP requests that the server refused before the application, by reason.",
        "reason",
        {**dict.fromkeys(_HTTP_REASONS, 0), **counters.refused_requests},
    )
    yield count_by(
        "websocket_resumes",
        "Sessions attached, by outcome.",
        "outcome",
        dict.fromkeys(_RESUME_OUTCOMES, 0) | counters.resumes,
    )
    yield GaugeMetricFamily(
        "websocket_attached_sessions",
        "Sessions that open connections are attached to, counted for each connection.",
        counters.attached_sessions,
    )
    yield count_by(
        "websocket_failures",
        "Failures of the node's periodic work, by part; each is retried.",
        "part",
        counters.get_failures(),
    )
    yield CounterMetricFamily(
        "websocket_rate_limited",
        "Messages dropped or delayed because their connection exceeded its rate.",
        counters.rate_limited,
    )
    yield CounterMetricFamily(
        "websocket_evicted",
        "Connections closed to admit a newer one of the same client.",
        counters.ends.get("evicted", 0),
    )


def _describe_latencies(node: Node) -> Iterator[Metric]:
    counters = node.counters
    about = "Durations of ended connections, in seconds."
    # The first name is the specified one; the second follows the convention of
    # a unit at the end.
    yield make_histogram("websocket_connection_duration", about, counters.durations)
    yield make_histogram(
        "websocket_connection_duration_seconds", about, counters.durations
    )
    yield make_histogram(
        "websocket_handler_duration_seconds",
        "Duration of handling a message, in seconds.",
        counters.handling,
    )
    yield make_histogram(
        "websocket_ack_duration_seconds",
        "Seconds from a session's message to its ack, which follows the commit.",
        counters.acks,
    )
    yield make_histogram(
        "websocket_ping_round_trip_seconds",
        "Seconds from a ping to its pong.",
        counters.round_trips,
    )


def _describe_buffers(node: Node) -> Iterator[Metric]:
    transports = (one.transport for one in node.hub if one.transport is not None)
    unsent = [transport.unsent_bytes for transport in transports]
    high_water = node.config.buffers.send_high_water
    yield GaugeMetricFamily(
        "websocket_send_buffer_bytes", "Unsent bytes of all connections.", sum(unsent)
    )
    yield GaugeMetricFamily(
        "websocket_send_buffer_max_bytes",
        "Unsent bytes of the connection with the most.",
        max(unsent, default=0),
    )
    yield GaugeMetricFamily(
        "websocket_slow_consumers",
        "Connections with more unsent bytes than buffers.send_high_water.",
        sum(size > high_water for size in unsent),
    )


def _describe_compression(counted: CompressionCounts) -> Metric:
    return count_by(
        "websocket_compressed_bytes",
        "Bytes of the messages that were sent compressed, before and after.",
        "size",
        {"before": counted.before_bytes, "after": counted.after_bytes},
    )


def _describe_pool(node: Node) -> Iterator[Metric]:
    if node.usage is not None:
        yield GaugeMetricFamily(
            "websocket_pool_slots", "Taken slots of all nodes.", node.usage.slots
        )
        yield GaugeMetricFamily(
            "websocket_pool_clients", "Clients that hold slots.", node.usage.clients
        )
        yield GaugeMetricFamily(
            "websocket_pool_limit", "Slots in total.", node.usage.limit
        )
    yield GaugeMetricFamily(
        "websocket_pool_degraded",
        "1 while limits are not enforced across nodes.",
        node.pool.is_degraded,
    )
    yield GaugeMetricFamily(
        "websocket_lease_age_seconds",
        "Seconds since this node last renewed its leases.",
        node.clock() - node.renewed_at,
    )


def _describe_health(node: Node) -> Iterator[Metric]:
    now = node.clock()
    yield GaugeMetricFamily(
        "websocket_event_loop_lag_seconds",
        "Greatest delay of the event loop in the last 10 seconds.",
        node.meter.lag_seconds,
    )
    yield GaugeMetricFamily(
        "websocket_consumers_alive",
        "Running consumers.",
        node.counters.consumers,
    )
    yield GaugeMetricFamily(
        "websocket_consumers_stuck",
        "Consumers that still run 60 seconds after their connection ended.",
        node.counters.count_stuck(now),
    )
    yield GaugeMetricFamily(
        "websocket_memory_per_connection_bytes",
        "Growth of the process since its start, per open connection.",
        node.meter.bytes_per_connection,
    )
    yield GaugeMetricFamily(
        "websocket_leak_suspects",
        "Objects and slots left 60 seconds after their connection ended.",
        len(node.leaks.suspects),
    )
    yield from _describe_steps(node)
    if node.database is not None:
        yield GaugeMetricFamily(
            "websocket_database_up",
            "1 while the database answers reads and accepts writes of this node.",
            node.database.failure is None,
        )
    yield GaugeMetricFamily(
        "websocket_draining",
        "1 while the node drains.",
        node.is_draining,
    )
    cluster_monitor = node.cluster_monitor
    if cluster_monitor is None:
        return
    yield GaugeMetricFamily(
        "websocket_nodes_lost",
        "Nodes found dead in the last 10 minutes.",
        cluster_monitor.lost_nodes,
    )
    age_seconds = cluster_monitor.sweep_age_seconds
    if age_seconds is not None:
        yield GaugeMetricFamily(
            "websocket_sweeper_last_run_timestamp_seconds",
            "Time of the last finished sweep; without one, the oldest node's start.",
            time.time() - age_seconds,
        )


def _describe_steps(node: Node) -> Iterator[Metric]:
    now = time.time()
    succeeded = GaugeMetricFamily(
        "websocket_step_last_success_timestamp_seconds",
        "Time of the last success of a periodic step, or of its first start.",
        labels=["step"],
    )
    for name, age_seconds in node.steps.get_ages().items():
        succeeded.add_metric([name], now - age_seconds)
    intervals = GaugeMetricFamily(
        "websocket_step_interval_seconds",
        "Interval of a periodic step.",
        labels=["step"],
    )
    for name, interval_seconds in node.steps.get_intervals().items():
        intervals.add_metric([name], interval_seconds)
    yield from (succeeded, intervals)
    yield GaugeMetricFamily(
        "websocket_steps_overdue",
        "Periodic steps without success for three of their intervals.",
        len(node.steps.find_overdue()),
    )
    monitor = node.cluster_monitor
    yield GaugeMetricFamily(
        "websocket_sweep_parts_overdue",
        "Parts of the sweep without success for three of its intervals.",
        len(monitor.overdue_parts) if monitor is not None else 0,
    )


def _describe_recorder(recorder: Recorder) -> Iterator[Metric]:
    dropped = recorder.dropped
    yield GaugeMetricFamily(
        "websocket_recorder_pending_rows",
        "Rows that wait for the database.",
        recorder.pending,
    )
    yield GaugeMetricFamily(
        "websocket_recorder_lag_seconds",
        "Age of the oldest waiting row, in seconds.",
        recorder.lag_seconds,
    )
    yield count_by(
        "websocket_recorder_dropped",
        "Rows dropped because the backlog was full or the database rejected them.",
        "what",
        {name: getattr(dropped, name) for name in dropped.__slots__},
    )


def _describe_configuration(node: Node) -> Iterator[Metric]:
    config = node.config
    yield InfoMetricFamily(
        "websocket_build",
        "Versions of the software.",
        {
            "version": VERSION,
            "python": platform.python_version(),
            "django": django.get_version(),
            "channels": channels.__version__,
        },
    )
    yield InfoMetricFamily(
        "websocket_config",
        "Policies in force.",
        {
            "on_client_limit": config.on_client_limit,
            "on_pool_outage": config.on_pool_outage,
            "pool": node.pool_kind,
            "anonymous": str(config.anonymous).lower(),
        },
    )
    yield GaugeMetricFamily(
        "websocket_max_connections",
        "max_total_connections",
        config.max_total_connections,
    )
    yield GaugeMetricFamily(
        "websocket_max_connections_per_client",
        "max_connections_per_client",
        config.max_connections_per_client,
    )
    yield GaugeMetricFamily(
        "websocket_idle_timeout_seconds",
        "idle_timeout_seconds",
        config.idle_timeout_seconds,
    )
    yield GaugeMetricFamily(
        "websocket_max_message_bytes", "max_message_size", config.max_message_size
    )
