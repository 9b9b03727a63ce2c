"""What staff have nodes do beside ending connections, and what came of it."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import F
from django.db.models.functions import Now

RECENT_SECONDS = 60
"""An order that a node has not seen for so long it does not carry out any more."""


class NodeCommandQuerySet(models.QuerySet["NodeCommand"]):
    def recent(self) -> NodeCommandQuerySet:
        """Orders young enough to be carried out, by the database's clock."""
        return self.filter(created_at__gte=Now() - timedelta(seconds=RECENT_SECONDS))

    def record_done(self, *, reached: int, unreached: int) -> None:
        """Add what one node did; nodes may write at the same time."""
        self.update(
            nodes=F("nodes") + 1,
            reached=F("reached") + reached,
            unreached=F("unreached") + unreached,
        )


class NodeCommand(models.Model):
    """
    An order to all nodes whose connections, or who themselves, a target names.

    Each node carries it out once, and adds what it did.
    """

    class Kind(models.TextChoices):
        DRAIN = "drain"
        SERVE = "serve", "return to service"
        NOTICE = "notice"

    kind = models.CharField(max_length=8, choices=Kind.choices)
    target = models.CharField(
        max_length=12, help_text="As of a close request; the node for the others."
    )
    value = models.CharField(max_length=255, blank=True)
    text = models.CharField(
        max_length=500, blank=True, help_text="What a notice says to the client."
    )
    author = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(db_default=Now(), db_index=True)
    nodes = models.PositiveIntegerField(
        default=0, help_text="How many nodes have carried it out."
    )
    reached = models.PositiveIntegerField(
        default=0, help_text="Connections a notice was sent to."
    )
    unreached = models.PositiveIntegerField(
        default=0, help_text="Connections whose consumer takes no notices."
    )

    objects = NodeCommandQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        # The table is older than the name of the model.
        db_table = "connections_order"

    def __str__(self) -> str:
        return f"{self.kind}: {self.target} {self.value}".rstrip()
