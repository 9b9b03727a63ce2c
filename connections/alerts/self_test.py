"""
Test every alert rule, from planted rows to the mail.

Planted rows are rolled back before another process can read them. The alerts that
they cause are marked as tests and deleted at the end.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from connections.alerts.email import deliver, find_recipients
from connections.alerts.evaluator import Evaluator
from connections.alerts.measurements import Measurements, measure, read_measurements
from connections.config.alert_rules import AlertRule
from connections.config.loader import WebSocketConfig
from connections.models import Alert, MinuteRollup, Node
from connections.models.alias import atomic, get_alias


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The result of one rule; `problem` is empty if the test passed."""

    rule: str
    value: float
    mails: int
    problem: str = ""


def run_self_test(config: WebSocketConfig, *, with_mail: bool) -> Iterator[RuleResult]:
    """Make the alert of each enabled rule fire and resolve."""
    for rule in config.alerts:
        if rule.enabled:
            try:
                yield _RuleTest(config, rule, with_mail=with_mail).run()
            finally:
                Alert.objects.filter(rule=rule.name, is_test=True).delete()


class _RuleTest:
    """Tests one rule, with a clock of its own."""

    def __init__(
        self, config: WebSocketConfig, rule: AlertRule, *, with_mail: bool
    ) -> None:
        self._config = config
        self._rule = rule
        self._now = timezone.now()
        self._evaluator = Evaluator([rule], is_test=True, now=self._read_clock)
        self._mails_expected = bool(with_mail and find_recipients(config))
        self._mails = 0

    def run(self) -> RuleResult:
        rule = self._rule
        Alert.objects.filter(rule=rule.name, is_test=True).delete()
        bad = _plant(rule, is_bad=True)
        value = measure(rule, bad)
        steps = [(bad, "pending" if rule.for_seconds else "firing")]
        steps += [(bad, "firing"), (_plant(rule, is_bad=False), "resolved")]
        for measurements, expected in steps:
            self._evaluator.evaluate(measurements)
            alert = Alert.objects.filter(rule=rule.name, is_test=True).first()
            state = alert.state if alert else "not raised"
            if state != expected:
                text = (
                    f"{state} at {measure(rule, measurements):g} instead of {expected}"
                )
                return RuleResult(rule.name, value, self._mails, text)
            if problem := self._deliver():
                return RuleResult(rule.name, value, self._mails, problem)
            self._now += timedelta(seconds=rule.for_seconds)
        return RuleResult(rule.name, value, self._mails)

    def _deliver(self) -> str:
        """Send the mails that are due; return the problem, or an empty text."""
        if not self._mails_expected:
            return ""
        self._mails += deliver(self._config, is_test=True, now=self._read_clock)
        failed = Alert.objects.filter(is_test=True).exclude(mail_error="").first()
        return f"not mailed: {failed.mail_error}" if failed else ""

    def _read_clock(self) -> datetime:
        return self._now


def _plant(rule: AlertRule, *, is_bad: bool) -> Measurements:
    """Return the measurements of a cluster with, or without, the rule's problem."""
    planted = f"self-test-{os.urandom(8).hex()}"
    with atomic():
        if is_bad:
            _plant_problem(rule, planted)
        measurements = read_measurements(
            Node.objects.filter(node_id__startswith=planted),
            MinuteRollup.objects.filter(node_id=planted),
        )
        transaction.set_rollback(True, using=get_alias())
    if is_bad and rule.name == "sweeper_silent":
        # Nodes measure this and the next themselves; no row holds them.
        measurements.sweep_age_seconds = rule.threshold
    if is_bad and rule.name == "database_down":
        measurements.databases_down = math.ceil(rule.threshold)
    return measurements


def _plant_problem(rule: AlertRule, planted: str) -> None:
    """Write rows of nodes that have the rule's problem."""
    much = max(rule.minimum, 1) * 10
    at = rule.threshold * 1.01
    recent: dict[str, dict[str, float]] = {
        "pool_full": {"pool_full": at},
        "high_error_rate": {"messages_in": much, "errors": much * at},
        "reconnect_storm": {"opened": much * at + 1, "refused": much * at + 1},
        "slow_consumers": {"slow_consumers": at},
        "authentication_failures": {"auth_failures": at},
    }
    counters: dict[str, dict[str, Any]] = {
        "pool_near_exhaustion": {"pool_slots": at * 1000, "pool_limit": 1000},
        "leak_suspected": {"stuck_consumers": at},
        "step_overdue": {"overdue_steps": ["self-test"] * math.ceil(at)},
        "recorder_behind": {"recorder_lag_seconds": at},
    }
    now = timezone.now()
    columns: dict[str, Any] = {
        "counters": counters.get(rule.name, {}) | {"recent": recent.get(rule.name, {})},
        "loop_lag_seconds": at if rule.name == "loop_lag" else 0,
        "open_connections": 0 if rule.name == "mass_disconnect" else 1,
    }
    lost = math.ceil(rule.threshold) if rule.name == "dead_node" else 0
    degraded = math.ceil(rule.threshold) if rule.name == "pool_degraded" else 0
    for number in range(max(lost, degraded, 1)):
        Node.objects.create(
            node_id=f"{planted}-{number}",
            host="self-test",
            degraded="self-test" if degraded else "",
            pid=0,
            version="",
            state=Node.State.LOST if lost else Node.State.SERVING,
            stopped_at=now if lost else None,
            started_at=now,
            beat_at=now,
            **columns,
        )
    if rule.name == "mass_disconnect":
        minute = int(now.timestamp() // 60) - 1
        MinuteRollup.objects.create(
            node_id=planted, minute=minute, open_connections=round(1000 * much)
        )
