"""Store the failed sign-ins of the last minutes, for all nodes."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now


class FailedSignInQuerySet(models.QuerySet["FailedSignIn"]):
    def recent(self, seconds: float) -> FailedSignInQuerySet:
        """Failures within some seconds, by the database's clock."""
        return self.filter(at__gt=Now() - timedelta(seconds=seconds))

    def older_than(self, seconds: float) -> FailedSignInQuerySet:
        """Failures more than some seconds ago, by the database's clock."""
        return self.filter(at__lte=Now() - timedelta(seconds=seconds))


class FailedSignIn(models.Model):
    """
    A wrong password, or an attempt that is being checked.

    The name of the user is a digest, because people type passwords in its place.
    """

    address = models.CharField(max_length=64)
    user_digest = models.CharField(max_length=64)
    at = models.DateTimeField(db_default=Now(), db_index=True)

    objects = FailedSignInQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["address", "at"], name="sign_in_address")]

    def __str__(self) -> str:
        return f"{self.address} at {self.at}"
