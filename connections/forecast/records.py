"""Read recorded connections and refused handshakes in their order, by the chunk."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from connections.close_codes import REPLACED
from connections.config.loader import get_config
from connections.models import Connection, RefusedHandshake
from connections.units import as_utc

LOOKBACK = timedelta(days=1)
"""How long before the period a closed connection may have opened to be known."""

ROWS_PER_QUERY = 4000
_COLUMNS = (
    *("opened_at", "connection_id", "client_id", "route", "closed_at", "reason"),
    *("last_activity_at", "idle_timeout_seconds", "longest_silence_seconds"),
    *("silent_from", "over_rate"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One recorded connection; moments are seconds since the Unix epoch."""

    connection_id: str
    client_id: str
    route: str
    opened_at: float
    ends_at: float
    """Infinite while the connection is open."""

    reason: str
    own_timeout_seconds: float | None
    longest_silence_seconds: float | None
    """None if an older release has recorded the connection."""

    silent_from: float
    over_rate: int | None

    def find_idle_end(
        self, timeout_seconds: float, beat_seconds: float
    ) -> float | None:
        """
        Return when an idle timeout would have ended it, or None; 0 is never.

        A node finds idle connections at a beat. The longest silence was measured at
        one, and the others are whole beats before it.
        """
        if self.own_timeout_seconds is not None:
            timeout_seconds = self.own_timeout_seconds
        silence = self.longest_silence_seconds
        if not timeout_seconds or silence is None or silence < timeout_seconds:
            return None
        beats_later = (silence - timeout_seconds) // beat_seconds
        found_at = self.silent_from + silence - beats_later * beat_seconds
        return min(found_at, self.ends_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRecord:
    """Handshakes of a client within a second that a limit in force refused."""

    row_id: int
    client_id: str
    """Empty for several clients."""

    route: str
    opened_at: float
    count: int


def read_records(
    start: datetime, end: datetime, on_chunk: Callable[[int, float], object]
) -> Iterator[Record]:
    """
    Yield the connections of a period and its look-back, in the order of opening.

    Those that opened before the look-back and are open still come first. Each chunk
    is a query of its own along the index of opened_at: no transaction and no lock
    lasts. on_chunk is called with the number of rows read so far, and the part
    that they cover of the time from the first row of the look-back on.
    """
    rows = Connection.objects.order_by("opened_at", "connection_id")
    known_from = start - LOOKBACK
    done = 0
    for chunk in _read_chunks(rows.open().filter(opened_at__lt=known_from), None):
        done += len(chunk)
        on_chunk(done, 0)
        for row in chunk:
            yield _make_record(row, end)
    first: datetime | None = None
    for chunk in _read_chunks(rows.filter(opened_at__lt=end), known_from):
        done += len(chunk)
        first = first or chunk[0].opened_at
        on_chunk(done, (chunk[-1].opened_at - first) / (end - first))
        for row in chunk:
            yield _make_record(row, end)


def read_refused(
    start: datetime, end: datetime, on_chunk: Callable[[int], object]
) -> Iterator[RefusedRecord]:
    """
    Yield the refused handshakes of a period and its look-back, in their order.

    on_chunk is called with the number of rows read so far.
    """
    rows = RefusedHandshake.objects.order_by("at", "id").filter(at__lt=end)
    chunk, done = rows.filter(at__gte=start - LOOKBACK), 0
    while True:
        found = list(chunk[:ROWS_PER_QUERY])
        done += len(found)
        on_chunk(done)
        for row in found:
            yield RefusedRecord(
                row_id=row.pk,
                client_id=row.client_id,
                route=row.route,
                opened_at=as_utc(row.at).timestamp(),
                count=row.count,
            )
        if len(found) < ROWS_PER_QUERY:
            return
        last = found[-1]
        chunk = rows.filter(at__gte=last.at).exclude(at=last.at, id__lte=last.pk)


def _read_chunks(
    rows: QuerySet[Connection], known_from: datetime | None
) -> Iterator[list[Any]]:
    """Yield rows in chunks, from a moment on."""
    # One lower bound alone: of two, SQLite seeks the first and filters by the other.
    chunk = rows if known_from is None else rows.filter(opened_at__gte=known_from)
    while True:
        found = list(chunk.values_list(*_COLUMNS, named=True)[:ROWS_PER_QUERY])
        if found:
            yield found
        if len(found) < ROWS_PER_QUERY:
            return
        # Not a comparison of pairs: SQLite uses no index for an OR.
        last = found[-1]
        chunk = rows.filter(opened_at__gte=last.opened_at).exclude(
            opened_at=last.opened_at, connection_id__lte=last.connection_id
        )


def _make_record(row: Any, end: datetime) -> Record:
    opened_at = as_utc(row.opened_at).timestamp()
    active_at = as_utc(row.last_activity_at).timestamp()
    silence, silent_from = row.longest_silence_seconds, active_at
    if row.silent_from is not None:
        silent_from = as_utc(row.silent_from).timestamp()
    if row.closed_at is None:
        ends_at, silent_now = math.inf, end.timestamp() - active_at
        if silence is not None and silent_now > silence:
            silence, silent_from = silent_now, active_at
    else:
        ends_at = as_utc(row.closed_at).timestamp()
        if row.reason == REPLACED.reason:
            # Its successor took the slot before the close was complete.
            ends_at -= get_config().evict_grace_seconds
    return Record(
        connection_id=row.connection_id,
        client_id=row.client_id,
        route=row.route,
        opened_at=opened_at,
        ends_at=max(opened_at, ends_at),
        reason=row.reason,
        own_timeout_seconds=row.idle_timeout_seconds,
        longest_silence_seconds=silence,
        silent_from=silent_from,
        over_rate=row.over_rate,
    )
