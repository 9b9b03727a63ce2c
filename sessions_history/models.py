"""What outlives a socket: a client's sessions and their entries."""

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

ID_LENGTH = 32


class Session(models.Model):
    """
    One client's ordered, capped log of entries.

    An entry's position is its offset: it counts from 1 without holes within an
    epoch, and an epoch ends only when the log is lost or reset.
    """

    session_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    client_id = models.CharField(max_length=255)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
    )
    epoch = models.CharField(max_length=ID_LENGTH)
    last_offset = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        ordering = ["-last_seen_at"]
        indexes = [
            models.Index(fields=["client_id", "-last_seen_at"], name="session_client")
        ]

    def __str__(self) -> str:
        return f"{self.client_id} ({self.session_id})"


class HistoryEntry(models.Model):
    """One item of a session's log."""

    class Sender(models.TextChoices):
        CLIENT = "client"
        SERVER = "server"

    class State(models.TextChoices):
        STREAMING = "streaming"
        DONE = "done"
        CANCELLED = "cancelled"
        INTERRUPTED = "interrupted"

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, related_name="entries"
    )
    offset = models.PositiveBigIntegerField()
    kind = models.CharField(max_length=32)
    sender = models.CharField(max_length=6, choices=Sender.choices)
    at = models.DateTimeField(db_default=Now())
    data = models.JSONField(null=True)
    state = models.CharField(max_length=11, choices=State.choices, default=State.DONE)

    class Meta:
        ordering = ["session", "offset"]
        verbose_name_plural = "history entries"
        constraints = [
            models.UniqueConstraint(
                fields=["session", "offset"], name="entry_offset_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.session_id} #{self.offset}"
