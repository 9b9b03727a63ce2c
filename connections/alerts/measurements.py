"""Read the values that alert rules compare, from the nodes' rows and minutes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import (
    Count,
    DurationField,
    ExpressionWrapper,
    F,
    QuerySet,
    Sum,
)
from django.utils import timezone

from connections.config.alert_rules import AlertRule
from connections.metrics.counters import CREDENTIAL_OUTCOMES
from connections.metrics.steps import is_overdue
from connections.models import ErrorEvent, MinuteRollup, Node, Sweep
from connections.models.clock import Now
from connections.models.minute_rollup import MinuteRollupQuerySet
from connections.models.node import NodeQuerySet
from connections.units import as_utc

LOST_WITHIN = timedelta(minutes=10)
"""How long a lost node is counted."""

_MOST_OPEN_WITHIN = timedelta(minutes=10)
_DETAIL_LENGTH = 255
_MOST_NAMED = 3
_ERRORS_WITHIN = timedelta(minutes=1)
_LAG_SECONDS = 0.1


@dataclass(slots=True, kw_only=True)
class Measurements:
    """The measurements of a cluster; recent counts are of the last minute."""

    recent: Counter[str] = field(default_factory=Counter)
    open_connections: int = 0
    most_open: int = 0
    """The maximum at the end of a minute, in the last ten minutes."""
    pool_part: float = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Refused handshakes by reason, in the last whole minute and the present one."""
    ends: Counter[str] = field(default_factory=Counter)
    """Ended connections by reason, in the same minutes."""
    full_pools: list[str] = field(default_factory=list)
    """Who was refused and who holds the slots, for each node that refuses."""
    degraded_pools: list[str] = field(default_factory=list)
    """
    The nodes without the shared pool, each with the reason.

    Without those whose pool was lost with their database: database_down is the alert.
    """
    lost: list[str] = field(default_factory=list)
    """The lost nodes, each with its last beat."""
    lagging: list[str] = field(default_factory=list)
    """The nodes whose event loop lags, and by how much."""
    waiting: list[str] = field(default_factory=list)
    """The nodes whose records wait for the database, and how many."""
    databases_down: int = 0
    """Nodes without a database; each node alone knows it, so no row says so."""
    outliving: int = 0
    """Consumers, objects and slots that outlive their connection."""
    sweep_age_seconds: float = 0
    overdue_steps: list[str] = field(default_factory=list)
    """The names of periodic steps, once for each node."""
    recorder_lag_seconds: float = 0
    loop_lag_seconds: float = 0


def read_measurements(
    nodes: NodeQuerySet | None = None, minutes: MinuteRollupQuerySet | None = None
) -> Measurements:
    """
    Read the measurements of all nodes, or of the given ones.

    The caller is a sweeper, so the age of the last sweep is 0. Nodes measure that
    age themselves.
    """
    is_whole = nodes is None
    nodes = Node.objects.all() if nodes is None else nodes
    minutes = MinuteRollup.objects.all() if minutes is None else minutes
    measurements = Measurements(
        lost=[
            f"{_name(node)}, last beat {as_utc(node.beat_at):%H:%M:%S} UTC"
            for node in nodes.lost_since(Now() - LOST_WITHIN)
        ]
    )
    for node in nodes.live():
        counters = node.counters
        measurements.open_connections += node.open_connections
        place = _name(node)
        for minute in (*node.unrolled[-1:], node.minute):
            measurements.refused.update(minute.get("refused", {}))
            measurements.ends.update(minute.get("ends", {}))
        if node.loop_lag_seconds >= _LAG_SECONDS:
            measurements.lagging.append(f"{place}: {node.loop_lag_seconds:.2g} s")
        if pending := counters.get("recorder_pending"):
            measurements.waiting.append(f"{place}: {pending} records")
        if node.degraded and not counters.get("pool_lost_with_database"):
            measurements.degraded_pools.append(f"{place}: {node.degraded}")
        if counters.get("pool_full"):
            measurements.full_pools.append(f"{place}: {counters['pool_full']}")
        measurements.outliving += counters.get("stuck_consumers", 0)
        measurements.outliving += counters.get("leak_suspects", 0)
        measurements.loop_lag_seconds = max(
            measurements.loop_lag_seconds, node.loop_lag_seconds
        )
        lag_seconds = counters.get("recorder_lag_seconds", 0)
        measurements.recorder_lag_seconds = max(
            measurements.recorder_lag_seconds, lag_seconds
        )
        if limit := counters.get("pool_limit"):
            measurements.pool_part = max(
                measurements.pool_part, counters["pool_slots"] / limit
            )
        measurements.recent.update(counters.get("recent", {}))
        measurements.overdue_steps += counters.get("overdue_steps", ())
    if is_whole:
        measurements.overdue_steps += read_overdue_parts()
    now = timezone.now()
    lately = minutes.between(now - _MOST_OPEN_WITHIN, now)
    totals = lately.values("minute").annotate(total=Sum("open_connections"))
    measurements.most_open = max((one["total"] for one in totals), default=0)
    return measurements


def _name(node: Node) -> str:
    return f"node {node.host}:{node.pid}"


def read_overdue_parts() -> list[str]:
    """
    Read the names of the overdue parts of the sweep; none while no sweeper repeats.

    Ages are by the database's clock. A cluster that was off all night has not
    missed any sweeps.
    """
    started = Node.objects.live().order_by("started_at")
    uptime = _measure_age(started, "started_at")
    row = Sweep.objects.exclude(finished_at=None).first()
    if uptime is None or row is None:
        return []
    since_seconds = _measure_age(Sweep.objects.filter(pk=row.pk), "finished_at") or 0
    interval_seconds = row.result.get("interval_seconds")
    if not interval_seconds:
        return []
    if is_overdue(min(since_seconds, uptime), interval_seconds):
        return ["The sweep"]
    return sorted(
        name
        for name, age_seconds in row.result.get("ages", {}).items()
        if is_overdue(min(age_seconds + since_seconds, uptime), interval_seconds)
    )


def _measure_age(rows: QuerySet[Any], column: str) -> float | None:
    """Return the age of a column of the first row, by the database's clock."""
    age = ExpressionWrapper(Now() - F(column), DurationField())
    found = rows.annotate(age=age).values_list("age", flat=True).first()
    return None if found is None else float(found.total_seconds())


def measure(rule: AlertRule, measurements: Measurements) -> float:
    """Return the value of a rule."""
    return _MEASURES[rule.name](rule, measurements)


def describe(rule: AlertRule, measurements: Measurements) -> str:
    """Return what the value of a rule counts, where that has names."""
    described: dict[str, Callable[[], list[str]]] = {
        "pool_full": lambda: measurements.full_pools,
        "pool_degraded": lambda: measurements.degraded_pools,
        "dead_node": lambda: measurements.lost,
        "step_overdue": lambda: sorted(set(measurements.overdue_steps)),
        "loop_lag": lambda: measurements.lagging,
        "recorder_behind": lambda: measurements.waiting,
        "high_error_rate": _read_errors,
        "mass_disconnect": lambda: _rank(measurements.ends),
        "reconnect_storm": lambda: _rank(
            measurements.refused
            + Counter({"accepted": int(measurements.recent["opened"])})
        ),
        "authentication_failures": lambda: _rank(
            Counter(
                {
                    reason: count
                    for reason, count in measurements.refused.items()
                    if reason in CREDENTIAL_OUTCOMES
                }
            )
        ),
    }
    if measure(rule, measurements) < rule.clear or rule.name not in described:
        return ""
    return "; ".join(described[rule.name]())[:_DETAIL_LENGTH]


def _rank(counts: Counter[str]) -> list[str]:
    """Return counts by label as texts, the largest first."""
    return [f"{label} {count}" for label, count in counts.most_common(_MOST_NAMED)]


def _read_errors() -> list[str]:
    """Return the most frequent exceptions of the last minute, with their places."""
    lately = ErrorEvent.objects.filter(at__gte=timezone.now() - _ERRORS_WITHIN)
    kinds = lately.order_by().values("exception_class", "where").annotate(n=Count("*"))
    return [
        f"{one['exception_class'].removeprefix('builtins.')} at {one['where']}"
        f" ({one['n']} times)"
        for one in kinds.order_by("-n")[:_MOST_NAMED]
    ]


def _measure_errors(rule: AlertRule, measurements: Measurements) -> float:
    messages = measurements.recent["messages_in"]
    if messages < max(rule.minimum, 1):
        return 0.0
    return measurements.recent["errors"] / messages


def _measure_gone(rule: AlertRule, measurements: Measurements) -> float:
    if measurements.most_open < max(rule.minimum, 1):
        return 0.0
    return max(0.0, 1 - measurements.open_connections / measurements.most_open)


def _measure_storm(rule: AlertRule, measurements: Measurements) -> float:
    handshakes = measurements.recent["opened"] + measurements.recent["refused"]
    if handshakes < max(rule.minimum, 1):
        return 0.0
    return handshakes / max(measurements.open_connections, 1)


_MEASURES: dict[str, Callable[[AlertRule, Measurements], float]] = {
    "pool_full": lambda rule, measurements: measurements.recent["pool_full"],
    "pool_degraded": lambda rule, measurements: len(measurements.degraded_pools),
    "database_down": lambda rule, measurements: measurements.databases_down,
    "pool_near_exhaustion": lambda rule, measurements: measurements.pool_part,
    "high_error_rate": _measure_errors,
    "leak_suspected": lambda rule, measurements: measurements.outliving,
    "mass_disconnect": _measure_gone,
    "reconnect_storm": _measure_storm,
    "dead_node": lambda rule, measurements: len(measurements.lost),
    "sweeper_silent": lambda rule, measurements: measurements.sweep_age_seconds,
    "step_overdue": lambda rule, measurements: len(measurements.overdue_steps),
    "recorder_behind": lambda rule, measurements: measurements.recorder_lag_seconds,
    "slow_consumers": lambda rule, measurements: measurements.recent["slow_consumers"],
    "authentication_failures": lambda rule, measurements: measurements.recent[
        "auth_failures"
    ],
    "loop_lag": lambda rule, measurements: measurements.loop_lag_seconds,
}
