"""Who watches, and may: what a dashboard asks of nodes, and its permissions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

WANTED_SECONDS = 15
"""For so long after it was asked a node takes pictures of its connections."""


class NodePictureQuerySet(models.QuerySet["NodePicture"]):
    def wanted(self) -> NodePictureQuerySet:
        """Pictures that somebody asked for lately, by the database's clock."""
        return self.filter(wanted_at__gte=Now() - timedelta(seconds=WANTED_SECONDS))

    def want(self, node_ids: Sequence[str]) -> None:
        """Ask for pictures of these nodes, and drop what is left of others."""
        self.exclude(node_id__in=node_ids).delete()
        self.bulk_create(
            [self.model(node_id=node_id, wanted_at=Now()) for node_id in node_ids],
            update_conflicts=True,
            unique_fields=["node_id"],
            update_fields=["wanted_at"],
        )

    def put(self, content: bytes) -> None:
        """Store what the nodes selected look like now."""
        self.update(content=content, taken_at=Now())


class NodePicture(models.Model):
    """What the connections of a node are doing, taken only while somebody watches."""

    node = models.OneToOneField(
        "connections.Node",
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        primary_key=True,
        related_name="picture",
    )
    wanted_at = models.DateTimeField()
    taken_at = models.DateTimeField(null=True)
    content = models.BinaryField(default=b"")

    objects = NodePictureQuerySet.as_manager()

    def __str__(self) -> str:
        return self.node_id


class LiveDashboard(models.Model):
    """No table: the dashboard's entry in the admin, and who may do what there."""

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name_plural = "live dashboard"
        permissions = [
            ("end_connection", "Can end connections"),
            ("end_all", "Can end all connections of a client, user or node"),
            ("drain_node", "Can drain a node"),
            ("send_notice", "Can send a notice to clients"),
        ]

    def __str__(self) -> str:
        return "live dashboard"
