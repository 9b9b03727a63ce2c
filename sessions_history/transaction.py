"""
Carry out requests of many sessions in one transaction of the database.

This module runs in a database thread.
"""

from collections.abc import Sequence
from dataclasses import replace

from django.utils import timezone

from sessions_history import chunks, work
from sessions_history.approvals import erase_forgotten
from sessions_history.backends import make_backend
from sessions_history.backends.base import Changes, Row
from sessions_history.beginnings import begin_session
from sessions_history.chain import add_link, make_tag
from sessions_history.entries import (
    Append,
    Committed,
    Entry,
    Growth,
    Request,
    Resume,
    Rewrite,
    State,
)
from sessions_history.exceptions import (
    AnswerNotFound,
    ChunksLost,
    KeyReused,
    SessionNotFound,
    SessionsError,
    StorageFull,
    StreamBusy,
    StreamEnded,
    StreamFinished,
    TooManyStreams,
)
from sessions_history.limits import LogLimits
from sessions_history.locked_session import LockedSession, OpenEntry
from sessions_history.models import HistoryEntry
from sessions_history.reads import read_entries_at
from sessions_history.regeneration import find_question
from sessions_history.stream_producers import check_step, record_step

Result = Committed | SessionsError

# A member of an enumeration costs a call each time it is compared.
_STREAMING = State.STREAMING.value
_RESUMABLE = (_STREAMING, State.INTERRUPTED.value, State.ERROR.value)


class LogTransaction:
    """The requests of one transaction: what they read, decide and write."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._at = timezone.now()
        self._backend = make_backend(self._at)
        self._tag = make_tag()
        self._sessions: dict[str, LockedSession] = {}
        self._keys: dict[tuple[str, str], tuple[str, int]] = {}
        self._new_entries: list[tuple[str, Entry]] = []
        self._new_keys: list[tuple[str, str, str, int]] = []
        self._new_work: list[work.NewWork] = []
        self._answers: dict[str, int] = {}
        """How many answers of a client are open; only where workers answer."""
        # Kinds and texts by (entry_id, sequence).
        self._new_chunks: dict[tuple[int, int], tuple[str, str]] = {}
        self._folded: list[int] = []

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """Carry requests out in an open transaction; return the result of each."""
        self._read(requests)
        results = [self._carry_out(one) for one in requests]
        self._write()
        return results

    def _read(self, requests: Sequence[Request]) -> None:
        """Lock the sessions and read the rows that decide on the requests."""
        session_ids = sorted({one.session_id for one in requests})
        for session_id, *row in self._backend.lock(session_ids):
            self._sessions[session_id] = LockedSession(*row)
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
                open_entries[offset] = OpenEntry(*entry)

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
        if isinstance(request, Resume):
            return self._resume(session, request)
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
            is_new = request.entries[-1].replaces is None
            raise SessionNotFound if is_new else AnswerNotFound
        if known := self._find_known(request):
            return known
        if request.step is not None:
            check_step(session_id, request.step)
        streaming = sum(one.state == _STREAMING for one in request.entries)
        open_streams = len(session.open_entries) if session else 0
        if streaming and open_streams + streaming > self._limits.max_open_streams:
            raise TooManyStreams
        owner = session or request.beginning
        waits = self._limits.leaves_answers and request.is_answered
        if waits and owner:
            self._require_room(owner.client_id)
        storage = self._limits.storage
        if storage and owner and not storage.take(owner.client_id, request.entries):
            raise StorageFull
        if session is None:
            session = self._begin(request)
            # Another node may have begun it by the same message.
            if known := self._find_known(request):
                return known
        question = find_question(session, request, self._new_entries)
        # The claims of somebody else say nothing of who wrote the message.
        is_own = question is None or question.author == request.author
        first = session.last_offset + 1
        is_behind = bool(session.open_entries)
        entries = tuple(
            Entry(
                offset=offset,
                kind=new.kind,
                sender=new.sender,
                at=self._at,
                data=new.data,
                state=new.state,
                author=new.author,
                replaces=new.replaces,
                chain=session.link(offset, self._tag),
            )
            for offset, new in enumerate(request.entries, first)
        )
        for entry in entries:
            if streaming and entry.is_streaming:
                session.open_entries[entry.offset] = OpenEntry()
                message_offset = first if entry.offset > first else None
                if question is not None:
                    message_offset = question.offset
                new_work = work.NewWork(
                    session_id=session_id,
                    offset=entry.offset,
                    message_offset=message_offset,
                    key=key,
                    traceparent=request.traceparent,
                    metadata=request.metadata,
                    claims=request.stored_claims if is_own else "",
                )
                self._new_work.append(new_work)
            self._new_entries.append((session_id, entry))
        if waits:
            self._answers[session.client_id] += 1
        session.last_offset += len(entries)
        session.is_used = True
        if request.step is not None:
            record_step(session_id, request.step)
        if key:
            self._keys[session_id, key] = (request.digest, first)
            self._new_keys.append((session_id, key, request.digest, first))
        return Committed(
            epoch=session.epoch,
            offset=first,
            entries=entries,
            previous=session.previous,
            is_behind=is_behind,
            question=question,
            mark=session.chain,
        )

    def _require_room(self, client_id: str) -> None:
        """
        Check that one more answer may wait for a worker.

        Raises:
            TooManyStreams: the sessions of the client have its limit.
        """
        if client_id not in self._answers:
            clients = {client_id, *(one.client_id for one in self._sessions.values())}
            self._answers |= work.count_answers(clients - self._answers.keys())
        if self._answers[client_id] >= self._limits.max_open_streams_per_client:
            raise TooManyStreams

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
        session = self._sessions[request.session_id]
        return Committed(epoch=session.epoch, offset=offset, mark=session.chain)

    def _begin(self, request: Append) -> LockedSession:
        """
        Insert the session of a request, and lock it.

        Raises:
            SessionsError: it is not begun, or by the same append on another node.
        """
        if request.beginning is not None:
            begin_session(
                request.beginning,
                self._limits.max_sessions,
                replaces_unused=self._limits.replaces_unused,
            )
        self._read([request])
        if request.step is not None:
            check_step(request.session_id, request.step)
        return self._sessions[request.session_id]

    def _rewrite(self, session: LockedSession, request: Rewrite) -> Result:
        found = session.open_entries.get(request.offset)
        if found is None or found.entry_id is None or not found.is_of(request):
            return StreamEnded()
        if request.epoch not in ("", session.epoch):
            return StreamEnded()
        if request.is_owner and found.node_id != self._limits.node_id:
            return StreamEnded()
        data, parts = request.data, request.parts
        if data is None:
            self._write_chunks()
            data, parts = chunks.read_whole(found.entry_id)
        chain = found.chain
        if request.state != State.STREAMING:
            parts = erase_forgotten(request.session_id, request.offset, parts)
            chain = add_link(chain, session.link(request.offset, self._tag))
        self._backend.rewrite(
            found.entry_id, state=request.state, data=data, parts=parts, chain=chain
        )
        if request.state != State.STREAMING:
            session.end(request.offset, self._limits.history_limit)
            self._folded.append(found.entry_id)
        return Committed(
            epoch=session.epoch,
            offset=request.offset,
            chain=chain,
            previous=session.previous,
        )

    def _grow(self, session: LockedSession, request: Growth) -> Result:
        found = session.open_entries.get(request.offset)
        if found is None or found.entry_id is None or not found.is_of(request):
            return StreamEnded()
        if found.node_id != self._limits.node_id:
            return StreamEnded()
        before = (found.entry_id, request.sequence - 1)
        if request.sequence > found.last_chunk + 1 and before not in self._new_chunks:
            return ChunksLost()
        for sequence, *chunk in request.chunks:
            self._new_chunks[found.entry_id, sequence] = (chunk[0], chunk[1])
        if request.data is not None:
            self._backend.rewrite(
                found.entry_id,
                state=_STREAMING,
                data=request.data,
                chain=found.chain,
            )
        return Committed(epoch=session.epoch, offset=request.offset)

    def _resume(self, session: LockedSession, request: Resume) -> Result:
        """Make this owner the writer of an entry that it may go on with."""
        self._write_chunks()
        offset, terms = request.offset, self._limits.terms
        found = read_entries_at(request.session_id, [offset])
        if not found:
            return StreamFinished("trimmed", offset)
        if found[0].state not in _RESUMABLE:
            return StreamFinished(found[0].state, offset)
        others = session.open_entries.keys() - {offset}
        if len(others) >= self._limits.max_open_streams:
            return TooManyStreams()
        if not work.claim(request.session_id, offset, terms):
            return StreamBusy()
        link = session.link(offset, self._tag)
        chain = add_link(found[0].chain, link)
        entry = found[0].with_text(found[0].text, _STREAMING).with_folded_parts()
        entry = replace(entry, chain=chain)
        row = HistoryEntry.objects.filter(session=request.session_id, offset=offset)
        row.update(state=_STREAMING, data=entry.data, chain=chain, node=terms.owner)
        entry_id = row.values_list("pk", flat=True).get()
        content = Growth(
            session_id=request.session_id,
            offset=offset,
            sequence=1,
            text=entry.text,
            parts=entry.parts,
        )
        last_chunk = chunks.replace(entry_id, content, terms.owner)
        session.open_entries[offset] = OpenEntry(
            entry_id, terms.owner, chain, last_chunk
        )
        session.is_used = True
        return Committed(
            epoch=session.epoch,
            offset=offset,
            entries=(entry,),
            chunks=last_chunk,
            previous=session.previous,
        )

    def _write_chunks(self) -> None:
        """Write the chunks of this commit, except those of entries that ended."""
        owner = self._limits.node_id
        rows = [
            (entry_id, sequence, "", kind, text, owner)
            for (entry_id, sequence), (kind, text) in self._new_chunks.items()
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
            key: one for key, one in self._sessions.items() if one.is_used or one.number
        }
        if not changed:
            return
        limit = self._limits.history_limit
        thresholds = {
            key: one.find_threshold(limit)
            for key, one in changed.items()
            if one.is_used or one.has_excess
        }
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
            entry.author,
            entry.replaces,
        )
