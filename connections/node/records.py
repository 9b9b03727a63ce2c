"""Write, close and read the rows of connections and errors."""

import logging

from django.db import DataError, IntegrityError

from connections.close_codes import LOST
from connections.models import Connection, ErrorEvent
from connections.models.alias import atomic, get_connection
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
            _write_connections([row for row in rows if isinstance(row, Connection)])
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


def _write_connections(rows: list[Connection]) -> None:
    """
    Insert rows, or update those that are there, in one statement.

    bulk_create() makes a piece of SQL for each value, which is half of its CPU time,
    and on SQLite a statement for each 41 rows.
    """
    if not rows:
        return
    database = get_connection()
    fields = Connection._meta.concrete_fields
    columns = ", ".join(str(field.column) for field in fields)
    one = f"({', '.join(['%s'] * len(fields))})"
    changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in _MUTABLE)
    prepare = [(field.attname, field.get_db_prep_save) for field in fields]
    with database.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {Connection._meta.db_table} ({columns})"
            f" VALUES {', '.join([one] * len(rows))}"
            f" ON CONFLICT (connection_id) DO UPDATE SET {changes}",
            [
                to_value(getattr(row, name), database)
                for row in rows
                for name, to_value in prepare
            ],
        )


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
