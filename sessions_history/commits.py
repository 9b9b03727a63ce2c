"""
Commit requests of many sessions in one transaction.

This module runs in a database thread.
"""

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from django.db import DatabaseError, OperationalError
from django.utils import timezone

from connections.models.alias import atomic, get_connection
from sessions_history import chunks, work
from sessions_history.backends import make_backend
from sessions_history.backends.base import Changes, Row
from sessions_history.beginnings import begin_session
from sessions_history.chain import Mark, make_tag
from sessions_history.entries import (
    Append,
    Committed,
    Entry,
    Growth,
    Request,
    Rewrite,
    State,
)
from sessions_history.exceptions import (
    ChunksLost,
    EntryRefused,
    KeyReused,
    SessionNotFound,
    SessionsError,
    StorageFull,
    StreamEnded,
    TooManyStreams,
)
from sessions_history.models import EntryChunk
from sessions_history.quotas import StorageQuota

logger = logging.getLogger(__name__)

Result = Committed | SessionsError

# A member of an enumeration costs a call each time it is compared.
_STREAMING = State.STREAMING.value

_RETRY_FOR_SECONDS = 6
_RETRY_SECONDS = 0.02
_TRANSIENT_STATES = ("40001", "40P01", "55P03")
"""PostgreSQL, appendix A: serialization failure, deadlock, lock not available."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Limits that every commit enforces."""

    node_id: str
    history_limit: int
    max_open_streams: int
    lease_seconds: float = 15
    timeout_seconds: float = 600
    storage: StorageQuota | None = None
    max_sessions: int = 0
    replaces_unused: bool = False

    @property
    def terms(self) -> work.Terms:
        """The terms of this node's work."""
        return work.Terms(
            owner=self.node_id,
            lease_seconds=self.lease_seconds,
            timeout_seconds=self.timeout_seconds,
        )


@dataclass(frozen=True, slots=True)
class _OpenEntry:
    """A streaming entry; one of this commit has no id yet."""

    entry_id: int | None = None
    node_id: str | None = None
    chain: str = ""
    last_chunk: int = 0
    """The highest sequence number of its chunks."""

    def is_of(self, request: Rewrite | Growth) -> bool:
        """Return False if a request is for an entry that the log has lost."""
        return not request.chain or self.chain.startswith(request.chain)


@dataclass(slots=True)
class _Session:
    """A session while its row is locked."""

    epoch: str
    last_offset: int
    chain: str
    is_stale: bool
    mark: Mark | None = None
    """The mark of this commit, if it changes the log."""

    open_entries: dict[int, _OpenEntry] = field(default_factory=dict)
    is_used: bool = False


def commit(requests: Sequence[Request], limits: LogLimits) -> list[Result]:
    """
    Apply requests in one transaction; return the result of each.

    A batch that the database refuses is halved until only the faulty requests
    are left out. A transient failure is retried.

    Raises:
        OperationalError, InterfaceError: the database is away; whether the
            commit happened is unknown.
    """
    started = time.monotonic()
    while True:
        try:
            with atomic():
                return _Commit(limits).run(requests)
        except OperationalError as exc:
            is_late = time.monotonic() - started > _RETRY_FOR_SECONDS
            if is_late or not is_transient(exc):
                raise
            logger.info("A commit of the log is tried again: %s", exc)
            time.sleep(_RETRY_SECONDS * random.uniform(0.5, 1))
        except (DatabaseError, ValueError, OverflowError) as exc:
            if len(requests) == 1:
                logger.error(
                    "An entry was refused by the database: %s",
                    exc,
                    extra={"event": "entry_refused"},
                )
                return [EntryRefused()]
            half = len(requests) // 2
            return commit(requests[:half], limits) + commit(requests[half:], limits)


def interrupt(streams: Sequence[tuple[str, int]]) -> None:
    """End the streams at some offsets of sessions, in an open transaction."""
    requests = [
        Rewrite(
            session_id=session_id,
            offset=offset,
            state=State.INTERRUPTED,
            is_owner=False,
        )
        for session_id, offset in streams
    ]
    # Only appends are trimmed and limited.
    _Commit(LogLimits(node_id="", history_limit=0, max_open_streams=0)).run(requests)


def is_transient(exc: OperationalError) -> bool:
    """Return True if the same transaction may succeed when it is retried."""
    cause = exc.__cause__
    if get_connection().vendor == "sqlite":
        return "locked" in str(exc)
    return getattr(cause, "sqlstate", None) in _TRANSIENT_STATES


class _Commit:
    """The reads and writes of one transaction."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._at = timezone.now()
        self._backend = make_backend(self._at)
        self._tag = make_tag()
        self._sessions: dict[str, _Session] = {}
        self._keys: dict[tuple[str, str], tuple[str, int]] = {}
        self._new_entries: list[tuple[str, Entry]] = []
        self._new_keys: list[tuple[str, str, str, int]] = []
        self._new_work: list[tuple[str, int, int | None, str]] = []
        # Texts by (entry_id, sequence).
        self._new_chunks: dict[tuple[int, int], str] = {}
        self._folded: list[int] = []

    def run(self, requests: Sequence[Request]) -> list[Result]:
        self._read(requests)
        results = [self._carry_out(one) for one in requests]
        self._write()
        return results

    def _read(self, requests: Sequence[Request]) -> None:
        """Lock the sessions and read the rows that decide on the requests."""
        session_ids = sorted({one.session_id for one in requests})
        for session_id, *row in self._backend.lock(session_ids):
            self._sessions[session_id] = _Session(*row)
        keys = [
            (one.session_id, one.key)
            for one in requests
            if isinstance(one, Append) and one.key
        ]
        found = self._backend.find(session_ids, keys)
        self._keys.update(found.keys)
        for session_id, offset, *entry in found.streaming:
            if session_id in self._sessions:
                open_entries = self._sessions[session_id].open_entries
                open_entries[offset] = _OpenEntry(*entry)

    def _carry_out(self, request: Request) -> Result:
        try:
            if isinstance(request, Append):
                return self._append(request)
        except SessionsError as exc:
            return exc
        session = self._sessions.get(request.session_id)
        if session is None:
            return SessionNotFound()
        if isinstance(request, Rewrite):
            return self._rewrite(session, request)
        if isinstance(request, Growth):
            return self._grow(session, request)
        session.is_used = session.is_used or session.is_stale
        return Committed(epoch=session.epoch, offset=session.last_offset)

    def _append(self, request: Append) -> Committed:
        """
        Append entries, to a session that does not exist yet as its first ones.

        Raises:
            SessionsError: nothing is appended, and no session is begun.
        """
        session_id, key = request.session_id, request.key
        session = self._sessions.get(session_id)
        if session is None and request.beginning is None:
            raise SessionNotFound
        if known := self._find_known(request):
            return known
        streaming = sum(one.state == _STREAMING for one in request.entries)
        open_streams = len(session.open_entries) if session else 0
        if streaming and open_streams + streaming > self._limits.max_open_streams:
            raise TooManyStreams
        storage = self._limits.storage
        if storage and not storage.take(request.client_id, request.entries):
            raise StorageFull
        if session is None:
            session = self._begin(request)
            # Another node may have begun it by the same message.
            if known := self._find_known(request):
                return known
        first = session.last_offset + 1
        entries = tuple(
            Entry(
                offset=offset,
                kind=new.kind,
                sender=new.sender,
                at=self._at,
                data=new.data,
                state=new.state,
                chain=self._link(session, offset),
            )
            for offset, new in enumerate(request.entries, first)
        )
        for entry in entries:
            if streaming and entry.is_streaming:
                session.open_entries[entry.offset] = _OpenEntry()
                message_offset = first if entry.offset > first else None
                row = (session_id, entry.offset, message_offset, key)
                self._new_work.append(row)
            self._new_entries.append((session_id, entry))
        session.last_offset += len(entries)
        session.is_used = True
        if key:
            self._keys[session_id, key] = (request.digest, first)
            self._new_keys.append((session_id, key, request.digest, first))
        return Committed(epoch=session.epoch, offset=first, entries=entries)

    def _find_known(self, request: Append) -> Committed | None:
        """
        Return the earlier result of a message that was appended before.

        Raises:
            KeyReused: the message had other data.
        """
        known = self._keys.get((request.session_id, request.key))
        if known is None:
            return None
        digest, offset = known
        if digest != request.digest:
            raise KeyReused
        epoch = self._sessions[request.session_id].epoch
        return Committed(epoch=epoch, offset=offset)

    def _begin(self, request: Append) -> _Session:
        """Insert the session of a request, and lock it."""
        if request.beginning is not None:
            begin_session(
                request.beginning,
                self._limits.max_sessions,
                replaces_unused=self._limits.replaces_unused,
            )
        self._read([request])
        return self._sessions[request.session_id]

    def _rewrite(self, session: _Session, request: Rewrite) -> Result:
        found = session.open_entries.get(request.offset)
        if found is None or found.entry_id is None or not found.is_of(request):
            return StreamEnded()
        if request.is_owner and found.node_id != self._limits.node_id:
            return StreamEnded()
        data = request.data
        if data is None:
            self._write_chunks()
            data = chunks.read_whole(found.entry_id)
        chain = found.chain
        if request.state != State.STREAMING:
            chain = f"{chain} {self._link(session, request.offset)}".lstrip()
        self._backend.rewrite(
            found.entry_id, state=request.state, data=data, chain=chain
        )
        if request.state != State.STREAMING:
            del session.open_entries[request.offset]
            self._folded.append(found.entry_id)
        return Committed(epoch=session.epoch, offset=request.offset, chain=chain)

    def _grow(self, session: _Session, request: Growth) -> Result:
        found = session.open_entries.get(request.offset)
        if found is None or found.entry_id is None or not found.is_of(request):
            return StreamEnded()
        if found.node_id != self._limits.node_id:
            return StreamEnded()
        before = (found.entry_id, request.sequence - 1)
        if request.sequence > found.last_chunk + 1 and before not in self._new_chunks:
            return ChunksLost()
        self._new_chunks[found.entry_id, request.sequence] = request.text
        if request.data is not None:
            self._backend.rewrite(
                found.entry_id,
                state=_STREAMING,
                data=request.data,
                chain=found.chain,
            )
        return Committed(epoch=session.epoch, offset=request.offset)

    def _link(self, session: _Session, offset: int) -> str:
        """Add this commit to the chain of a session; return its link."""
        if session.mark is None:
            before = Mark.parse(session.chain)
            number = before.number + 1 if before else 1
            session.mark = Mark(number, offset, self._tag)
        else:
            session.mark = replace(session.mark, offset=offset)
        session.chain = str(session.mark)
        return session.mark.link

    def _write_chunks(self) -> None:
        """Write the chunks of this commit, except those of entries that ended."""
        owner = self._limits.node_id
        rows = [
            (entry_id, sequence, "", EntryChunk.Kind.TEXT.value, text, owner)
            for (entry_id, sequence), text in self._new_chunks.items()
            if entry_id not in self._folded
        ]
        if rows:
            self._backend.write_chunks(rows)
        self._new_chunks.clear()

    def _write(self) -> None:
        self._write_chunks()
        if self._folded:
            chunks.delete_chunks(self._folded)
        changed = {
            key: one for key, one in self._sessions.items() if one.is_used or one.mark
        }
        if not changed:
            return
        used = {key: one for key, one in changed.items() if one.is_used}
        limit = self._limits.history_limit
        thresholds = {key: _find_threshold(one, limit) for key, one in used.items()}
        self._backend.write(
            Changes(
                entries=[
                    self._make_row(session_id, entry)
                    for session_id, entry in self._new_entries
                    # An entry that is trimmed at once need not be written.
                    if entry.offset > thresholds[session_id] or entry.is_streaming
                ],
                keys=self._new_keys,
                positions=[
                    (key, one.last_offset, one.is_used and one.is_stale, one.chain)
                    for key, one in changed.items()
                ],
                thresholds=[row for row in thresholds.items() if row[1] > 0],
            )
        )

        if self._new_work:
            work.add(self._new_work, self._limits.terms)

    def _make_row(self, session_id: str, entry: Entry) -> Row:
        return (
            session_id,
            entry.offset,
            entry.kind,
            entry.sender,
            entry.data,
            entry.state,
            self._limits.node_id if entry.is_streaming else None,
            entry.chain,
        )


def _find_threshold(session: _Session, limit: int) -> int:
    """
    Return the offset up to which entries are trimmed, except streaming ones.

    At most the limit remains, streaming entries included.
    """
    threshold = max(0, session.last_offset - limit)
    while True:
        kept_below = sum(offset <= threshold for offset in session.open_entries)
        if session.last_offset - threshold + kept_below <= limit:
            return threshold
        if threshold >= session.last_offset:
            return threshold
        threshold += 1
