"""Translate alert rules to Prometheus rules: same values, thresholds and waits."""

from collections.abc import Iterable
from typing import Any

import yaml

from connections.config.alert_rules import AlertRule, format_value

COMPONENT = "orchestra"
"""The label `component` of all rules: others may have alerts of the same names."""

RUNBOOK = "connections/alerts/runbook.md"
"""The default location of the runbook."""

_ACTIVE = "sum(active_websocket_connections)"
_MESSAGES = '60 * sum(rate(websocket_messages_total{direction="in"}[2m]))'
_ERRORS = "60 * sum(rate(websocket_errors_total[2m]))"
_HANDSHAKES = "60 * sum(rate(websocket_connections_total[2m]))"
_MOST_ACTIVE = f"max_over_time({_ACTIVE}[10m:15s])"

_POOL_FULL = 'websocket_connections_total{outcome="pool_full"}'

_ON_NODE = "on (job, instance)"
_POOL_DOWN = (
    f"(websocket_database_up == 0 and {_ON_NODE}"
    ' websocket_config_info{pool="postgres"})'
)
"""The nodes whose pool is lost with their database: database_down is the alert."""

_EXPRESSIONS = {
    # A rate over two minutes never reaches 1 for one refusal; scrapes a minute apart
    # have no increase within one.
    "pool_full": (
        f"sum(increase({_POOL_FULL}[1m])) or 60 * sum(rate({_POOL_FULL}[2m]))"
    ),
    "pool_degraded": f"sum(websocket_pool_degraded unless {_ON_NODE} {_POOL_DOWN})",
    "database_down": "count(websocket_database_up == 0)",
    "pool_near_exhaustion": "max(websocket_pool_slots / websocket_pool_limit)",
    "high_error_rate": f"{_ERRORS} / ({_MESSAGES} >= MINIMUM)",
    "leak_suspected": "sum(websocket_consumers_stuck + websocket_leak_suspects)",
    "mass_disconnect": f"1 - ({_ACTIVE} or vector(0)) / ({_MOST_ACTIVE} >= MINIMUM)",
    "reconnect_storm": f"({_HANDSHAKES} >= MINIMUM) / clamp_min({_ACTIVE}, 1)",
    # Without any node there is no metric, and that is alerted as well. Nodes without
    # a database count no lost ones.
    "dead_node": "max(websocket_nodes_lost) or absent(active_websocket_connections)",
    "sweeper_silent": "time() - max(websocket_sweeper_last_run_timestamp_seconds)",
    "step_overdue": "sum(websocket_steps_overdue) + max(websocket_sweep_parts_overdue)",
    "recorder_behind": "max(websocket_recorder_lag_seconds)",
    "slow_consumers": (
        '60 * sum(rate(websocket_disconnects_total{reason="slow_consumer"}[2m]))'
    ),
    "authentication_failures": "60 * sum(rate(websocket_auth_failures_total[2m]))",
    "loop_lag": "max(websocket_event_loop_lag_seconds)",
}


def make_rules(rules: Iterable[AlertRule], runbook: str = RUNBOOK) -> str:
    """Return a rules file for Prometheus, as YAML."""
    groups = [
        {
            "name": "orchestra",
            "rules": [_make_rule(rule, runbook) for rule in rules if rule.enabled],
        }
    ]
    head = "# Made by manage.py prometheus_rules from `websocket.alerts`.\n"
    return head + yaml.safe_dump(
        {"groups": groups}, sort_keys=False, width=1000, allow_unicode=True
    )


def _make_rule(rule: AlertRule, runbook: str) -> dict[str, Any]:
    return {
        "alert": rule.title,
        "expr": _make_expression(rule),
        "for": _format_duration(rule.for_seconds),
        "labels": {"severity": rule.severity, "component": COMPONENT},
        "annotations": {
            "summary": f"{rule.name}: {_make_value(rule)}, threshold "
            f"{format_value(rule.name, rule.threshold)}",
            "description": rule.about.replace("`minimum`", f"{rule.minimum:g}"),
            "runbook_url": f"{runbook}#{rule.name}",
        },
    }


def _make_value(rule: AlertRule) -> str:
    """Return the value of an alert with its unit, as a template of Prometheus."""
    if rule.unit == "%":
        return "{{ $value | humanizePercentage }}"
    return f"{{{{ $value | humanize }}}} {rule.unit}"


def _format_duration(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"


def _make_expression(rule: AlertRule) -> str:
    """
    Return an expression that holds from the threshold on, then down to `clear`.

    Prometheus writes the present state of the alert to ALERTS.
    """
    value = _EXPRESSIONS[rule.name].replace("MINIMUM", f"{rule.minimum:g}")
    reached = f"({value}) >= {rule.threshold:g}"
    if rule.clear == rule.threshold:
        return reached
    is_firing = (
        f'ALERTS{{alertname="{rule.title}", alertstate="firing",'
        f' component="{COMPONENT}"}}'
    )
    return f"({reached}) or (({value}) >= {rule.clear:g} and on() {is_firing})"
