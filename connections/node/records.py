"""Write, close and read the rows of connections and errors."""

import logging

from django.db import DataError, IntegrityError

from connections.close_codes import LOST
from connections.models import Connection, ErrorEvent
from connections.models.alias import atomic
from connections.models.clock import Now
from connections.signals import connections_closed, connections_opened

logger = logging.getLogger(__name__)

_MUTABLE = (
    "last_activity_at",
    "closed_at",
    "close_code",
    "reason",
    "messages_in",
    "messages_out",
    "bytes_in",
    "bytes_out",
    "errors",
    "longest_silence_seconds",
    "silent_from",
    "over_rate",
    "flight",
)

Row = Connection | ErrorEvent


def write_rows(rows: list[Row], opened: list[Connection]) -> int:
    """Write rows as _write() does, then send the signals about connections."""
    dropped = _write(rows)
    connections_opened.send_soon(opened)
    connections_closed.send_soon(
        [
            row
            for row in rows
            if isinstance(row, Connection) and row.closed_at is not None
        ]
    )
    return dropped


def _write(rows: list[Row]) -> int:
    """
    Write rows in one transaction; return how many were dropped as invalid.

    A row that the database refuses is dropped alone; the others are written.
    """
    try:
        with atomic():
            Connection.objects.bulk_create(
                [row for row in rows if isinstance(row, Connection)],
                update_conflicts=True,
                unique_fields=["connection_id"],
                update_fields=_MUTABLE,
            )
            ErrorEvent.objects.bulk_create(
                [row for row in rows if isinstance(row, ErrorEvent)],
                ignore_conflicts=True,
            )
    except (DataError, IntegrityError) as exc:
        if len(rows) == 1:
            logger.error(
                "The database refused a record, which was dropped: %s",
                exc,
                extra={"event": "record_dropped"},
            )
            return 1
        half = len(rows) // 2
        return _write(rows[:half]) + _write(rows[half:])
    return 0


def read_open(node_id: str) -> list[str]:
    rows = Connection.objects.open().filter(node_id=node_id)
    return list(rows.values_list("connection_id", flat=True))


def close_unknown(connection_ids: list[str]) -> None:
    """Close rows as of now; those that were closed meanwhile stay as they are."""
    rows = Connection.objects.open().filter(connection_id__in=connection_ids)
    rows.update(closed_at=Now(), close_code=LOST.code, reason=LOST.reason)
    send_lost(connection_ids)


def send_lost(connection_ids: list[str]) -> None:
    """Send the connections among some that were recorded as lost."""
    if connections_closed.is_received:
        rows = Connection.objects.filter(
            connection_id__in=connection_ids, reason=LOST.reason
        )
        connections_closed.send_soon(list(rows))
