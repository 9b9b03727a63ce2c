"""Store connections and the errors of their consumers."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from connections.models.alias import PrimaryQuerySet, atomic
from connections.models.node import ID_LENGTH, LIVE_STATES, Node
from connections.models.user_key import UserKey, set_null

_IS_OPEN = Q(closed_at=None)


class ConnectionQuerySet(PrimaryQuerySet["Connection"]):
    def open(self) -> ConnectionQuerySet:
        """Connections not recorded as closed."""
        return self.filter(closed_at=None)

    def find(self, ref: str) -> Connection | None:
        """Return the connection of a ref: its own id, or the id of its error."""
        # In two queries: one with OR over both tables would read all rows.
        errors = ErrorEvent.objects.filter(error_id=ref)
        keys = [ref, *errors.values_list("connection_id", flat=True)]
        return self.filter(connection_id__in=keys).first()

    def idle_since(self, moment: datetime) -> ConnectionQuerySet:
        """Open connections without application data since a moment."""
        return self.open().filter(last_activity_at__lte=moment)

    def timed_as_configured(self) -> ConnectionQuerySet:
        """Connections whose idle timeout is the configured one."""
        return self.filter(idle_timeout_seconds=None)

    def of_dead_nodes(self) -> ConnectionQuerySet:
        """Open connections whose node has stopped, is lost, or was pruned."""
        live = Node.objects.filter(state__in=LIVE_STATES)
        return self.open().exclude(node_id__in=live.values("node_id"))

    def mark_lost(self, batch_size: int) -> list[str]:
        """
        Record open connections of dead nodes as lost, one batch; return their ids.

        They end at the last beat of their node, when they were last known open.
        """
        gone = Node.objects.filter(node_id=OuterRef("node_id"))
        with atomic():
            lost = self.of_dead_nodes().order_by("opened_at")[:batch_size]
            keys = list(lost.values_list("connection_id", flat=True))
            self.open().filter(connection_id__in=keys).update(
                closed_at=Coalesce(
                    Subquery(gone.values("beat_at")), F("last_activity_at")
                ),
                close_code=1006,
                reason="lost",
            )
        return keys


class Connection(models.Model):
    """
    One WebSocket, or one live response over plain HTTP, from accept to close.

    The node's recorder writes rows in batches. References have no constraint in
    the database, so that a batch does not fail when a user or node in it was
    deleted meanwhile.
    """

    connection_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    client_id = models.CharField(max_length=255)
    user = UserKey(
        settings.AUTH_USER_MODEL,
        on_delete=set_null,
        null=True,
        blank=True,
        db_index=False,
        related_name="+",
    )
    node = models.ForeignKey(
        Node,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    path = models.CharField(max_length=255)
    route = models.CharField(max_length=255, blank=True)
    address = models.CharField(max_length=64, blank=True)
    origin = models.CharField(max_length=255, blank=True)
    user_agent = models.CharField(max_length=255, blank=True)
    transport = models.CharField(
        max_length=12,
        db_default="websocket",
        help_text="websocket, or sse or long_poll for a connection over plain HTTP.",
    )
    opened_at = models.DateTimeField(db_index=True)
    last_activity_at = models.DateTimeField()
    idle_timeout_seconds = models.FloatField(
        null=True,
        blank=True,
        help_text="Its own idle timeout (0: none); empty: the configured one.",
    )
    closed_at = models.DateTimeField(null=True, blank=True)
    close_code = models.PositiveSmallIntegerField(null=True, blank=True)
    reason = models.CharField(max_length=32, blank=True)
    messages_in = models.PositiveBigIntegerField(default=0)
    messages_out = models.PositiveBigIntegerField(default=0)
    bytes_in = models.PositiveBigIntegerField(default=0)
    bytes_out = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveIntegerField(default=0)
    longest_silence_seconds = models.FloatField(
        null=True,
        blank=True,
        help_text="The longest idle time that a beat has seen; empty: not recorded.",
    )
    silent_from = models.DateTimeField(
        null=True, blank=True, help_text="The start of the longest idle time."
    )
    # A positive number has a check, for which PostgreSQL would read the whole table.
    over_rate = models.IntegerField(
        null=True,
        blank=True,
        help_text="Messages over the rate in force; empty: not recorded.",
    )
    flight = models.JSONField(
        null=True,
        blank=True,
        verbose_name="flight record",
        help_text="The last events of a connection that ended abnormally.",
    )

    objects = ConnectionQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-opened_at", "-connection_id"]
        # Lists are filtered by some of these, and are ordered by the opening or, if
        # all their rows are closed, by the end. So each reads the rows that it shows,
        # also without statistics. Open rows are few, and have indexes of their own.
        indexes = [
            models.Index(fields=["client_id", "-opened_at"], name="connection_client"),
            models.Index(fields=["user", "-opened_at"], name="connection_user"),
            models.Index(fields=["node", "-opened_at"], name="connection_of_node"),
            models.Index(fields=["node", "closed_at"], name="connection_node"),
            models.Index(fields=["reason", "-closed_at"], name="connection_reason"),
            models.Index(
                fields=["node", "reason", "-closed_at"], name="connection_node_reason"
            ),
            models.Index(fields=["closed_at"], name="connection_closed"),
            *(
                models.Index(fields=fields, name=name, condition=_IS_OPEN)
                for name, fields in {
                    "connection_open": ["opened_at"],
                    "connection_open_client": ["client_id", "opened_at"],
                    "connection_open_user": ["user", "opened_at"],
                    "connection_open_node": ["node", "opened_at"],
                    "connection_open_activity": ["last_activity_at"],
                }.items()
            ),
        ]

    def __str__(self) -> str:
        return f"{self.client_id} ({self.connection_id})"


class ErrorEvent(models.Model):
    """An exception that the error boundary caught; users are shown `error_id`."""

    error_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    connection = models.ForeignKey(
        Connection,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        related_name="error_events",
    )
    node = models.ForeignKey(
        Node, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    at = models.DateTimeField(db_index=True)
    exception_class = models.CharField(max_length=255)
    where = models.CharField(max_length=255)
    route = models.CharField(max_length=255, blank=True)
    traceback = models.TextField(blank=True)

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["exception_class", "-at"], name="error_class"),
            models.Index(fields=["connection", "-at"], name="error_connection"),
        ]

    def __str__(self) -> str:
        return f"{self.exception_class} ({self.error_id})"
