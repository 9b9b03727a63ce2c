"""Store commands of staff to nodes, and their results."""

from __future__ import annotations

from django.db import models
from django.db.models import F

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now


class NodeCommandQuerySet(PrimaryQuerySet["NodeCommand"]):
    def record_done(self, *, reached: int, unreached: int) -> None:
        """Add the result of one node; nodes may write at the same time."""
        self.update(
            nodes=F("nodes") + 1,
            reached=F("reached") + reached,
            unreached=F("unreached") + unreached,
        )


class NodeCommand(models.Model):
    """
    A command to a node, or a notice to the connections that a target names.

    Each node carries it out once, and adds its result.
    """

    class Kind(models.TextChoices):
        DRAIN = "drain"
        SERVE = "serve", "return to service"
        NOTICE = "notice"

    kind = models.CharField(max_length=8, choices=Kind.choices)
    target = models.CharField(
        max_length=12, help_text="As of a close request; for other commands, node."
    )
    value = models.CharField(max_length=255, blank=True)
    text = models.CharField(
        max_length=500, blank=True, help_text="The text of a notice."
    )
    author = models.CharField(max_length=150, blank=True)
    created_at = MomentField(db_default=Now(), db_index=True)
    nodes = models.PositiveIntegerField(
        default=0, help_text="Nodes that have carried it out."
    )
    reached = models.PositiveIntegerField(
        default=0, help_text="Connections a notice was sent to."
    )
    unreached = models.PositiveIntegerField(
        default=0, help_text="Connections whose consumer takes no notices."
    )

    objects = NodeCommandQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-id"]
        # The table is older than the name of the model.
        db_table = "connections_order"

    def __str__(self) -> str:
        return f"{self.kind}: {self.target} {self.value}".rstrip()
