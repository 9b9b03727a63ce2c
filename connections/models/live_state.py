"""Store requested samples of live state, and the permissions of the dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import models

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import Now

WANTED_SECONDS = 15
"""How long a node samples its connections after a request."""


class NodePictureQuerySet(PrimaryQuerySet["NodePicture"]):
    def wanted(self) -> NodePictureQuerySet:
        """Samples requested within WANTED_SECONDS, by the database's clock."""
        return self.filter(wanted_at__gte=Now() - timedelta(seconds=WANTED_SECONDS))

    def want(self, node_ids: Sequence[str]) -> None:
        """Request samples of these nodes, and delete those of others."""
        self.exclude(node_id__in=node_ids).delete()
        self.bulk_create(
            [self.model(node_id=node_id, wanted_at=Now()) for node_id in node_ids],
            update_conflicts=True,
            unique_fields=["node_id"],
            update_fields=["wanted_at"],
        )

    def put(self, content: bytes, top: bytes | None = None) -> None:
        """Store a sample for the selected nodes, taken now."""
        self.update(content=content, top=top, taken_at=Now())

    def answered_since(self, moment: Any) -> NodePictureQuerySet:
        """Samples taken after a moment of the database's clock."""
        return self.filter(taken_at__gte=moment)


class NodePicture(models.Model):
    """The last sample of a node's connections, taken while a dashboard is open."""

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
    # Null for the rows that nodes of the version before insert.
    top = models.BinaryField(null=True)

    objects = NodePictureQuerySet.as_manager()

    class Meta:
        app_label = "connections"

    def __str__(self) -> str:
        return self.node_id


class LiveDashboard(models.Model):
    """The dashboard's entry in the admin and its permissions; it has no table."""

    class Meta:
        app_label = "connections"
        managed = False
        default_permissions = ("view",)
        verbose_name_plural = "live dashboard"
        permissions = [
            ("end_connection", "Can end connections"),
            ("end_all", "Can end all connections of a client, user or node"),
            ("drain_node", "Can drain a node"),
            ("send_notice", "Can send a notice to clients"),
            ("publish_to_group", "Can publish to groups through the API"),
        ]

    def __str__(self) -> str:
        return "live dashboard"
