"""Store requests to end connections, which every node applies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db import models

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now


class CloseRequestQuerySet(PrimaryQuerySet["CloseRequest"]):
    def recent(self, seconds: float = 60) -> CloseRequestQuerySet:
        """Requests recent enough to be applied, by the database's clock."""
        return self.filter(created_at__gte=Now() - timedelta(seconds=seconds))

    def post(self, requests: Sequence[CloseRequest]) -> None:
        """Write requests; announcements.post_close_requests() also announces them."""
        self.bulk_create(requests, batch_size=200)


class CloseRequest(models.Model):
    """
    A request to end the connections that a selector names, on every node.

    announcements.post_close_requests() posts requests. Every node reads new
    ones when they are announced and on each beat, and applies each once, as of its
    commit. Rows are never updated.
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
        help_text="Ends only connections that their node saw idle for this long.",
    )
    spread_seconds = models.FloatField(
        default=0,
        help_text="The ends of the connections are spread over this time.",
    )
    created_at = MomentField(db_default=Now(), db_index=True)

    objects = CloseRequestQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.reason}: {self.target} {self.value}".rstrip()
