"""What the rules look at, read from the nodes' rows and minutes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from django.db.models import Sum
from django.db.models.functions import Now
from django.utils import timezone

from connections.config.alert_rules import AlertRule
from connections.models import MinuteRollup, Node
from connections.models.minute_rollup import MinuteRollupQuerySet
from connections.models.node import NodeQuerySet

LOST_WITHIN = timedelta(minutes=10)
"""How long a dead node is counted as lost lately."""

_MOST_OPEN_WITHIN = timedelta(minutes=10)


@dataclass(slots=True, kw_only=True)
class Facts:
    """A cluster at one moment; counts are of the last minute."""

    recent: Counter[str] = field(default_factory=Counter)
    open_connections: int = 0
    most_open: int = 0
    """At the end of any of the last ten minutes."""
    pool_part: float = 0
    outliving: int = 0
    """Consumers that run on, objects and slots that stay, after their connection."""
    lost_nodes: int = 0
    sweep_age_seconds: float = 0
    recorder_lag_seconds: float = 0
    loop_lag_seconds: float = 0


def read_facts(
    nodes: NodeQuerySet | None = None, minutes: MinuteRollupQuerySet | None = None
) -> Facts:
    """
    Read the facts of all nodes, or of those given.

    Whoever reads them sweeps, so the age of the last sweep is 0: silence is for
    the nodes to notice.
    """
    nodes = Node.objects.all() if nodes is None else nodes
    minutes = MinuteRollup.objects.all() if minutes is None else minutes
    facts = Facts(lost_nodes=nodes.lost_since(Now() - LOST_WITHIN).count())
    for node in nodes.live():
        counters = node.counters
        facts.open_connections += node.open_connections
        facts.outliving += counters.get("stuck_consumers", 0)
        facts.outliving += counters.get("leak_suspects", 0)
        facts.loop_lag_seconds = max(facts.loop_lag_seconds, node.loop_lag_seconds)
        lag_seconds = counters.get("recorder_lag_seconds", 0)
        facts.recorder_lag_seconds = max(facts.recorder_lag_seconds, lag_seconds)
        if limit := counters.get("pool_limit"):
            facts.pool_part = max(facts.pool_part, counters["pool_slots"] / limit)
        facts.recent.update(counters.get("recent", {}))
    now = timezone.now()
    lately = minutes.between(now - _MOST_OPEN_WITHIN, now)
    totals = lately.values("minute").annotate(total=Sum("open_connections"))
    facts.most_open = max((one["total"] for one in totals), default=0)
    return facts


def measure(rule: AlertRule, facts: Facts) -> float:
    """Return the value of a rule."""
    return _MEASURES[rule.name](rule, facts)


def _measure_errors(rule: AlertRule, facts: Facts) -> float:
    messages = facts.recent["messages_in"]
    if messages < max(rule.minimum, 1):
        return 0.0
    return facts.recent["errors"] / messages


def _measure_gone(rule: AlertRule, facts: Facts) -> float:
    if facts.most_open < max(rule.minimum, 1):
        return 0.0
    return max(0.0, 1 - facts.open_connections / facts.most_open)


def _measure_storm(rule: AlertRule, facts: Facts) -> float:
    handshakes = facts.recent["opened"] + facts.recent["refused"]
    if handshakes < max(rule.minimum, 1):
        return 0.0
    return handshakes / max(facts.open_connections, 1)


_MEASURES: dict[str, Callable[[AlertRule, Facts], float]] = {
    "pool_near_exhaustion": lambda rule, facts: facts.pool_part,
    "high_error_rate": _measure_errors,
    "leak_suspected": lambda rule, facts: facts.outliving,
    "mass_disconnect": _measure_gone,
    "reconnect_storm": _measure_storm,
    "dead_node": lambda rule, facts: facts.lost_nodes,
    "sweeper_silent": lambda rule, facts: facts.sweep_age_seconds,
    "recorder_behind": lambda rule, facts: facts.recorder_lag_seconds,
    "slow_consumers": lambda rule, facts: facts.recent["slow_consumers"],
    "authentication_failures": lambda rule, facts: facts.recent["auth_failures"],
    "loop_lag": lambda rule, facts: facts.loop_lag_seconds,
}
