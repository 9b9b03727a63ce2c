"""Store which tool calls wait for a person, and what was decided."""

from django.db import models

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now
from sessions_history.chain import MARK_LENGTH

PART_ID_LENGTH = 100
NOTE_LENGTH = 1000


class Approval(models.Model):
    """
    The question to a person whether a tool call of an answer may run.

    The row stays as long as its entry, and says who decided.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        APPROVED = "approved"
        DENIED = "denied"
        EXPIRED = "expired"

    # Without a constraint: nodes of the previous release delete sessions, and know
    # no approvals.
    session = models.ForeignKey(
        "sessions_history.Session",
        on_delete=models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    offset = models.PositiveBigIntegerField()
    part_id = models.CharField(max_length=PART_ID_LENGTH)
    digest = models.CharField(max_length=32)
    """That of the name and the arguments of the call, which the person saw."""
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    is_open = models.BooleanField(default=True)
    """The responder has not got the decision: another node may go on with it."""
    taken_by = models.CharField(max_length=MARK_LENGTH, blank=True, db_default="")
    """The chain that the entry had when its responder got the decision: each attempt
    at an answer has its own."""
    decided_by = models.CharField(max_length=255, blank=True)
    note = models.CharField(max_length=NOTE_LENGTH, blank=True)
    created_at = MomentField(db_default=Now())
    expires_at = models.DateTimeField()
    decided_at = models.DateTimeField(null=True, blank=True)

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["session", "offset", "part_id"], name="approval_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.state} {self.part_id} of {self.session_id} #{self.offset}"
