"""Mail alerts: each state once, with retries."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import django
from django.conf import settings
from django.core import mail
from django.utils import timezone

from connections.config.alert_rules import AlertRule, format_value
from connections.config.loader import WebSocketConfig
from connections.error_log import get_logger
from connections.metrics.counters import record_failure
from connections.models import Alert
from connections.units import show_moment

logger = get_logger(__name__)

_TIMEOUT_SECONDS = 10
"""The timeout of the mail server; a retry follows a minute later or more."""


def find_recipients(config: WebSocketConfig) -> list[str]:
    """Return the recipients: alert_recipients, else ADMINS."""
    if config.alert_recipients:
        return list(config.alert_recipients)
    return [one if isinstance(one, str) else one[1] for one in settings.ADMINS]


def deliver(
    config: WebSocketConfig,
    *,
    is_test: bool = False,
    now: Callable[[], datetime] = timezone.now,
) -> int:
    """
    Mail the alerts that fired or resolved since their last mail; return how many.

    A mail that fails does not raise: it is logged, counted, stored on the alert
    and tried again after a minute, two, four, at most an hour. Of several calls
    at once, one sends a mail. Where that one dies while it sends, another sends
    the mail again, so that it may arrive twice.
    """
    recipients = find_recipients(config)
    if not recipients:
        return 0
    count = 0
    rules = {rule.name: rule for rule in config.alerts}
    for alert in Alert.objects.unsent(now()).filter(is_test=is_test):
        moment = now()
        if not Alert.objects.claim(alert, moment):
            continue
        sent = Alert.objects.filter(pk=alert.pk)
        try:
            send(alert, rules.get(alert.rule), recipients)
        except Exception as exc:
            sent.update(mail_error=describe_failed_mail(alert, exc))
            break  # The other mails would most likely fail after the same wait.
        sent.update(mailed_state=alert.state, mail_error="")
        count += 1
    return count


def describe_failed_mail(alert: Alert, exc: Exception) -> str:
    """Log and count that a mail failed; return the text for its alert."""
    logger.error(
        "Alert %s could not be mailed and will be tried again: %s",
        alert.rule,
        exc,
        exc_info=exc,
        extra={"event": "alert_not_mailed", "alert": alert.rule},
    )
    record_failure("The delivery of alerts")
    return f"{type(exc).__name__}: {exc}"[:255]


def send(alert: Alert, rule: AlertRule | None, recipients: list[str]) -> None:
    """
    Mail the present state of an alert; needs no database.

    Raises:
        Exception: whatever the mail backend of the project raises.
    """
    prefix = "[self-test] " if alert.is_test else ""
    about = rule.about if rule is not None else alert.rule
    value, peak, threshold = (
        format_value(alert.rule, one)
        for one in (alert.value, alert.peak, alert.threshold)
    )
    lines = [
        f"{alert.rule} is {alert.state} ({alert.severity}).",
        "",
        f"Condition: {about}",
        f"Value: {value}, highest {peak}",
        *([f"Detail: {alert.detail}"] if alert.detail else []),
        f"Threshold: {threshold}",
        f"Since: {show_moment(alert.since)}",
    ]
    if alert.resolved_at is not None:
        lines.append(f"Resolved: {show_moment(alert.resolved_at)}")
    lines += ["", f"Runbook: manage.py alerts --runbook {alert.rule}"]
    message = mail.EmailMessage(
        subject=f"{prefix}{alert.state.upper()}: {alert.rule}",
        body="\n".join(lines),
        from_email=settings.SERVER_EMAIL,
        to=recipients,
    )
    _open_backend().send_messages([message])


def _open_backend() -> Any:
    """Return the default mail backend of the project, with a timeout."""
    if django.VERSION < (6, 1):
        return mail.get_connection(timeout=_TIMEOUT_SECONDS)
    backend: Any = mail.mailers.default
    # The base class accepts no timeout; the SMTP backend reads this attribute.
    backend.timeout = getattr(backend, "timeout", None) or _TIMEOUT_SECONDS
    return backend
