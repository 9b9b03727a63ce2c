"""Write connection records in batches, off the message path."""

import itertools
import logging
import os
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from django.utils import timezone

from connections.config.loader import get_config
from connections.config.sections import RecorderConfig
from connections.hub.connection import LiveConnection
from connections.hub.flight_recorder import is_worth_keeping
from connections.hub.hub import Hub
from connections.models import Connection, ErrorEvent
from connections.node.records import Row, close_unknown, read_open, write_rows
from connections.passes import Passes
from connections.redaction import format_traceback, redact
from connections.storage.database import Database
from connections.storage.text import clean
from connections.units import Clock, count_of

logger = logging.getLogger(__name__)

_ROWS_PER_TRANSACTION = 500
_RECONCILE_SECONDS = 300
_REASON_CHARACTERS = 32
_TRACEBACK_CHARACTERS = 8_000
_ROW_BYTES = 1_000
"""The approximate memory of a pending row without its texts."""

_EVENT_BYTES = 400
"""The approximate memory of an event in its flight record."""


@dataclass(slots=True)
class Dropped:
    """Counts of what was dropped because the backlog was full."""

    tracebacks: int = 0
    activities: int = 0
    closed: int = 0
    errors: int = 0
    invalid: int = 0


Pending = TypeVar("Pending")


class Recorder:
    """
    Collects changes of connections and writes them in batches, once a beat.

    The calls that collect never wait and never fail. The backlog is bounded:
    beyond max_pending rows or max_bytes, tracebacks are dropped first, then
    activity, then the oldest rows; `dropped` counts them.
    """

    def __init__(
        self,
        *,
        node_id: str,
        config: RecorderConfig,
        database: Database,
        clock: Clock,
        passes: Passes | None = None,
    ) -> None:
        self._passes = passes or Passes()
        self.dropped = Dropped()
        self._node_id = node_id
        self._config = config
        self._database = database
        self._clock = clock
        self._changed: dict[str, LiveConnection] = {}
        self._closed: dict[str, Connection] = {}
        self._errors: dict[str, ErrorEvent] = {}
        self._bytes = 0
        self._has_tracebacks = False
        # Connections whose row exists, so that only an update is pending.
        self._recorded: set[str] = set()
        self._waiting_since: float | None = None
        self._reconciled_at = clock()
        self._reconciled_dropped = 0

    @property
    def pending(self) -> int:
        """The number of pending rows."""
        return len(self._changed) + len(self._closed) + len(self._errors)

    @property
    def lag_seconds(self) -> float:
        """How long the oldest row has been pending."""
        if self._waiting_since is None:
            return 0.0
        return self._clock() - self._waiting_since

    def record_change(self, connection: LiveConnection) -> None:
        """Write an open connection's row at the next flush, as it is then."""
        self._changed[connection.connection_id] = connection
        self._bound_backlog()

    def record_closed(
        self, connection: LiveConnection, code: int | None, reason: str
    ) -> None:
        """Close a connection's row, as of now, at the next flush."""
        row = self._make_row(connection)
        row.closed_at = timezone.now()
        row.close_code = code
        row.reason = clean(reason, _REASON_CHARACTERS)
        if connection.keeps_flight or is_worth_keeping(reason, connection.errors):
            row.flight = connection.flight.describe(connection.arrived)
        self._changed.pop(connection.connection_id, None)
        self._closed[connection.connection_id] = row
        self._bytes += _measure(row)
        self._bound_backlog()

    def record_error(self, error: ErrorEvent) -> None:
        """Write an error event at the next flush."""
        error.node_id = self._node_id
        self._errors[error.error_id] = error
        self._bytes += _measure(error)
        self._has_tracebacks = True
        self._bound_backlog()

    async def flush(self) -> bool:
        """
        Write the rows pending now, in transactions of at most 500.

        Returns False if the row of a connection could not be made.

        Raises:
            DatabaseUnavailable: nothing is lost; the next flush writes the rest.
        """
        remaining = self.pending
        is_whole = True
        while remaining > 0:
            changed = _take(self._changed, _ROWS_PER_TRANSACTION)
            closed = _take(self._closed, _ROWS_PER_TRANSACTION - len(changed))
            room = _ROWS_PER_TRANSACTION - len(changed) - len(closed)
            errors = _take(self._errors, room)
            made = self._make_rows(changed.values())
            is_whole &= len(made) == len(changed)
            rows = [*made, *closed.values()]
            opened = [one for one in rows if one.connection_id not in self._recorded]
            try:
                dropped = await self._database.write(
                    write_rows, [*rows, *errors.values()], opened
                )
            except BaseException:
                self._put_back(changed, closed, errors)
                raise
            self.dropped.invalid += dropped
            self._recorded.update(changed)
            self._recorded.difference_update(closed)
            remaining -= len(changed) + len(closed) + len(errors)
        unwritten: list[Row] = [*self._closed.values(), *self._errors.values()]
        self._bytes = sum(map(_measure, unwritten))
        self._waiting_since = self._clock() if self.pending else None
        return is_whole

    async def reconcile(self, hub: Hub) -> None:
        """
        Close the rows of connections that the hub does not have; record missing ones.

        Compares every few minutes, and as soon as the backlog is written after rows
        were dropped. The way in which such a connection ended is not known any more.

        Raises:
            DatabaseUnavailable: the next call compares.
        """
        dropped = self.dropped.closed + self.dropped.invalid
        is_due = self._clock() - self._reconciled_at >= _RECONCILE_SECONDS
        if self.pending or not (is_due or dropped > self._reconciled_dropped):
            return
        recorded = await self._database.read(read_open, self._node_id)
        stale = [one for one in recorded if one not in hub and one not in self._closed]
        for start in range(0, len(stale), _ROWS_PER_TRANSACTION):
            chunk = stale[start : start + _ROWS_PER_TRANSACTION]
            await self._database.write(close_unknown, chunk)
        has_row = set(recorded)
        for connection in hub:
            if connection.connection_id not in has_row:
                self.record_change(connection)
        self._reconciled_at, self._reconciled_dropped = self._clock(), dropped
        if stale:
            logger.warning(
                "%s of connections that had ended were open, and are recorded as lost",
                count_of(len(stale), "record"),
                extra={"event": "records_reconciled", "count": len(stale)},
            )

    def _put_back(
        self,
        changed: dict[str, LiveConnection],
        closed: dict[str, Connection],
        errors: dict[str, ErrorEvent],
    ) -> None:
        """Return rows that were not written to the head of the backlog."""
        self._errors = errors | self._errors
        self._closed = closed | self._closed
        # A connection that closed meanwhile is written as closed.
        still_open = {k: v for k, v in changed.items() if k not in self._closed}
        self._changed = still_open | self._changed
        self._bound_backlog()

    def _bound_backlog(self) -> None:
        """Time the oldest row, and drop rows beyond the bounds."""
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        if self._has_tracebacks and self._is_over():
            self._drop_tracebacks()
        if self._is_over():
            self._drop_activities()
        while self._is_over() and self._closed:
            oldest = next(iter(self._closed))
            self._recorded.discard(oldest)
            self._bytes -= _measure(self._closed.pop(oldest))
            self.dropped.closed += 1
        while self._is_over() and self._errors:
            self._bytes -= _measure(self._errors.pop(next(iter(self._errors))))
            self.dropped.errors += 1

    def _is_over(self) -> bool:
        return (
            self.pending > self._config.max_pending
            or self._bytes > self._config.max_bytes
        )

    def _drop_tracebacks(self) -> None:
        self._has_tracebacks = False
        for error in self._errors.values():
            if error.traceback:
                self._bytes -= len(error.traceback)
                error.traceback = ""
                self.dropped.tracebacks += 1

    def _drop_activities(self) -> None:
        for connection_id in self._recorded & self._changed.keys():
            del self._changed[connection_id]
            self.dropped.activities += 1

    def _make_rows(self, connections: Iterable[LiveConnection]) -> list[Connection]:
        rows: list[Connection] = []

        def make(live: LiveConnection) -> None:
            live.written_activity = live.last_activity
            rows.append(self._make_row(live))

        self._passes.for_each("The record of a connection", make, connections)
        return rows

    def _make_row(self, live: LiveConnection) -> Connection:
        moment, now = timezone.now(), self._clock()
        silent_for = now - live.silent_from
        return Connection(
            connection_id=live.connection_id,
            client_id=live.client_id,
            user_id=live.user_id,
            node_id=self._node_id,
            path=live.path,
            route=live.route,
            address=live.address,
            origin=live.origin,
            user_agent=live.user_agent,
            transport=live.carrier,
            idle_timeout_seconds=_find_own_timeout(live),
            opened_at=live.opened_at,
            last_activity_at=moment - timedelta(seconds=now - live.last_activity),
            messages_in=live.messages_in,
            messages_out=live.messages_out,
            bytes_in=live.bytes_in,
            bytes_out=live.bytes_out,
            errors=live.errors,
            longest_silence_seconds=live.longest_silence,
            silent_from=moment - timedelta(seconds=silent_for),
            over_rate=live.over_rate,
        )


def _find_own_timeout(live: LiveConnection) -> float | None:
    """Return the idle timeout of a connection; None if it is the configured one."""
    own = live.limits.idle_timeout_seconds
    return None if own == get_config().idle_timeout_seconds else own


def describe_error(
    exc: BaseException, live: LiveConnection, scope: Mapping[str, Any]
) -> ErrorEvent:
    """
    Describe an exception under a new id that is safe to show to a client.

    The secrets of the handshake in `scope` are redacted.
    """
    text = redact(format_traceback(exc), scope)
    return make_error(exc, text, live.route, live.connection_id)


def make_error(
    exc: BaseException, text: str, route: str, connection_id: str | None = None
) -> ErrorEvent:
    """Return the row of an exception, with a traceback that staff may see."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    module = frames[-1].filename.rsplit("/", 2)[-2:] if frames else []
    return ErrorEvent(
        error_id=os.urandom(8).hex(),
        connection_id=connection_id,
        at=timezone.now(),
        exception_class=clean(f"{type(exc).__module__}.{type(exc).__qualname__}", 255),
        where=clean("/".join([*module, where]), 255),
        route=clean(route, 255),
        traceback=clean(text, len(text))[-_TRACEBACK_CHARACTERS:],
    )


def _take(pending: dict[str, Pending], limit: int) -> dict[str, Pending]:
    """Remove the first items of a dict and return them."""
    taken = dict(itertools.islice(pending.items(), limit))
    for key in taken:
        del pending[key]
    return taken


def _measure(row: Row) -> int:
    """Return about how many bytes a pending row takes."""
    if isinstance(row, ErrorEvent):
        return _ROW_BYTES + len(row.traceback)
    return _ROW_BYTES + _EVENT_BYTES * len(row.flight or ())
