"""Store bans of clients, users and addresses."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Count, Max, Q

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import Now
from connections.models.user_key import find_user
from connections.net.addresses import name_banned_network
from connections.privacy import reduce_target


class BanQuerySet(PrimaryQuerySet["Ban"]):
    def in_force(self) -> BanQuerySet:
        """Bans that have not ended, by the database's clock."""
        return self.filter(Q(until=None) | Q(until__gt=Now()))

    def find_version(self) -> tuple[Any, ...]:
        """Return a value that changes when a ban is created, saved or deleted."""
        found = self.aggregate(Count("pk"), Max("pk"), Max("changed_at"))
        return tuple(found.values())

    def find_added(
        self, known: tuple[Any, ...], version: tuple[Any, ...]
    ) -> list[Ban] | None:
        """Return the bans between two versions; None if others changed or are gone."""
        known_count, known_pk, known_change = known
        count, last_pk, _ = version
        if not known_count or last_pk is None:
            return None
        if self.filter(pk__lte=known_pk, changed_at__gt=known_change).exists():
            return None
        added = list(self.filter(pk__gt=known_pk, pk__lte=last_pk))
        return added if known_count + len(added) == count else None


class Ban(models.Model):
    """
    A client, a user, an address or a network that may not connect.

    connections.access.bans imposes and lifts bans with effect at once. A row that is
    written by other means takes effect on the next beat.
    """

    class Target(models.TextChoices):
        CLIENT = "client"
        USER = "user"
        ADDRESS = "address", "address or network"

    target = models.CharField(max_length=12, choices=Target.choices)
    value = models.CharField(
        max_length=255,
        help_text="A client id, the name or key of a user, or an address such as "
        "192.0.2.7, 2001:db8::/64 or 192.0.2.0/24. An IPv6 address stands for its /64; "
        "2001:db8::7/128 is the address alone.",
    )
    reason = models.CharField(
        max_length=255, blank=True, help_text="For staff; no client sees it."
    )
    author = models.CharField(max_length=150, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)
    until = models.DateTimeField(
        null=True, blank=True, help_text="Leave empty for a ban without an end."
    )

    objects = BanQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["target", "value"],
                name="ban_is_unique",
                violation_error_message="There is such a ban already.",
            )
        ]

    def __str__(self) -> str:
        # The log of Django admin keeps this text.
        return f"{self.target} {reduce_target(self.target, self.value)}".strip()

    def clean(self) -> None:
        """Normalise the value that a person gave."""
        self.normalise(prefers_key=False)

    def normalise(self, *, prefers_key: bool = True) -> None:
        """
        Turn the value into a user's key, or a network in canonical form.

        A value that is a key stays one, whatever login name another user has.

        Raises:
            ValidationError: there is no such user, or the address is not valid.
        """
        if not self._state.adding:
            # The user may be deleted. A row of an older version names one IPv6
            # address without /128.
            return
        try:
            if self.target == self.Target.USER:
                self.value = str(find_user(self.value, prefers_key=prefers_key).pk)
            elif self.target == self.Target.ADDRESS:
                self.value = name_banned_network(self.value)
        except ValueError as exc:
            raise ValidationError({"value": str(exc)}) from exc
