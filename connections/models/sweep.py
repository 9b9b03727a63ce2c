"""Store the leader of the sweepers, and delete rows in small batches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import Now
from connections.models.node import ID_LENGTH

_MOST_FEW = 10_000


class SweepQuerySet(PrimaryQuerySet["Sweep"]):
    def take(self, name: str, holder_id: str, timeout_seconds: float) -> bool:
        """Take or keep the lead, unless another sweeper holds it and is alive."""
        self.get_or_create(name=name)
        free = Q(holder_id__in=("", holder_id)) | Q(held_at=None)
        silent = Q(held_at__lt=Now() - timedelta(seconds=timeout_seconds))
        return bool(
            self.filter(free | silent, name=name).update(
                holder_id=holder_id, held_at=Now()
            )
        )

    def give_up(self, name: str, holder_id: str) -> None:
        """Give the lead up, so that another sweeper can take it at once."""
        self.filter(name=name, holder_id=holder_id).update(holder_id="", held_at=None)


class Sweep(models.Model):
    """The lead among sweepers, held by one at a time, and its last result."""

    name = models.CharField(primary_key=True, max_length=20)
    holder_id = models.CharField(max_length=ID_LENGTH, blank=True)
    held_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    result = models.JSONField(default=dict)

    objects = SweepQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


def delete_some(rows: models.QuerySet[Any], batch_size: int) -> int:
    """
    Delete at most batch_size rows in one short transaction; return how many.

    The rows are ordered by the column that selects them: without statistics,
    PostgreSQL takes a third of a table for old, and would look through all of it.
    """
    keys = list(rows.values_list("pk", flat=True)[:batch_size])
    if not keys:
        return 0
    count: int = rows.model._default_manager.filter(pk__in=keys)._raw_delete(rows.db)
    return count


def count_some(rows: models.QuerySet[Any]) -> int:
    """Count rows, in the order of the index that selects them while they are few."""
    count = rows[:_MOST_FEW].count()
    return count if count < _MOST_FEW else rows.count()
