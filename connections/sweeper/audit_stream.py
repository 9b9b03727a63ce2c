"""Record changes of the configuration in the audit stream, and delete old entries."""

from datetime import datetime, timedelta

from django.db.models import QuerySet
from django.utils import timezone

from connections.audit import LIMITS, find_changed_limits, record_limits
from connections.config.loader import WebSocketConfig
from connections.models import AuditEntry
from connections.models.sweep import count_some, delete_some
from connections.sweeper.tasks import SweepTask, add_sweep_task


def register() -> None:
    """Register these tasks with the sweeper; called once, when the app is ready."""
    add_sweep_task(
        SweepTask(
            name="limits_recorded",
            count=lambda config: bool(find_changed_limits(config)),
            work=lambda config, batch_size: record_limits(config),
        )
    )
    add_sweep_task(
        SweepTask(
            name="audit_entries_pruned",
            count=lambda config: count_some(_find_old(config)),
            work=lambda config, batch_size: delete_some(_find_old(config), batch_size),
        )
    )


def _find_old(config: WebSocketConfig) -> QuerySet[AuditEntry]:
    """Return old entries, without the last configuration, which is compared."""
    last = AuditEntry.objects.filter(action=LIMITS).order_by("-id")[:1]
    kept = list(last.values_list("pk", flat=True))
    oldest: datetime = timezone.now() - timedelta(days=config.retention.audit_days)
    return AuditEntry.objects.filter(at__lt=oldest).exclude(pk__in=kept).order_by("at")
