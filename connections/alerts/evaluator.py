"""Evaluate alert rules, and advance their alerts in the database."""

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from django.db import IntegrityError
from django.utils import timezone

from connections.alerts.measurements import Measurements, measure
from connections.alerts.states import Step, decide
from connections.config.alert_rules import AlertRule
from connections.models import Alert
from connections.models.alias import atomic

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
            self._advance(
                rule, opened.pop(rule.name, None), measure(rule, measurements)
            )
        for alert in opened.values():
            # Its rule was disabled.
            self._resolve(alert, alert.value)

    def evaluate_one(self, name: str, value: float) -> None:
        """Advance the alert of one rule, by a value from elsewhere."""
        for rule in self._rules:
            if rule.name == name:
                opened = Alert.objects.open().filter(rule=name, is_test=self._is_test)
                self._advance(rule, opened.first(), value)

    def _advance(self, rule: AlertRule, alert: Alert | None, value: float) -> None:
        now = self._now()
        state, since = (alert.state, alert.since) if alert else (None, None)
        step = decide(rule, state, since, value, now)
        if alert is None:
            if step is not Step.STAY:
                self._begin(rule, value, now, is_firing=step is Step.BEGIN_FIRING)
        elif step is Step.FIRE:
            self._fire(alert, value, now)
        elif step is Step.RESOLVE:
            self._resolve(alert, value)
        elif step is Step.DROP:
            Alert.objects.filter(pk=alert.pk, state=Alert.State.PENDING).delete()
        else:
            peak = max(alert.peak, value)
            Alert.objects.filter(pk=alert.pk).update(value=value, peak=peak)

    def _begin(
        self, rule: AlertRule, value: float, now: datetime, *, is_firing: bool
    ) -> None:
        alert = Alert(
            rule=rule.name,
            severity=rule.severity,
            state=Alert.State.FIRING if is_firing else Alert.State.PENDING,
            value=value,
            peak=value,
            threshold=rule.threshold,
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
            _log(alert)

    def _fire(self, alert: Alert, value: float, now: datetime) -> None:
        pending = Alert.objects.filter(pk=alert.pk, state=Alert.State.PENDING)
        peak = max(alert.peak, value)
        columns = {"value": value, "peak": peak, "fired_at": now}
        if pending.update(state=Alert.State.FIRING, **columns):
            alert.state, alert.value = Alert.State.FIRING, value
            _log(alert)

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
            _log(alert)
        elif alert.state == Alert.State.PENDING:
            Alert.objects.filter(pk=alert.pk, state=Alert.State.PENDING).delete()


def _log(alert: Alert) -> None:
    """Log an alert that fires or has resolved."""
    is_firing = alert.state == Alert.State.FIRING
    level = _LEVELS.get(alert.severity, logging.ERROR) if is_firing else logging.INFO
    logger.log(
        level,
        "Alert %s %s: %.4g, threshold %.4g (%s)%s",
        alert.rule,
        alert.state,
        alert.value,
        alert.threshold,
        alert.severity,
        " [self-test]" if alert.is_test else "",
        extra={"event": f"alert_{alert.state}", "alert": alert.rule},
    )
