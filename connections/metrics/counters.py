"""
Count the events of one node since its start, as plain numbers without locks.

Only the node's event loop touches the counters of a node. Messages and bytes are
counted once: each connection counts its own, and a route holds the sums of those
that have closed. record_failure() is for other threads.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connections.hub.connection import LiveConnection

DURATION_EDGES = (0.5, 1, 5, 15, 30, 60, 300, 900, 3600, 14400, 43200, 86400)
"""Upper edges, in seconds, of the durations of connections; one more is open."""

_MILLISECONDS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
LATENCY_EDGES = tuple(edge / 1000 for edge in _MILLISECONDS)
"""Upper edges, in seconds, of handling, acks and round trips; one more is open."""

SIZE_EXPONENTS = (6, 8, 10, 12, 14, 16, 18, 20)
"""The upper edges of message sizes, as powers of two bytes; one more is open."""

_SIZES = 65
"""One count for each length of a number of 64 bits."""

OTHER = "other"
"""The label for everything beyond a bound on labels."""

UNKNOWN_ROUTE = "unknown"
"""The route of handshakes that were refused before their route was known."""

CREDENTIAL_OUTCOMES = frozenset(
    (
        "unauthenticated",
        "forbidden",
        "banned",
        "logged_out",
        "revoked",
        "deactivated",
        "token_expired",
    )
)
"""Outcomes of a handshake that count as an authentication failure."""

UNPLANNED_ENDS = frozenset(
    ("network", "dead", "lost", "slow_consumer", "internal_error", "unavailable")
)
"""Reasons of unplanned ends, which mass disconnects consist of."""

_MAX_ROUTES = 100
_MAX_LABELS = 60
_LINGERING_SECONDS = 60

_declared_routes: dict[str, None] = {}

Totals = dict[str, Any]
"""Cumulative numbers by name; nested mappings by label, lists by bucket."""


def declare_route(pattern: str) -> None:
    """Declare a route before its first handshake, so that its series start at 0."""
    _declared_routes[pattern] = None


class Tally(dict[str, int]):
    """Counts by label; labels beyond a bound count as other."""

    __slots__ = ()

    def add(self, label: str, amount: int = 1) -> None:
        """Add an amount to the count of a label."""
        if label not in self and len(self) >= _MAX_LABELS:
            label = OTHER
        self[label] = self.get(label, 0) + amount


_process_failures = Tally()
_process_failures_lock = threading.Lock()


def record_failure(part: str) -> None:
    """Count a failure of a part that runs outside of the event loop; thread-safe."""
    with _process_failures_lock:
        _process_failures.add(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedDuration:
    """One duration of a histogram whose span is exported: an exemplar."""

    seconds: float
    trace_id: str
    span_id: str
    at: float
    """Seconds since 1970."""


class Histogram:
    """Durations in buckets of fixed upper edges, and their sum."""

    __slots__ = ("_first_edge", "counts", "edges", "exemplars", "sum_seconds")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self._first_edge = edges[0]
        self.counts = [0] * (len(edges) + 1)
        self.sum_seconds = 0.0
        self.exemplars: dict[int, TracedDuration] = {}
        """The newest one of each bucket, by its index; empty without traces."""

    def keep_exemplar(self, seconds: float, trace_id: str, span_id: str) -> None:
        """Keep the span of a duration, which observe() counts, for its bucket."""
        self.exemplars[bisect_left(self.edges, seconds)] = TracedDuration(
            seconds=seconds, trace_id=trace_id, span_id=span_id, at=time.time()
        )

    def observe(self, seconds: float) -> None:
        """Count one duration; an edge belongs to the bucket below it."""
        self.sum_seconds += seconds
        if seconds <= self._first_edge:
            # Most messages are handled within a millisecond.
            self.counts[0] += 1
        else:
            self.counts[bisect_left(self.edges, seconds)] += 1


def make_sizes() -> list[int]:
    """
    Return counts of messages by size, for `sizes[(size_bytes - 1).bit_length()] += 1`.

    The count at n is that of messages of more than 2 ** (n - 1) and at most 2 ** n
    bytes, so that a message costs neither a call nor a search.
    """
    return [0] * _SIZES


class CompressionCounts:
    """The bytes of compressed messages of all clients, before and after."""

    __slots__ = ("after_bytes", "before_bytes")

    def __init__(self) -> None:
        self.before_bytes = 0
        self.after_bytes = 0


class RouteCounters:
    """The counts of one route; traffic is that of closed connections."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "messages_in",
        "messages_out",
        "open_connections",
        "outcomes",
        "sizes_in",
        "sizes_out",
        "would_have",
    )

    def __init__(self) -> None:
        self.sizes_in = make_sizes()
        """Messages by size; unlike the sums, also those of open connections."""
        self.sizes_out = make_sizes()
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.outcomes = Tally()
        self.would_have = Tally()
        """Decisions of limits that are observed and not enforced, by limit."""
        self.open_connections = 0
        """Set by measure_routes() on the copies that it returns."""

    def add_traffic(self, counted: "LiveConnection | RouteCounters") -> None:
        """Add the traffic of a connection or another route."""
        self.messages_in += counted.messages_in
        self.messages_out += counted.messages_out
        self.bytes_in += counted.bytes_in
        self.bytes_out += counted.bytes_out


class Counters:
    """The counters of a node, cumulative since its start."""

    __slots__ = (
        "_lingering",
        "acks",
        "attached_sessions",
        "compression",
        "consumers",
        "durations",
        "ends",
        "errors",
        "failures",
        "handling",
        "max_open",
        "rate_limited",
        "refused_early",
        "refused_requests",
        "resumes",
        "round_trips",
        "routes",
    )

    def __init__(self) -> None:
        self.routes = {route: RouteCounters() for route in _declared_routes}
        self.ends = Tally()
        """Connections that ended, by reason."""
        self.errors = Tally()
        """Messages whose handling failed, by kind: internal, invalid_json ..."""
        self.failures = Tally()
        """Failures of the node's own parts on the event loop, by part."""
        self.resumes = Tally()
        """Attached sessions, by outcome."""
        self.attached_sessions = 0
        """Sessions that open connections are attached to, counted for each."""
        self.refused_early: Mapping[str, int] = {}
        """Handshakes that the server refused by itself, by reason."""
        self.refused_requests: Mapping[str, int] = {}
        """HTTP requests that the server refused by itself, by reason."""
        self.rate_limited = 0
        self.max_open = 0
        """The maximum of open connections in the minute under way."""
        self.consumers = 0
        """Consumers that have started and not returned."""
        self.durations = Histogram(DURATION_EDGES)
        self.handling = Histogram(LATENCY_EDGES)
        self.acks = Histogram(LATENCY_EDGES)
        self.round_trips = Histogram(LATENCY_EDGES)
        self.compression = CompressionCounts()
        # Connections that ended while their consumer still runs, and when they ended.
        self._lingering: dict[str, float] = {}

    def get_failures(self) -> Tally:
        """Return the failures of the node's own parts, and of other threads."""
        failures = Tally(self.failures)
        with _process_failures_lock:
            for part, count in _process_failures.items():
                failures.add(part, count)
        return failures

    def get_route(self, route: str) -> RouteCounters:
        """Return the counters of a route; beyond the bound on routes, of other."""
        route = route or UNKNOWN_ROUTE
        if route not in self.routes and len(self.routes) >= _MAX_ROUTES:
            route = OTHER
        found = self.routes.get(route)
        if found is None:
            found = self.routes[route] = RouteCounters()
        return found

    def record_outcome(self, route: str, outcome: str) -> None:
        """Count the outcome of a handshake."""
        self.get_route(route).outcomes.add(outcome)

    def record_would_have(self, route: str, limit: str) -> None:
        """Count a decision of a limit that is observed and not enforced."""
        self.get_route(route).would_have.add(limit)

    def record_opened(self, connection: "LiveConnection", open_count: int) -> None:
        """Count an admitted connection; open_count includes it."""
        self.record_outcome(connection.route, "accepted")
        self.max_open = max(self.max_open, open_count)

    def record_closed(
        self, connection: "LiveConnection", reason: str, now: float
    ) -> None:
        """Count the end of a connection, and its traffic."""
        self.get_route(connection.route).add_traffic(connection)
        self.ends.add(reason)
        self.durations.observe(now - connection.opened_monotonic)
        self._lingering[connection.connection_id] = now

    def record_returned(self, connection_id: str) -> None:
        """Count a consumer that has returned."""
        self.consumers -= 1
        self._lingering.pop(connection_id, None)

    def count_stuck(self, now: float) -> int:
        """Return how many consumers still run a minute after their connection."""
        latest = now - _LINGERING_SECONDS
        return sum(left_at <= latest for left_at in self._lingering.values())

    def measure_routes(
        self, connections: Iterable["LiveConnection"]
    ) -> dict[str, RouteCounters]:
        """Return a copy of each route's counters that includes open connections."""
        copies = {id(counters): RouteCounters() for counters in self.routes.values()}
        for counters in self.routes.values():
            whole = copies[id(counters)]
            whole.add_traffic(counters)
            whole.outcomes = counters.outcomes
            whole.would_have = counters.would_have
            whole.sizes_in = counters.sizes_in
            whole.sizes_out = counters.sizes_out
        for connection in connections:
            whole = copies[id(self.get_route(connection.route))]
            whole.add_traffic(connection)
            whole.open_connections += 1
        return {route: copies[id(found)] for route, found in self.routes.items()}

    def get_totals(self, connections: Iterable["LiveConnection"]) -> Totals:
        """Return the sums over all routes; connections are those open now."""
        traffic = RouteCounters()
        refused = Tally(self.refused_early)
        would_have = Tally()
        opened = 0
        for route in self.routes.values():
            traffic.add_traffic(route)
            for limit, count in route.would_have.items():
                would_have.add(limit, count)
            for outcome, count in route.outcomes.items():
                if outcome == "accepted":
                    opened += count
                else:
                    refused.add(outcome, count)
        messages_in, messages_out = traffic.messages_in, traffic.messages_out
        bytes_in, bytes_out = traffic.bytes_in, traffic.bytes_out
        # This runs once a second for every connection, so it calls no function.
        for one in connections:
            messages_in += one.messages_in
            messages_out += one.messages_out
            bytes_in += one.bytes_in
            bytes_out += one.bytes_out
        return {
            "opened": opened,
            "messages_in": messages_in,
            "messages_out": messages_out,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "rate_limited": self.rate_limited,
            "duration_seconds": self.durations.sum_seconds,
            "handling_seconds": self.handling.sum_seconds,
            "ack_seconds": self.acks.sum_seconds,
            "ends": dict(self.ends),
            "errors": dict(self.errors),
            "refused": dict(refused),
            "resumes": dict(self.resumes),
            "would_have": dict(would_have),
            "durations": list(self.durations.counts),
            "handling": list(self.handling.counts),
            "acks": list(self.acks.counts),
        }


def subtract(later: Totals, earlier: Totals) -> Totals:
    """Return the difference of two totals; unchanged labels are left out."""
    moved: Totals = {}
    for name, value in later.items():
        before = earlier.get(name)
        if isinstance(value, dict):
            difference: Any = subtract(value, before or {})
        elif isinstance(value, list):
            counts = before or [0] * len(value)
            difference = [now - then for now, then in zip(value, counts, strict=True)]
            if not any(difference):
                continue
        else:
            difference = value - (before or 0)
        if difference:
            moved[name] = difference
    return moved


def add(one: Totals, other: Totals) -> Totals:
    """Return the sum of two differences; of names with max_, the larger value."""
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if before is None:
            total[name] = value
        elif isinstance(value, dict):
            total[name] = add(before, value)
        elif isinstance(value, list):
            total[name] = [a + b for a, b in zip(before, value, strict=True)]
        elif name.startswith("max_"):
            total[name] = max(before, value)
        else:
            total[name] = before + value
    return total
