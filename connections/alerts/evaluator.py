"""Evaluate alert rules, and advance their alerts in the database."""

import logging
from collections.abc import Callable, Container, Iterable
from datetime import datetime

from django.db import IntegrityError
from django.utils import timezone

from connections.alerts.measurements import Measurements, describe, measure
from connections.alerts.states import Step, decide
from connections.config.alert_rules import AlertRule, format_value
from connections.models import Alert
from connections.models.alias import atomic
from connections.signals import alert_changed

logger = logging.getLogger(__name__)

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING}


class Evaluator:
    """
    Compares values with rules; several evaluators may run at once.

    Each step is one conditional write, so that one of several evaluators takes it;
    that one logs it.
    """

    def __init__(
        self,
        rules: Iterable[AlertRule],
        *,
        is_test: bool = False,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._rules = [rule for rule in rules if rule.enabled]
        self._is_test = is_test
        self._now = now

    def evaluate(self, measurements: Measurements) -> None:
        """Advance the alert of every rule."""
        alerts = Alert.objects.open().filter(is_test=self._is_test)
        opened = {alert.rule: alert for alert in alerts}
        for rule in self._rules:
            self._advance(rule, opened.pop(rule.name, None), measurements)
        for alert in opened.values():
            # Its rule was disabled.
            self._resolve(alert, alert.value)

    def evaluate_some(self, names: Container[str], measurements: Measurements) -> None:
        """Advance the alerts of the named rules."""
        for rule in self._rules:
            if rule.name in names:
                alerts = Alert.objects.open().filter(is_test=self._is_test)
                alert = alerts.filter(rule=rule.name).first()
                self._advance(rule, alert, measurements)

    def _advance(
        self, rule: AlertRule, alert: Alert | None, measurements: Measurements
    ) -> None:
        now = self._now()
        value, detail = measure(rule, measurements), describe(rule, measurements)
        state, since = (alert.state, alert.since) if alert else (None, None)
        step = decide(rule, state, since, value, now)
        if alert is None:
            if step is not Step.STAY:
                is_firing = step is Step.BEGIN_FIRING
                self._begin(rule, value, detail, now, is_firing=is_firing)
        elif step is Step.FIRE:
            alert.detail = detail
            self._fire(alert, value, now)
        elif step is Step.RESOLVE:
            self._resolve(alert, value)
        elif step is Step.DROP:
            Alert.objects.filter(pk=alert.pk, state=Alert.State.PENDING).delete()
        else:
            peak = max(alert.peak, value)
            columns = {"value": value, "peak": peak, "detail": detail}
            Alert.objects.filter(pk=alert.pk).update(**columns)

    def _begin(
        self,
        rule: AlertRule,
        value: float,
        detail: str,
        now: datetime,
        *,
        is_firing: bool,
    ) -> None:
        alert = Alert(
            rule=rule.name,
            severity=rule.severity,
            state=Alert.State.FIRING if is_firing else Alert.State.PENDING,
            value=value,
            peak=value,
            threshold=rule.threshold,
            detail=detail,
            since=now,
            fired_at=now if is_firing else None,
            is_test=self._is_test,
        )
        try:
            with atomic():
                alert.save(force_insert=True)
        except IntegrityError:
            return  # Another evaluator was first.
        if is_firing:
            report(alert)

    def _fire(self, alert: Alert, value: float, now: datetime) -> None:
        pending = Alert.objects.filter(pk=alert.pk, state=Alert.State.PENDING)
        peak = max(alert.peak, value)
        columns = {
            "value": value,
            "peak": peak,
            "detail": alert.detail,
            "fired_at": now,
        }
        if pending.update(state=Alert.State.FIRING, **columns):
            alert.state, alert.value = Alert.State.FIRING, value
            report(alert)

    def _resolve(self, alert: Alert, value: float) -> None:
        firing = Alert.objects.filter(pk=alert.pk, state=Alert.State.FIRING)
        columns = {
            "value": value,
            "resolved_at": self._now(),
            # The mail of the new state is due at once.
            "mail_attempts": 0,
            "mail_tried_at": None,
        }
        if firing.update(state=Alert.State.RESOLVED, **columns):
            alert.state, alert.value = Alert.State.RESOLVED, value
            report(alert)
        elif alert.state == Alert.State.PENDING:
            Alert.objects.filter(pk=alert.pk, state=Alert.State.PENDING).delete()


def report(alert: Alert) -> None:
    """Log and send an alert that fires or has resolved."""
    log_alert(alert)
    if not alert.is_test:
        alert_changed.send_soon([alert])


def log_alert(alert: Alert) -> None:
    """Log an alert that fires or has resolved."""
    is_firing = alert.state == Alert.State.FIRING
    level = _LEVELS.get(alert.severity, logging.ERROR) if is_firing else logging.INFO
    logger.log(
        level,
        "Alert %s %s: %s, threshold %s (%s)%s%s",
        alert.rule,
        alert.state,
        format_value(alert.rule, alert.value),
        format_value(alert.rule, alert.threshold),
        alert.severity,
        f": {alert.detail}" if alert.detail else "",
        " [self-test]" if alert.is_test else "",
        extra={"event": f"alert_{alert.state}", "alert": alert.rule},
    )
