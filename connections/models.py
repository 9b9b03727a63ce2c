"""The durable truth: nodes, connections, errors, tokens, bans, close requests."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Now

from connections.alert_log import Alert as Alert
from connections.minutes import MinuteRollup as MinuteRollup
from connections.net.addresses import format_network, parse_network
from connections.orders import Order as Order
from connections.querysets import (
    AccessTokenQuerySet,
    BanQuerySet,
    CloseRequestQuerySet,
    ConnectionQuerySet,
    NodeQuerySet,
    SweepQuerySet,
    TicketQuerySet,
)
from connections.watching import LiveDashboard as LiveDashboard
from connections.watching import NodePicture as NodePicture

ID_LENGTH = 32


class Node(models.Model):
    """One server process, from its start to its end."""

    class State(models.TextChoices):
        SERVING = "serving"
        DRAINING = "draining"
        STOPPED = "stopped"
        LOST = "lost"

    node_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=40)
    state = models.CharField(
        max_length=10, choices=State.choices, default=State.SERVING
    )
    generation = models.PositiveIntegerField(
        default=1, help_text="How often the node came back after it was taken for dead."
    )
    beat = models.PositiveBigIntegerField(
        default=0, help_text="Grows with each beat; stands still when the node is dead."
    )
    beat_at = models.DateTimeField()
    started_at = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True, blank=True)
    open_connections = models.PositiveIntegerField(default=0)
    degraded = models.CharField(
        max_length=255,
        blank=True,
        help_text="Why the limits do not hold across nodes just now; empty: they do.",
    )
    loop_lag_seconds = models.FloatField(
        default=0, help_text="How far the event loop was behind, in the last 10 s."
    )
    counters = models.JSONField(
        default=dict, help_text="What it has counted since its start."
    )
    minute = models.JSONField(
        default=dict, help_text="What it has counted in the minute under way."
    )
    unrolled = models.JSONField(
        default=list, help_text="Its whole minutes that no sweeper has taken over."
    )
    rolled_minute = models.PositiveBigIntegerField(
        default=0, help_text="The last whole minute that a sweeper has taken over."
    )

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid} ({self.node_id[:8]})"


class Connection(models.Model):
    """
    One WebSocket, from accept to close.

    Rows are written in batches by the node's recorder. References have no
    constraint in the database: a user or node deleted in between must not fail
    the batch that names it.
    """

    connection_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    client_id = models.CharField(max_length=255)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_constraint=False,
        related_name="+",
    )
    node = models.ForeignKey(
        Node, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    path = models.CharField(max_length=255)
    route = models.CharField(max_length=255, blank=True)
    address = models.CharField(max_length=64, blank=True)
    origin = models.CharField(max_length=255, blank=True)
    user_agent = models.CharField(max_length=255, blank=True)
    opened_at = models.DateTimeField(db_index=True)
    last_activity_at = models.DateTimeField()
    idle_timeout_seconds = models.FloatField(
        null=True,
        blank=True,
        help_text="Its own, which its node sees to (0: never); else as configured.",
    )
    closed_at = models.DateTimeField(null=True, blank=True)
    close_code = models.PositiveSmallIntegerField(null=True, blank=True)
    reason = models.CharField(max_length=32, blank=True)
    messages_in = models.PositiveBigIntegerField(default=0)
    messages_out = models.PositiveBigIntegerField(default=0)
    bytes_in = models.PositiveBigIntegerField(default=0)
    bytes_out = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveIntegerField(default=0)
    flight = models.JSONField(
        null=True,
        blank=True,
        verbose_name="flight record",
        help_text="The last events of a connection that ended abnormally.",
    )

    objects = ConnectionQuerySet.as_manager()

    class Meta:
        ordering = ["-connection_id"]
        indexes = [
            models.Index(fields=["client_id", "-opened_at"], name="connection_client"),
            models.Index(fields=["node", "closed_at"], name="connection_node"),
            models.Index(fields=["reason", "-closed_at"], name="connection_reason"),
            models.Index(fields=["closed_at"], name="connection_closed"),
            models.Index(
                fields=["last_activity_at"],
                name="connection_open_activity",
                condition=models.Q(closed_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.client_id} ({self.connection_id})"


class ErrorEvent(models.Model):
    """An exception that the error boundary caught; `error_id` is what users see."""

    error_id = models.CharField(primary_key=True, max_length=ID_LENGTH)
    connection = models.ForeignKey(
        Connection,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        db_constraint=False,
        related_name="error_events",
    )
    node = models.ForeignKey(
        Node, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    at = models.DateTimeField(db_index=True)
    exception_class = models.CharField(max_length=255, db_index=True)
    where = models.CharField(max_length=255)
    route = models.CharField(max_length=255, blank=True)
    traceback = models.TextField(blank=True)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.exception_class} ({self.error_id})"


class AccessToken(models.Model):
    """A bearer token; only its hash is stored."""

    digest = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(
        max_length=8, editable=False, help_text="How the token begins."
    )
    client_id = models.CharField(max_length=255, db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="access_tokens",
    )
    scopes = models.JSONField(
        default=list,
        blank=True,
        help_text="Paths it is good for, with all below them, and routes; none: all.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(
        null=True, blank=True, help_text="When a connection last began with it."
    )

    token = ""
    """The token itself; known to the object that made it, and never stored."""

    objects = AccessTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.client_id} ({self.hint}…)"


class Ban(models.Model):
    """
    A client, a user, an address or a network that is kept out.

    Made and lifted by connections.access.bans, which has it take effect at once; what
    is written here by other means takes effect on the next beat.
    """

    class Target(models.TextChoices):
        CLIENT = "client"
        USER = "user"
        ADDRESS = "address", "address or network"

    target = models.CharField(max_length=12, choices=Target.choices)
    value = models.CharField(
        max_length=255,
        help_text="A client id, the name or key of a user, or an address such as "
        "192.0.2.7, 2001:db8::/64 or 192.0.2.0/24.",
    )
    reason = models.CharField(
        max_length=255, blank=True, help_text="For staff; no client sees it."
    )
    author = models.CharField(max_length=150, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)
    until = models.DateTimeField(
        null=True, blank=True, help_text="Empty: until it is lifted."
    )

    objects = BanQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["target", "value"],
                name="ban_is_unique",
                violation_error_message="There is such a ban already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.target} {self.value}"

    def clean(self) -> None:
        """Write the value as it is compared: a user's key, a network's own form."""
        try:
            if self.target == self.Target.USER:
                self.value = _find_user_key(self.value)
            elif self.target == self.Target.ADDRESS:
                self.value = format_network(parse_network(self.value))
        except ValueError as exc:
            raise ValidationError({"value": str(exc)}) from exc


def _find_user_key(text: str) -> str:
    """
    Return the primary key that a text is, or that of the user it names.

    Raises:
        ValueError: there is no such user.
    """
    users = get_user_model()
    manager = users._default_manager
    try:
        return str(manager.get(pk=text).pk)
    except (users.DoesNotExist, ValueError, ValidationError):
        pass
    try:
        return str(manager.get_by_natural_key(text).pk)
    except users.DoesNotExist as exc:
        raise ValueError(f"there is no user {text!r}") from exc


class Ticket(models.Model):
    """
    A credential for one handshake within half a minute; only its hash is stored.

    It names the credential behind it: an access token, a Django session or the
    claims of a JWT. The key of the session is there until the ticket is used.
    """

    digest = models.CharField(primary_key=True, max_length=64)
    client_digest = models.CharField(max_length=64)
    token = models.ForeignKey(
        AccessToken, on_delete=models.CASCADE, null=True, related_name="+"
    )
    session_key = models.CharField(max_length=255, blank=True)
    claims = models.JSONField(default=dict)
    origin = models.CharField(max_length=255, blank=True)
    issued_at = models.DateTimeField(db_default=Now(), db_index=True)
    used_at = models.DateTimeField(null=True)

    objects = TicketQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["client_digest", "issued_at"], name="ticket_client")
        ]

    def __str__(self) -> str:
        return f"ticket of {self.issued_at}"


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


class Sweep(models.Model):
    """Who sweeps: one row, held by one sweeper at a time, and its last result."""

    name = models.CharField(primary_key=True, max_length=20)
    holder_id = models.CharField(max_length=ID_LENGTH, blank=True)
    held_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    result = models.JSONField(default=dict)

    objects = SweepQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name
