"""Store the persons whose data is being erased, until nothing of them is left."""

from typing import Any

from django.db import models

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import MomentField, Now


class ForgetRequest(models.Model):
    """
    A person to forget, and how many rows of each table were erased so far.

    The command that writes it erases the person; if it does not finish, a sweeper
    does. The row is deleted at the end.
    """

    pseudonym = models.CharField(primary_key=True, max_length=32)
    client_ids = models.JSONField(default=list)
    user_key = models.CharField(max_length=255, blank=True)
    user_name = models.CharField(max_length=255, blank=True)
    addresses = models.JSONField(default=list)
    actor = models.CharField(max_length=150, blank=True)
    via = models.CharField(max_length=12)
    requested_at = MomentField(db_default=Now())
    counts: Any = models.JSONField(default=dict)

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        app_label = "connections"
        ordering = ["requested_at"]

    def __str__(self) -> str:
        return self.pseudonym
