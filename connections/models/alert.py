"""Store alerts: one row for each, from pending to resolved."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.db.models import F, Q

from connections.models.alias import PrimaryQuerySet

_OPEN = ("pending", "firing")
_MAX_ATTEMPTS = 20
"""Of the mail that an alert has resolved; that it fires is mailed while it does."""

_MAILED_WITHIN = timedelta(days=1)
_FIRST_WAIT_SECONDS = 60
_MAX_WAIT_SECONDS = 3600


class AlertQuerySet(PrimaryQuerySet["Alert"]):
    def open(self) -> AlertQuerySet:
        """Alerts that are pending or firing."""
        return self.filter(state__in=_OPEN)

    def unsent(self, now: datetime) -> AlertQuerySet:
        """
        Alerts whose present state was not mailed yet.

        Alerts that resolved more than a day ago are left out, so that a recipient
        that is configured for the first time does not get all past ones.
        """
        lately = Q(
            resolved_at__gte=now - _MAILED_WITHIN, mail_attempts__lt=_MAX_ATTEMPTS
        )
        return (
            self.filter(Q(resolved_at=None) | lately)
            .exclude(state="pending")
            .exclude(mailed_state=F("state"))
            .order_by("fired_at")
        )

    def claim(self, alert: Alert, now: datetime) -> bool:
        """Reserve the mail of an alert; False if it is reserved, or tried too soon."""
        wait_seconds = min(
            _FIRST_WAIT_SECONDS * 2 ** max(0, alert.mail_attempts - 1),
            _MAX_WAIT_SECONDS,
        )
        wait = timedelta(seconds=wait_seconds)
        # Far in the future is a try from before the clock was set back.
        free = Q(mail_tried_at=None) | ~Q(
            mail_tried_at__gt=now - wait, mail_tried_at__lt=now + wait
        )
        unchanged = self.filter(
            free,
            pk=alert.pk,
            state=alert.state,
            mail_attempts=alert.mail_attempts,
        )
        return bool(
            unchanged.update(mail_tried_at=now, mail_attempts=F("mail_attempts") + 1)
        )


class Alert(models.Model):
    """
    One period in which a rule's value was at or above its threshold.

    A rule has at most one alert that is pending or firing. A constraint ensures
    it when several evaluators run at the same moment.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        FIRING = "firing"
        RESOLVED = "resolved"

    rule = models.CharField(max_length=40)
    severity = models.CharField(max_length=10)
    state = models.CharField(max_length=10, choices=State.choices)
    value = models.FloatField(help_text="The value at the last evaluation.")
    peak = models.FloatField()
    threshold = models.FloatField()
    detail = models.CharField(
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text="What the value counts, such as the names of overdue steps.",
    )
    since = models.DateTimeField(help_text="When the value reached the threshold.")
    fired_at = models.DateTimeField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    is_test = models.BooleanField(default=False, editable=False)
    mailed_state = models.CharField(max_length=10, blank=True)
    mail_attempts = models.PositiveSmallIntegerField(default=0)
    mail_tried_at = models.DateTimeField(null=True, blank=True)
    mail_error = models.CharField(max_length=255, blank=True)

    objects = AlertQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-since"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "is_test"],
                condition=Q(state__in=_OPEN),
                name="alert_open_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.rule} {self.state}"
