"""Store access tokens and tickets by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import models

from connections.models.alias import PrimaryQuerySet, atomic
from connections.models.at_once import read_at_once
from connections.models.clock import MomentField, Now
from connections.models.user_key import UserKey, are_users_apart, cascade


def digest_token(token: str) -> str:
    """Return the stored hash of a token: SHA-256, as a token has 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class AccessTokenQuerySet(PrimaryQuerySet["AccessToken"]):
    def find_all(self, tokens: Iterable[str]) -> dict[str, AccessToken]:
        """
        Return the rows of tokens by digest, in any state, with their users.

        The look-up is by hash, so its timing reveals nothing about a token.
        """
        digests = {digest_token(token) for token in tokens}
        rows = read_at_once(self.filter(digest__in=digests))
        owned = [row for row in rows if row.user_id is not None]
        models.prefetch_related_objects(owned, "user")
        return {row.digest: row for row in rows}

    def in_state(self, state: str) -> AccessTokenQuerySet:
        """Tokens that are valid, expired or revoked, by the database's clock."""
        is_over = models.Q(expires_at__lte=Now())
        if state == "revoked":
            return self.exclude(revoked_at=None)
        unrevoked = self.filter(revoked_at=None)
        return unrevoked.filter(is_over if state == "expired" else ~is_over)

    def revoke(self) -> list[int]:
        """Revoke the selected tokens; return the keys of those revoked only now."""
        with atomic():
            valid = self.filter(revoked_at=None).select_for_update()
            keys = list(valid.values_list("pk", flat=True))
            self.model._default_manager.filter(pk__in=keys).update(revoked_at=Now())
        return keys


class TicketQuerySet(PrimaryQuerySet["Ticket"]):
    def younger_than(self, seconds: float) -> TicketQuerySet:
        """Tickets issued within some seconds, used or not, by the database's clock."""
        return self.filter(issued_at__gt=Now() - timedelta(seconds=seconds))

    def older_than(self, seconds: float) -> TicketQuerySet:
        """Tickets issued more than some seconds ago, by the database's clock."""
        return self.filter(issued_at__lte=Now() - timedelta(seconds=seconds))

    def take(self, ticket: str, lifetime_seconds: float) -> Ticket | None:
        """
        Use a ticket and return its row; None if it is used, too old or unknown.

        Of any number of attempts at once, on any nodes, one succeeds: the update
        is conditional, and the database serialises updates.
        """
        usable = self.younger_than(lifetime_seconds).filter(
            digest=digest_token(ticket), used_at=None
        )
        related = "token" if are_users_apart() else "token__user"
        row = usable.select_related(related).first()
        if row is None or not usable.update(used_at=Now(), session_key=""):
            return None
        return row


class AccessToken(models.Model):
    """A bearer token; only its hash is stored."""

    STATES = ("valid", "expired", "revoked")

    digest = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(
        max_length=8, editable=False, help_text="The first characters of the token."
    )
    client_id = models.CharField(max_length=255, db_index=True)
    user = UserKey(
        settings.AUTH_USER_MODEL,
        on_delete=cascade,
        null=True,
        blank=True,
        related_name="access_tokens",
    )
    scopes = models.JSONField(
        default=list,
        blank=True,
        help_text="Routes, and paths with all below them; empty: valid for all. Only "
        "api:read and the like open the operators' API.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(
        null=True, blank=True, help_text="When it last opened a connection."
    )

    token = ""
    """The token itself; never stored, set only on the object that created it."""

    objects = AccessTokenQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-created_at"]
        permissions = [
            ("impersonate_accesstoken", "Can create access tokens for other users")
        ]

    def __str__(self) -> str:
        return f"{self.client_id} ({self.hint}…)"


class Ticket(models.Model):
    """
    A credential for one handshake within half a minute; only its hash is stored.

    It refers to the credential it was issued for: an access token, a Django session
    or the claims of a JWT. The session key is erased when the ticket is used.
    """

    digest = models.CharField(primary_key=True, max_length=64)
    client_digest = models.CharField(max_length=64)
    token = models.ForeignKey(
        AccessToken, on_delete=models.CASCADE, null=True, related_name="+"
    )
    session_key = models.CharField(max_length=255, blank=True)
    claims = models.JSONField(default=dict)
    origin = models.CharField(max_length=255, blank=True)
    issued_at = MomentField(db_default=Now(), db_index=True)
    used_at = models.DateTimeField(null=True)

    objects = TicketQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        indexes = [
            models.Index(fields=["client_digest", "issued_at"], name="ticket_client")
        ]

    def __str__(self) -> str:
        return f"ticket of {self.issued_at}"
