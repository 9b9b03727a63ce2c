"""
One commit of the log: many requests of many sessions in one transaction.

Plain SQL, a statement for all rows of a kind: row by row the ORM would spend
ten times as long. Everything here runs in a thread of the database.
"""

import logging
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, OperationalError, connection, transaction
from django.utils import timezone

from sessions_history.entries import (
    Append,
    Committed,
    Entry,
    Request,
    Rewrite,
    State,
)
from sessions_history.exceptions import (
    EntryRefused,
    KeyReused,
    SessionNotFound,
    SessionsError,
    StreamEnded,
    TooManyStreams,
)

logger = logging.getLogger(__name__)

Result = Committed | SessionsError

_RETRY_FOR_SECONDS = 6
_RETRY_SECONDS = 0.02
_TRANSIENT_STATES = ("40001", "40P01", "55P03")
"""PostgreSQL, appendix A: serialization failure, deadlock, lock not available."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds inside of every commit."""

    node_id: str
    history_limit: int
    max_open_streams: int


@dataclass(slots=True)
class _Session:
    """A session while its row is locked."""

    epoch: str
    last_offset: int
    open_offsets: set[int] = field(default_factory=set)
    is_used: bool = False


def commit(requests: Sequence[Request], limits: Limits) -> list[Result]:
    """
    Carry out requests in one transaction; return what became of each.

    A batch that the database refuses is halved until only the requests at
    fault are left out. What may work the next time is tried again.

    Raises:
        OperationalError, InterfaceError: the database is away; whether it
            happened is unknown.
    """
    started = time.monotonic()
    while True:
        try:
            with transaction.atomic():
                return _Commit(limits).run(requests)
        except OperationalError as exc:
            is_late = time.monotonic() - started > _RETRY_FOR_SECONDS
            if is_late or not is_transient(exc):
                raise
            logger.info("A commit of the log is tried again: %s", exc)
            time.sleep(_RETRY_SECONDS * random.uniform(0.5, 1))
        except (DatabaseError, ValueError) as exc:
            if len(requests) == 1:
                logger.error(
                    "An entry was refused by the database: %s",
                    exc,
                    extra={"event": "entry_refused"},
                )
                return [EntryRefused()]
            half = len(requests) // 2
            return commit(requests[:half], limits) + commit(requests[half:], limits)


def is_transient(exc: OperationalError) -> bool:
    """Tell whether the same transaction may well succeed the next time."""
    cause = exc.__cause__
    if connection.vendor == "sqlite":
        return "locked" in str(exc)
    return getattr(cause, "sqlstate", None) in _TRANSIENT_STATES


class _Commit:
    """The work inside of one transaction."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._at = timezone.now()
        self._stored_at = connection.ops.adapt_datetimefield_value(self._at)
        self._sessions: dict[str, _Session] = {}
        self._keys: dict[tuple[str, str], tuple[str, int]] = {}
        self._new_entries: list[tuple[Any, ...]] = []
        self._new_keys: list[tuple[Any, ...]] = []

    def run(self, requests: Sequence[Request]) -> list[Result]:
        with connection.cursor() as cursor:
            self._lock(cursor, sorted({one.session_id for one in requests}))
            self._find_keys(
                cursor,
                [(one.session_id, one.key) for one in _appends(requests) if one.key],
            )
            results = [self._carry_out(cursor, one) for one in requests]
            self._write(cursor)
        return results

    def _lock(self, cursor: Any, session_ids: Sequence[str]) -> None:
        """Lock the sessions' rows, always in the order of their ids."""
        suffix = " FOR UPDATE" if connection.features.has_select_for_update else ""
        cursor.execute(
            "SELECT session_id, epoch, last_offset FROM sessions_history_session"
            f" WHERE session_id IN ({_marks(session_ids)})"
            f" ORDER BY session_id{suffix}",
            session_ids,
        )
        for session_id, epoch, last_offset in cursor.fetchall():
            self._sessions[session_id] = _Session(epoch, last_offset)
        cursor.execute(
            'SELECT session_id, "offset" FROM sessions_history_historyentry'
            f" WHERE state = 'streaming' AND session_id IN ({_marks(session_ids)})",
            session_ids,
        )
        for session_id, offset in cursor.fetchall():
            if session_id in self._sessions:
                self._sessions[session_id].open_offsets.add(offset)

    def _find_keys(self, cursor: Any, wanted: Sequence[tuple[str, str]]) -> None:
        if not wanted:
            return
        cursor.execute(
            'SELECT session_id, key, digest, "offset" FROM sessions_history_appendkey'
            " WHERE (session_id, key) IN (VALUES "
            + ", ".join(["(%s, %s)"] * len(wanted))
            + ")",
            [value for pair in wanted for value in pair],
        )
        for session_id, key, digest, offset in cursor.fetchall():
            self._keys[session_id, key] = (digest, offset)

    def _carry_out(self, cursor: Any, request: Request) -> Result:
        session = self._sessions.get(request.session_id)
        if session is None:
            return SessionNotFound()
        if isinstance(request, Append):
            return self._append(session, request)
        if isinstance(request, Rewrite):
            return self._rewrite(cursor, session, request)
        session.is_used = True
        return Committed(epoch=session.epoch, offset=session.last_offset)

    def _append(self, session: _Session, request: Append) -> Result:
        if request.key:
            known = self._keys.get((request.session_id, request.key))
            if known is not None:
                digest, offset = known
                if digest != request.digest:
                    return KeyReused()
                return Committed(epoch=session.epoch, offset=offset)
        streaming = sum(one.state == State.STREAMING for one in request.entries)
        open_streams = len(session.open_offsets)
        if streaming and open_streams + streaming > self._limits.max_open_streams:
            return TooManyStreams()
        first = session.last_offset + 1
        entries = tuple(
            Entry(
                offset=offset,
                kind=new.kind,
                sender=new.sender,
                at=self._at,
                data=new.data,
                state=new.state,
            )
            for offset, new in enumerate(request.entries, first)
        )
        for entry in entries:
            node_id = None
            if entry.is_streaming:
                node_id = self._limits.node_id
                session.open_offsets.add(entry.offset)
            self._new_entries.append(
                (
                    request.session_id,
                    entry.offset,
                    entry.kind,
                    entry.sender,
                    self._stored_at,
                    entry.data,
                    entry.state,
                    node_id,
                )
            )
        session.last_offset += len(entries)
        session.is_used = True
        if request.key:
            self._keys[request.session_id, request.key] = (request.digest, first)
            self._new_keys.append(
                (
                    request.session_id,
                    request.key,
                    request.digest,
                    first,
                    self._stored_at,
                )
            )
        return Committed(epoch=session.epoch, offset=first, entries=entries)

    def _rewrite(self, cursor: Any, session: _Session, request: Rewrite) -> Result:
        sql = "UPDATE sessions_history_historyentry SET state = %s"
        values: list[Any] = [request.state]
        if request.data is not None:
            sql += ", data = %s"
            values.append(request.data)
        sql += " WHERE session_id = %s AND \"offset\" = %s AND state = 'streaming'"
        values += [request.session_id, request.offset]
        if request.is_owner:
            sql += " AND node_id = %s"
            values.append(self._limits.node_id)
        cursor.execute(sql, values)
        if not cursor.rowcount:
            return StreamEnded()
        if request.state != State.STREAMING:
            session.open_offsets.discard(request.offset)
        return Committed(epoch=session.epoch, offset=request.offset)

    def _write(self, cursor: Any) -> None:
        _insert(
            cursor,
            "INSERT INTO sessions_history_historyentry"
            ' (session_id, "offset", kind, sender, at, data, state, node_id)',
            self._new_entries,
        )
        _insert(
            cursor,
            "INSERT INTO sessions_history_appendkey"
            ' (session_id, key, digest, "offset", created_at)',
            self._new_keys,
        )
        used = {key: one for key, one in self._sessions.items() if one.is_used}
        _update_sessions(cursor, used, self._stored_at)
        limit = self._limits.history_limit
        _trim(cursor, [(key, _find_threshold(one, limit)) for key, one in used.items()])


def _find_threshold(session: _Session, limit: int) -> int:
    """
    Return the offset up to which entries go, those that stream excepted.

    What is left is at most the limit: entries that stream count, too.
    """
    threshold = max(0, session.last_offset - limit)
    while True:
        kept_below = sum(offset <= threshold for offset in session.open_offsets)
        if session.last_offset - threshold + kept_below <= limit:
            return threshold
        if threshold >= session.last_offset:
            return threshold
        threshold += 1


def _update_sessions(cursor: Any, used: dict[str, _Session], at: Any) -> None:
    rows = [(key, session.last_offset) for key, session in used.items()]
    if not rows:
        return
    if connection.vendor == "sqlite":
        cursor.executemany(
            "UPDATE sessions_history_session SET last_offset = %s, last_seen_at = %s"
            " WHERE session_id = %s",
            [(last_offset, at, key) for key, last_offset in rows],
        )
        return
    cursor.execute(
        "UPDATE sessions_history_session AS s"
        " SET last_offset = v.last_offset, last_seen_at = %s FROM (VALUES "
        + ", ".join(["(%s, %s)"] * len(rows))
        + ") AS v (session_id, last_offset) WHERE s.session_id = v.session_id",
        [at, *(value for row in rows for value in row)],
    )


def _trim(cursor: Any, thresholds: Iterable[tuple[str, int]]) -> None:
    rows = [row for row in thresholds if row[1] > 0]
    if not rows:
        return
    if connection.vendor == "sqlite":
        cursor.executemany(
            "DELETE FROM sessions_history_historyentry"
            " WHERE session_id = %s AND \"offset\" <= %s AND state <> 'streaming'",
            rows,
        )
        return
    cursor.execute(
        "DELETE FROM sessions_history_historyentry AS e USING (VALUES "
        + ", ".join(["(%s, %s)"] * len(rows))
        + ") AS v (session_id, threshold) WHERE e.session_id = v.session_id"
        " AND e.\"offset\" <= v.threshold AND e.state <> 'streaming'",
        [value for row in rows for value in row],
    )


def _insert(cursor: Any, head: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows: SQLite reuses one statement, elsewhere round trips are dear."""
    if not rows:
        return
    marks = f"({_marks(rows[0])})"
    if connection.vendor == "sqlite":
        cursor.executemany(f"{head} VALUES {marks}", rows)
    else:
        values = [value for row in rows for value in row]
        cursor.execute(f"{head} VALUES {', '.join([marks] * len(rows))}", values)


def _appends(requests: Iterable[Request]) -> Iterator[Append]:
    return (one for one in requests if isinstance(one, Append))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(values))
