"""Record the handshakes that limits refuse, in batches and off their path."""

from connections.close_codes import CloseReason
from connections.hub.connection import LiveConnection
from connections.models import RefusedHandshake
from connections.storage.database import Database

_MOST_ROWS = 5_000
"""Rows that may wait; further handshakes are one row an hour, without their clients."""

_ROWS_PER_TRANSACTION = 500

_Key = tuple[int, str, str, str]
"""A second, a client, a route and a reason."""


class Refusals:
    """
    Collects refused handshakes, and writes them once a beat.

    Those of one client within a second are one row. Without a database it collects
    nothing.
    """

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._pending: dict[_Key, RefusedHandshake] = {}

    def record(self, connection: LiveConnection, close_reason: CloseReason) -> None:
        """Count a handshake; the row is written at the next flush."""
        if self._database is None:
            return
        second = int(connection.opened_at.timestamp())
        client_id, route = connection.client_id, connection.route
        key = (second, client_id, route, close_reason.reason)
        if key not in self._pending and len(self._pending) >= _MOST_ROWS:
            # Else each second of a long outage would add a row.
            client_id, second = "", second - second % 3600
            key = (second, client_id, route, close_reason.reason)
        row = self._pending.get(key)
        if row is not None:
            row.count += 1
            return
        self._pending[key] = RefusedHandshake(
            at=connection.opened_at,
            client_id=client_id,
            route=route,
            reason=close_reason.reason,
        )

    async def flush(self) -> None:
        """
        Write the rows pending now.

        Raises:
            DatabaseUnavailable: the next flush writes the rest.
        """
        if self._database is None:
            return
        while self._pending:
            keys = list(self._pending)[:_ROWS_PER_TRANSACTION]
            rows = {key: self._pending.pop(key) for key in keys}
            try:
                await self._database.write(_write, list(rows.values()))
            except BaseException:
                self._put_back(rows)
                raise

    def _put_back(self, rows: dict[_Key, RefusedHandshake]) -> None:
        for key, row in rows.items():
            if (later := self._pending.pop(key, None)) is not None:
                row.count += later.count
        self._pending = rows | self._pending


def _write(rows: list[RefusedHandshake]) -> None:
    RefusedHandshake.objects.bulk_create(rows)
