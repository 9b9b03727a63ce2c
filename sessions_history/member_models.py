"""Store who else may use a session, beside the client that began it."""

from __future__ import annotations

import os
from datetime import datetime

from django.conf import settings
from django.db import models

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now
from connections.models.user_key import UserKey, cascade, set_null


class Role(models.TextChoices):
    """What a person may do in a session."""

    OWNER = "owner"
    WRITER = "writer"
    READER = "reader"
    AGENT = "agent"

    @property
    def may_write(self) -> bool:
        """True if the role appends messages, stops answers and shows typing."""
        return self is not Role.READER


class SessionInvitationQuerySet(PrimaryQuerySet["SessionInvitation"]):
    def open(self) -> SessionInvitationQuerySet:
        """Invitations that a user can redeem."""
        unused = models.Q(used_at=None) | models.Q(is_single_use=False)
        return self.filter(unused, revoked_at=None, expires_at__gt=Now())

    def ended(self, before: datetime | Now | None = None) -> SessionInvitationQuerySet:
        """Invitations that nobody can redeem any more, or since before a moment."""
        moment = before or Now()
        used = models.Q(is_single_use=True, used_at__lte=moment)
        gone = models.Q(revoked_at__lte=moment) | models.Q(expires_at__lte=moment)
        return self.filter(used | gone)


def make_invitation_id() -> str:
    """Return a new id; links name it, signed."""
    return os.urandom(16).hex()


class SessionMember(models.Model):
    """
    The role of a user in a session, whatever the client id of its connections.

    The client whose id the session bears is its owner without a row. A session that
    was handed over bears the id of its new owner, who has a row as well.
    """

    # Without a constraint: nodes of the previous release delete sessions, and know
    # no members.
    session = models.ForeignKey(
        "sessions_history.Session",
        on_delete=models.CASCADE,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    user = UserKey(settings.AUTH_USER_MODEL, on_delete=cascade, related_name="+")
    role = models.CharField(max_length=8, choices=Role.choices)
    created_at = MomentField(db_default=Now())

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        verbose_name = "member"
        constraints = [
            models.UniqueConstraint(
                fields=["session", "user"], name="session_member_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.user_id} of {self.session_id}"


class SessionInvitation(models.Model):
    """
    An invitation to a session, which a signed link names.

    A single-use one makes the first user a member that redeems it.
    """

    invitation_id = models.CharField(
        primary_key=True, max_length=32, default=make_invitation_id
    )
    # Without a constraint, as above.
    session = models.ForeignKey(
        "sessions_history.Session",
        on_delete=models.CASCADE,
        db_constraint=False,
        related_name="+",
    )
    role = models.CharField(max_length=8, choices=Role.choices)
    author = UserKey(
        settings.AUTH_USER_MODEL,
        on_delete=set_null,
        null=True,
        blank=True,
        related_name="+",
    )
    is_single_use = models.BooleanField(default=True)
    created_at = MomentField(db_default=Now())
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True, blank=True)
    """When somebody redeemed it last."""
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = SessionInvitationQuerySet.as_manager()

    class Meta:
        verbose_name = "invitation"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.role} of {self.session_id}"
