"""Store the leader of the sweepers, and delete rows in small batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from django.db import DataError, IntegrityError, models
from django.db.models import Q

from connections.models.alias import PrimaryQuerySet
from connections.models.clock import Now
from connections.models.node import ID_LENGTH

logger = logging.getLogger(__name__)

Key = TypeVar("Key")

_MOST_FEW = 10_000
_FAULTS = (IntegrityError, DataError, ValueError, TypeError, LookupError)
"""What one faulty row raises; an outage raises other errors."""


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

    class Meta:
        app_label = "connections"

    def __str__(self) -> str:
        return self.name


def delete_some(rows: models.QuerySet[Any], batch_size: int) -> int:
    """
    Delete at most batch_size rows in one short transaction; return how many.

    The rows are ordered by the column that selects them: without statistics,
    PostgreSQL takes a third of a table for old, and would look through all of it.
    Rows that the database refuses to delete are logged, and keep no others.
    """

    def delete(keys: Sequence[Any]) -> int:
        found = rows.model._default_manager.filter(pk__in=keys)
        count: int = found._raw_delete(rows.db)
        return count

    deleted, refused = 0, list[Any]()
    while deleted < batch_size:
        left = rows.exclude(pk__in=refused) if refused else rows
        keys = list(left.values_list("pk", flat=True)[: batch_size - deleted])
        known = len(refused)
        deleted += work_on_some(keys, delete, rows.model.__name__, refused.append)
        if len(refused) == known:
            break
    return deleted


def work_on_some(
    keys: Sequence[Key],
    work: Callable[[Sequence[Key]], int],
    name: str,
    on_refused: Callable[[Key], object] = bool,
) -> int:
    """
    Work on rows in one transaction, or in several if some are faulty; return how many.

    A batch that fails is halved until only the faulty rows are left out, which are
    logged by name and key.
    """
    if not keys:
        return 0
    try:
        return work(keys)
    except _FAULTS as exc:
        if len(keys) == 1:
            logger.error(
                "The sweep left the row %s of %s as it is: %s",
                keys[0],
                name,
                exc,
                extra={"event": "row_refused"},
            )
            on_refused(keys[0])
            return 0
    half = len(keys) // 2
    halves = (keys[:half], keys[half:])
    return sum(work_on_some(some, work, name, on_refused) for some in halves)


def count_some(rows: models.QuerySet[Any]) -> int:
    """Count rows, in the order of the index that selects them while they are few."""
    count = rows[:_MOST_FEW].count()
    return count if count < _MOST_FEW else rows.count()
