"""Store the handshakes that a limit refused; they have no row as connections."""

from __future__ import annotations

from django.db import models

from connections.models.alias import PrimaryQuerySet


class RefusedHandshake(models.Model):
    """
    The handshakes of a client on a route that a limit refused within one second.

    Without a client they are those of several clients within an hour, beyond the rows
    that wait on a node for one beat, or for a database that is away.
    """

    at = models.DateTimeField(db_index=True, help_text="The first of them.")
    client_id = models.CharField(max_length=255, blank=True)
    route = models.CharField(max_length=255, blank=True)
    reason = models.CharField(max_length=32)
    count = models.PositiveIntegerField(default=1)

    objects = PrimaryQuerySet["RefusedHandshake"].as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.count} of {self.client_id or 'several clients'}"
