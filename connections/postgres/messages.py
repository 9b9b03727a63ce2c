"""Send notifications of PostgreSQL from a thread, and delete the rows of old ones."""

from collections.abc import Sequence

from connections.models.alias import get_connection

CHANNELS = "orchestra:bus:"
"""The prefix of the channels."""

_MOST_BYTES = 7900
"""A larger message is a row: PostgreSQL takes less than 8000 bytes (NOTIFY)."""

_KEPT = "1 minute"
"""How long the row of a message is kept."""

_OLD = {
    "connections_layer_message": ("message_id", "sent_at", _KEPT),
    "connections_bus_message": ("message_id", "sent_at", _KEPT),
    "connections_layer_poller": ("poller_id", "expires_at", "0"),
}
"""The tables of old rows, each with its key, its moment, and how long that is kept."""


def notify(channel: str, texts: Sequence[str]) -> None:
    """Send messages; those too long for NOTIFY are rows whose ids are sent."""
    with get_connection().cursor() as cursor:
        short = [text for text in texts if len(text.encode()) <= _MOST_BYTES]
        # The sender need not wait for the disk.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'off', true),"
            " pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload",
            (channel, short),
        )
        if len(short) < len(texts):
            long = [text for text in texts if len(text.encode()) > _MOST_BYTES]
            cursor.execute(
                "WITH old AS (DELETE FROM connections_bus_message"
                f" WHERE sent_at < clock_timestamp() - interval '{_KEPT}'),"
                " new AS (INSERT INTO connections_bus_message (payload)"
                " SELECT unnest(%s::text[]) RETURNING message_id)"
                " SELECT pg_notify(%s, message_id::text) FROM new",
                (long, channel),
            )


def read_message(message_id: int) -> str | None:
    """Return a message that is a row; None if it is gone."""
    with get_connection().cursor() as cursor:
        cursor.execute(
            "SELECT payload FROM connections_bus_message WHERE message_id = %s",
            (message_id,),
        )
        row = cursor.fetchone()
    return str(row[0]) if row else None


def count_old() -> int:
    """Return the number of old messages, and of processes that poll no longer."""
    total = 0
    with get_connection().cursor() as cursor:
        for table, (_, moment, kept) in _OLD.items():
            cursor.execute(
                f"SELECT count(*) FROM {table}"
                f" WHERE {moment} < clock_timestamp() - interval '{kept}'"
            )
            total += cursor.fetchone()[0]
    return total


def delete_old(batch_size: int) -> int:
    """
    Delete at most batch_size of the rows that count_old() counts; return how many.

    Each table is one statement. Rows that a sender deletes at this moment are skipped.
    """
    total = 0
    with get_connection().cursor() as cursor:
        for table, (key, moment, kept) in _OLD.items():
            cursor.execute(
                f"DELETE FROM {table} WHERE {key} = ANY(ARRAY("
                f"SELECT {key} FROM {table}"
                f" WHERE {moment} < clock_timestamp() - interval '{kept}'"
                f" ORDER BY {moment} LIMIT %s FOR UPDATE SKIP LOCKED))",
                (batch_size - total,),
            )
            total += cursor.rowcount
            if total >= batch_size:
                break
    return total
