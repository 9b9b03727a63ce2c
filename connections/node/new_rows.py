"""Read each row of a table that others append to once, whenever it was committed."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from django.db.models import DurationField, ExpressionWrapper, F, Model, Q

from connections.models.clock import Now
from connections.storage.database import Database
from connections.units import Clock

_RECENT = timedelta(seconds=60)
"""Rows that were older when this node started are not new."""

_GAP_SECONDS = 3600
"""How long a transaction may take until its commit."""

_GAPS = 100
_GAP_ROWS = 10_000
_REMEMBERED_ROWS = 10_000
_ROWS_PER_QUERY = 500

Row = TypeVar("Row", bound=Model)
Key = tuple[int, datetime]
Gap = tuple[range, float]
"""Ids without rows, and the moment at which they were missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch(Generic[Row]):
    """New rows by id with their ages, and the state once they are taken."""

    began_at: float
    rows: list[tuple[Row, timedelta]]
    last_id: int
    gaps: list[Gap]
    keys: list[Key]


class NewRows(Generic[Row]):
    """
    The rows of a table that this node has not read; they have `id`, `created_at`.

    An id is given before the commit: a transaction that takes long commits an id
    that is lower than others that were read. Missing ids are gaps, which are read
    for an hour. Rows of the last minute are compared with those that were read, in
    case that a fail-over of the database gave an id twice.
    """

    def __init__(self, model: type[Row], clock: Clock = time.monotonic) -> None:
        self._rows: Any = model._default_manager
        self._clock = clock
        self._last_id: int | None = None
        self._gaps: list[Gap] = []
        self._known: dict[Key, None] = {}
        self._started_at = clock()
        self._polled_at: float | None = None
        self._polling = asyncio.Lock()

    async def poll(self, database: Database) -> list[tuple[Row, timedelta]]:
        """
        Return the new rows by id, each with the time since it could be read.

        That is its age by the database's clock, but no more than the time since the
        last poll: a row that was not there then was committed later.

        Raises:
            DatabaseUnavailable: the next poll returns them.
        """
        async with self._polling:
            batch = await database.read(self._read)
            most = timedelta.max
            if self._polled_at is not None:
                most = timedelta(seconds=batch.began_at - self._polled_at)
            self._take(batch)
        return [(row, min(age, most)) for row, age in batch.rows]

    def _read(self) -> _Batch[Row]:
        """Read the new rows, in a thread of the database."""
        began_at = self._clock()
        newest = self._rows.order_by("-id").values_list("id", flat=True)
        newest_id: int = (newest.first() or 0) if self._last_id is None else 0
        keys: list[Key] = list(
            self._rows.filter(self._may_be_new(began_at)).values_list(
                "id", "created_at"
            )
        )
        ids = sorted(key[0] for key in keys if key not in self._known)
        rows, last_id = self._rows, self._last_id
        if last_id is None:
            rows = rows.filter(created_at__gte=Now() - self._find_span(began_at))
            last_id = ids[0] - 1 if ids else newest_id
        gaps = self._find_gaps(ids, last_id)
        last_id = max(last_id, *ids) if ids else last_id
        return _Batch(
            began_at=began_at,
            rows=_fetch(rows, ids),
            last_id=last_id,
            gaps=gaps,
            keys=keys,
        )

    def _take(self, batch: _Batch[Row]) -> None:
        """Confirm a batch, which is not read again."""
        self._polled_at = batch.began_at
        self._last_id, self._gaps = batch.last_id, batch.gaps
        self._known |= dict.fromkeys(batch.keys)
        excess = len(self._known) - max(_REMEMBERED_ROWS, len(batch.keys))
        for key in list(self._known)[: max(excess, 0)]:
            del self._known[key]

    def _find_span(self, now: float) -> timedelta:
        """Return the age of the oldest rows that the first read returns."""
        return timedelta(seconds=now - self._started_at) + _RECENT

    def _may_be_new(self, now: float) -> Q:
        """Return a filter for all new rows and few others."""
        if self._last_id is None:
            gap = timedelta(seconds=_GAP_SECONDS)
            return Q(created_at__gte=Now() - max(gap, self._find_span(now)))
        wanted = Q(id__gt=self._last_id) | Q(created_at__gte=Now() - _RECENT)
        for ids, _ in self._gaps:
            wanted |= Q(id__range=(ids.start, ids.stop - 1))
        return wanted

    def _find_gaps(self, ids: list[int], last_id: int) -> list[Gap]:
        """Return the gaps that ids leave open, and those between later ids."""
        now = self._clock()
        gaps: list[Gap] = []
        for gap, found_at in self._gaps:
            if now - found_at < _GAP_SECONDS:
                filled = [one for one in ids if one in gap]
                gaps += [(part, found_at) for part in _split(gap, filled)]
        later = [one for one in ids if one > last_id]
        if later:
            unread = range(max(last_id + 1, later[-1] - _GAP_ROWS), later[-1])
            gaps += [(part, now) for part in _split(unread, later)]
        return gaps[-_GAPS:]


def _fetch(rows: Any, ids: list[int]) -> list[tuple[Any, timedelta]]:
    age = ExpressionWrapper(Now() - F("created_at"), DurationField())
    found: list[tuple[Any, timedelta]] = []
    for start in range(0, len(ids), _ROWS_PER_QUERY):
        chunk = rows.filter(id__in=ids[start : start + _ROWS_PER_QUERY])
        found += [(row, row.age) for row in chunk.order_by("id").annotate(age=age)]
    return found


def _split(ids: range, taken: Iterable[int]) -> list[range]:
    """Return the parts of a range between some of its numbers, which are sorted."""
    parts: list[range] = []
    start = ids.start
    for one in taken:
        if one >= start:
            parts.append(range(start, min(one, ids.stop)))
            start = one + 1
    parts.append(range(start, ids.stop))
    return [part for part in parts if part]
