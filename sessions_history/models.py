"""Store sessions and their entries, which outlive connections."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Length, Replace

from connections.models import Node
from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now
from connections.models.user_key import UserKey, set_null
from sessions_history.approval_models import Approval
from sessions_history.chain import MARK_LENGTH
from sessions_history.member_models import SessionInvitation as SessionInvitation
from sessions_history.member_models import SessionMember as SessionMember

ID_LENGTH = 32
KEY_LENGTH = 100
TITLE_LENGTH = 200
AUTHOR_LENGTH = 255

_LEFT_SECONDS = 30
"""How long after the end of its lease the nodes may take a work over."""


class SessionQuerySet(PrimaryQuerySet["Session"]):
    def empty(self) -> SessionQuerySet:
        """Sessions that never had an entry."""
        return self.filter(last_offset=0)

    def unused_since(self, moment: datetime) -> SessionQuerySet:
        """Sessions without an attach or a write since a moment."""
        return self.filter(last_seen_at__lt=moment)


class _WholeText(models.Subquery):
    """The texts of the chunks of an entry, as one text."""

    output_field = models.TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = (
            "(SELECT STRING_AGG(text, '' ORDER BY sequence)"
            " FROM (%(subquery)s) AS chunk)"
        )
        return self.as_sql(compiler, connection, template=template, **context)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # SQLite keeps the order of a subquery for GROUP_CONCAT.
        template = "(SELECT GROUP_CONCAT(text, '') FROM (%(subquery)s))"
        return self.as_sql(compiler, connection, template=template, **context)


class HistoryEntryQuerySet(PrimaryQuerySet["HistoryEntry"]):
    def with_chunks(self) -> HistoryEntryQuerySet:
        """
        Annotate entries with `chunks` and `part_chunks`: their text, or None.

        One statement reads all: a text that is folded meanwhile is read once.
        """
        of_entry = EntryChunk.objects.filter(entry=models.OuterRef("pk"), part="")
        chunks = of_entry.order_by("sequence").values("text", "sequence")
        return self.annotate(
            chunks=_WholeText(chunks.filter(kind=EntryChunk.Kind.TEXT)),
            part_chunks=_WholeText(chunks.filter(kind=EntryChunk.Kind.PARTS)),
        )

    def streaming(self) -> HistoryEntryQuerySet:
        """Entries that stream according to the database."""
        return self.filter(state="streaming")

    def resumed(self) -> HistoryEntryQuerySet:
        """Entries that a producer went on with after their lease or their end."""
        without_spaces = Replace("chain", models.Value(" "))
        spaces = Length("chain") - Length(without_spaces)
        return self.alias(spaces=spaces).filter(
            models.Q(spaces__gte=2) | models.Q(spaces=1, state="streaming")
        )

    def abandoned(self, now: datetime) -> HistoryEntryQuerySet:
        """Streaming entries that no live node writes or takes over."""
        live = Node.objects.live().values("node_id")
        works = Work.objects.filter(
            session=models.OuterRef("session"), offset=models.OuterRef("offset")
        )
        left = works.filter(leased_until__lt=now - timedelta(seconds=_LEFT_SECONDS))
        asked = Approval.objects.filter(
            session=models.OuterRef("session"), is_open=True, expires_at__gt=now
        )
        # It waits for a person, or behind what does: a node that starts gives it.
        waiting = asked.filter(offset=models.OuterRef("offset"))
        # The question of an answer that was cancelled stays open.
        asking = self.model._default_manager.filter(
            session=models.OuterRef("session"),
            offset=models.OuterRef("offset"),
            state="streaming",
        )
        before = asked.filter(
            models.Exists(asking), offset__lt=models.OuterRef("offset")
        )
        answers = works.filter(message_offset__isnull=False)
        without_owner = ~models.Exists(works) & ~models.Q(node__in=live)
        return self.streaming().filter(
            models.Exists(left) | without_owner,
            ~models.Exists(waiting),
            ~(models.Exists(answers) & models.Exists(before)),
        )


class Session(models.Model):
    """
    One client's ordered, capped log of entries.

    An entry's position is its offset: it counts from 1 without holes within an
    epoch, and an epoch ends only when the log is lost or reset.
    """

    session_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    client_id = models.CharField(max_length=255)
    user = UserKey(
        settings.AUTH_USER_MODEL,
        on_delete=set_null,
        null=True,
        blank=True,
        related_name="+",
    )
    epoch = models.CharField(max_length=ID_LENGTH)
    last_offset = models.PositiveBigIntegerField(default=0)
    chain = models.CharField(max_length=MARK_LENGTH, blank=True, db_default="")
    """The mark of its newest commit; nodes of the previous release leave it."""
    title = models.CharField(max_length=TITLE_LENGTH, blank=True, db_default="")
    """The name that its client gave it; nodes of the previous release leave it."""
    created_at = MomentField(db_default=Now())
    last_seen_at = MomentField(db_default=Now(), db_index=True)
    """When a client last attached or wrote, to within a few seconds."""

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-last_seen_at"]
        indexes = [
            models.Index(fields=["client_id", "-last_seen_at"], name="session_client"),
            models.Index(
                fields=["client_id"],
                name="session_client_prefix",
                # PostgreSQL finds a prefix by an index of bytes alone.
                opclasses=["varchar_pattern_ops"],
            ),
            models.Index(
                fields=["last_seen_at"],
                name="session_empty",
                condition=models.Q(last_offset=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.client_id} ({self.session_id})"


class DeletedSession(models.Model):
    """The id of a deleted session, kept for a day: nobody begins it again."""

    session_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    deleted_at = MomentField(db_default=Now(), db_index=True)

    objects = PrimaryQuerySet.as_manager()

    def __str__(self) -> str:
        return self.session_id


class HistoryEntry(models.Model):
    """
    One item of a session's log.

    `data` is the JSON text as it was sent. A JSON column would return different
    texts for the same numbers on PostgreSQL and SQLite.
    """

    class Sender(models.TextChoices):
        CLIENT = "client"
        SERVER = "server"

    class State(models.TextChoices):
        STREAMING = "streaming"
        DONE = "done"
        CANCELLED = "cancelled"
        INTERRUPTED = "interrupted"
        ERROR = "error"

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, related_name="entries", db_index=False
    )
    offset = models.PositiveBigIntegerField()
    kind = models.CharField(max_length=32)
    sender = models.CharField(max_length=6, choices=Sender.choices)
    author = models.CharField(max_length=AUTHOR_LENGTH, blank=True, db_default="")
    """The member whose message it is; nodes of the previous release leave it."""
    at = MomentField(db_default=Now())
    data = models.TextField(default="null")
    parts = models.TextField(blank=True, db_default="")
    """The parts of an answer, each a line of JSON; nodes of the previous release leave
    it, and read the text in `data` alone."""
    state = models.CharField(max_length=11, choices=State.choices, default=State.DONE)
    chain = models.CharField(max_length=MARK_LENGTH, blank=True, db_default="")
    """The links of the commits that appended and ended it, with a space between."""
    # A positive number has a check, for which PostgreSQL would read the whole table.
    replaces = models.BigIntegerField(null=True, blank=True)
    """The answer in whose place this one stands: it was regenerated."""
    node = models.ForeignKey(
        Node,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        related_name="+",
        help_text="Whose producer writes the entry, while it streams.",
    )

    objects = HistoryEntryQuerySet.as_manager()

    class Meta:
        ordering = ["session", "offset"]
        verbose_name_plural = "history entries"
        constraints = [
            models.UniqueConstraint(
                fields=["session", "offset"], name="entry_offset_is_unique"
            )
        ]
        indexes = [
            models.Index(
                fields=["session", "offset"],
                name="entry_streaming",
                condition=models.Q(state="streaming"),
            ),
            # Nearly all entries are done, and lists show the newest first.
            models.Index(
                fields=["state", "sender", "id"],
                name="entry_not_done",
                condition=~models.Q(state="done"),
            ),
            models.Index(fields=["sender", "id"], name="entry_sender"),
        ]

    def __str__(self) -> str:
        return f"{self.session_id} #{self.offset}"


class EntryChunk(models.Model):
    """
    A piece of the text of a streaming entry, or changes of its parts.

    The chunks of an entry are its whole content so far. They are folded into its
    `data` and `parts` when it ends. Until then `data` holds a text that lags behind.
    """

    class Kind(models.TextChoices):
        TEXT = "text"
        PARTS = "parts"

    # Without a constraint: nodes of the previous release delete entries, and know
    # no chunks.
    entry = models.ForeignKey(
        HistoryEntry,
        on_delete=models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    sequence = models.PositiveIntegerField()
    """Counts from 1. A chunk that is sent again has the same number."""
    part = models.CharField(max_length=32, blank=True)
    """Empty: the changes of parts name them."""
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.TEXT)
    text = models.TextField()
    owner = models.CharField(max_length=64)
    """The owner of the work that wrote it."""

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["entry", "sequence"], name="chunk_sequence_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.entry_id} #{self.sequence}"


class AppendKey(models.Model):
    """
    The id that a client gave a message, and the offset of the entry.

    Kept for a day, also after trimming, so that a message that is sent again
    after a lost ack gets the same ack and is not appended twice.
    """

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    key = models.CharField(max_length=KEY_LENGTH)
    digest = models.CharField(max_length=32)
    offset = models.PositiveBigIntegerField()
    created_at = MomentField(db_default=Now(), db_index=True)

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["session", "key"], name="append_key_is_unique"
            )
        ]

    def __str__(self) -> str:
        return self.key


class StreamProducer(models.Model):
    """
    The last append of one producer of the Durable Streams protocol.

    A session keeps the hundred producers that appended last.
    """

    # Without a constraint: nodes of the previous release delete sessions, and know
    # no producers.
    session = models.ForeignKey(
        Session,
        on_delete=models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    producer = models.CharField(max_length=KEY_LENGTH)
    """The id that the producer chose."""
    epoch = models.PositiveBigIntegerField()
    """Counts the starts of the producer."""
    sequence = models.PositiveBigIntegerField()
    """Counts its appends within the epoch."""
    used_at = MomentField(db_default=Now())
    """When it appended last; nodes of the previous release leave it."""

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["session", "producer"], name="stream_producer_is_unique"
            )
        ]

    def __str__(self) -> str:
        return self.producer


class Work(models.Model):
    """
    A streaming entry that somebody has to write, and who that is.

    The owner renews its lease. If it does not, a node or a worker takes the work
    over. The owner deletes the row when the entry has ended.
    """

    session = models.ForeignKey(
        Session, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    offset = models.PositiveBigIntegerField()
    message_offset = models.PositiveBigIntegerField(null=True, blank=True)
    """The message that the entry answers. Without one only the owner can go on."""
    key = models.CharField(max_length=KEY_LENGTH, blank=True)
    """The id of that message."""
    traceparent = models.CharField(max_length=55, blank=True, db_default="")
    """The trace of the request that began the entry (W3C Trace Context)."""
    metadata = models.TextField(blank=True, db_default="")
    """The metadata of that message as JSON; nodes of the previous release leave it."""
    claims = models.TextField(blank=True, db_default="")
    """The claims of the client, as JSON, for a worker; empty if a node answers."""
    owner = models.CharField(max_length=64, db_index=True)
    """An opaque id; of a node its node_id. Empty while nobody has taken the work."""
    leased_until = models.DateTimeField(db_index=True)
    ends_at = models.DateTimeField()
    """When the entry is interrupted, whoever writes it."""
    attempts = models.PositiveSmallIntegerField(default=1)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "work"
        constraints = [
            models.UniqueConstraint(
                fields=["session", "offset"], name="work_offset_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.session_id} #{self.offset}"
