"""Store requests to end connections, for every node to apply."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db import models
from django.db.models.functions import Now


class CloseRequestQuerySet(models.QuerySet["CloseRequest"]):
    def recent(self, seconds: float = 60) -> CloseRequestQuerySet:
        """Requests young enough to be applied still, by the database's clock."""
        return self.filter(created_at__gte=Now() - timedelta(seconds=seconds))

    def post(self, requests: Sequence[CloseRequest]) -> None:
        """Write requests; announcements.post_close_requests() has them applied now."""
        self.bulk_create(requests, batch_size=200)


class CloseRequest(models.Model):
    """
    A request to end the connections that a selector names, wherever they are.

    Posted by announcements.post_close_requests(). Every node reads those of
    the last minute at once and on each beat, and applies each once. Rows are
    never updated.
    """

    class Target(models.TextChoices):
        CONNECTION = "connection"
        CLIENT = "client"
        USER = "user"
        SESSION_KEY = "session_key", "session key (hashed)"
        TOKEN = "token"
        ADDRESS = "address", "address or network"
        NODE = "node"
        ALL = "all"

    target = models.CharField(max_length=12, choices=Target.choices)
    value = models.CharField(max_length=255, blank=True)
    reason = models.CharField(max_length=32)
    author = models.CharField(max_length=150, blank=True)
    note = models.CharField(max_length=255, blank=True)
    idle_seconds = models.FloatField(
        null=True,
        blank=True,
        help_text="Only where the node itself saw no activity for so long.",
    )
    spread_seconds = models.FloatField(
        default=0,
        help_text="Each connection ends at a moment of its own within so long.",
    )
    created_at = models.DateTimeField(db_default=Now(), db_index=True)

    objects = CloseRequestQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.reason}: {self.target} {self.value}".rstrip()
