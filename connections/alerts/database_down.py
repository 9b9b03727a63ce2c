"""Alert of a database that is away, without the database: by the log and by mail."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime

from django.utils import timezone

from connections.alerts.email import describe_failed_mail, find_recipients, send
from connections.alerts.evaluator import report
from connections.background import BackgroundTasks
from connections.config.loader import WebSocketConfig
from connections.exceptions import DatabaseUnavailable
from connections.models import Alert
from connections.storage.database import Database
from connections.units import Clock

logger = logging.getLogger(__name__)

RULE = "database_down"
POLL_SECONDS = 1
_MAIL_AGAIN_SECONDS = 60


class DatabaseDownAlert:
    """
    The alert of one node on its own database; one for each outage.

    While the database is away the alert lives in memory: the node logs it and
    mails it. It resolves when the database has answered for as long as the rule
    waits. Then its row is written, and the delivery of alerts mails the recovery.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        place: str,
        database: Database,
        clock: Clock = time.monotonic,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._config = config
        self._rule = next(one for one in config.alerts if one.name == RULE)
        self._place = place
        self._database = database
        self._clock = clock
        self._now = now
        self._changed_at = 0.0
        """When the database began to fail, or to answer again while alerted."""
        self._was_failing = False
        self._mail_tried_at: float | None = None
        self._mailing = BackgroundTasks()
        self.alert: Alert | None = None
        """The alert of the outage under way: pending or firing."""

    async def poll(self) -> None:
        """
        Compare the state of the database with the rule.

        Raises:
            DatabaseUnavailable: the row of a resolved alert is written later.
        """
        if not self._rule.enabled:
            return
        failure = self._database.failure
        if (failure is not None) is not self._was_failing:
            self._was_failing = failure is not None
            self._changed_at = self._clock()
        lasted = self._clock() - self._changed_at >= self._rule.for_seconds
        if failure is not None:
            self._fail(failure, lasted=lasted)
        elif self.alert is not None and self.alert.state == Alert.State.PENDING:
            self.alert = None
        elif self.alert is not None and lasted:
            await self._resolve(self.alert)

    async def wait_mailed(self) -> None:
        """Wait until no mail is under way."""
        await self._mailing.wait()

    async def stop(self) -> None:
        """Cancel the mail under way."""
        await self._mailing.stop()

    def _fail(self, failure: str, *, lasted: bool) -> None:
        alert = self.alert
        if alert is None:
            alert = self.alert = Alert(
                rule=RULE,
                severity=self._rule.severity,
                state=Alert.State.PENDING,
                value=1,
                peak=1,
                threshold=self._rule.threshold,
                since=self._now(),
            )
            self._mail_tried_at = None
        alert.detail = f"node {self._place}: the database {failure}"[:255]
        if alert.state == Alert.State.PENDING and lasted:
            alert.state, alert.fired_at = Alert.State.FIRING, self._now()
            report(alert)
        if alert.state == Alert.State.FIRING and self._is_mail_due(alert):
            self._mail_tried_at = self._clock()
            self._mailing.start(self._mail(alert), "The mail of an alert")

    def _is_mail_due(self, alert: Alert) -> bool:
        if alert.mailed_state or not find_recipients(self._config):
            return False
        tried_at = self._mail_tried_at
        return tried_at is None or self._clock() - tried_at >= _MAIL_AGAIN_SECONDS

    async def _mail(self, alert: Alert) -> None:
        recipients = find_recipients(self._config)
        try:
            await asyncio.to_thread(send, alert, self._rule, recipients)
        except Exception as exc:
            alert.mail_error = describe_failed_mail(alert, exc)
        else:
            alert.mailed_state, alert.mail_error = Alert.State.FIRING, ""

    async def _resolve(self, alert: Alert) -> None:
        """Write the row of the alert, and forget it."""
        await self.wait_mailed()
        alert.value = 0
        alert.state, alert.resolved_at = Alert.State.RESOLVED, self._now()
        try:
            await self._database.write(alert.save, force_insert=True)
        except DatabaseUnavailable:
            alert.state, alert.resolved_at = Alert.State.FIRING, None
            raise
        self.alert = None
        report(alert)
