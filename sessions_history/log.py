"""
Append to, stream into and attach to the sessions of one node.

get_log(node) is the entry point. An awaited result is committed.
"""

import asyncio
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from django.conf import settings

from connections.bus import Bus
from connections.config.loader import WebSocketConfig
from connections.node.current import is_brief
from connections.node.node import Node
from connections.passes import Passes
from connections.pool.choice import is_in_redis
from connections.storage.database import Database
from connections.telemetry.carrier import TRACE_API, get_traceparent
from connections.telemetry.names import APPEND_SPAN, STREAM_SPAN
from connections.telemetry.work import do_in_span
from connections.units import measure_text
from sessions_history.answers import Answers
from sessions_history.attached import AttachedConnections
from sessions_history.beginnings import Beginning
from sessions_history.entries import (
    MESSAGE,
    Append,
    Committed,
    NewEntry,
    Request,
    Resume,
    Rewrite,
    Sender,
    State,
    Touch,
)
from sessions_history.exceptions import EntryTooLarge, LogFull, StreamEnded
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.keyed_streams import KeyedStreams, make_append_key
from sessions_history.limits import LogLimits
from sessions_history.payloads import digest, dump, dump_claims, dump_metadata
from sessions_history.presence import TypingEvents
from sessions_history.producers import Producers, RecordError
from sessions_history.quotas import StorageQuota
from sessions_history.responders import AnyResponder, is_concurrent, make_responder
from sessions_history.stream_producers import ProducerStep
from sessions_history.streams import Stream
from sessions_history.work import Takes
from sessions_history.work_leases import WorkLeases

logger = logging.getLogger(__name__)

# A member of an enumeration costs a call each time it becomes text.
_CLIENT, _SERVER = Sender.CLIENT.value, Sender.SERVER.value

_RETRY_CHECK_SECONDS = 1
_WORK_SECONDS = 1


class SessionLog:
    """The log of all sessions on one node: appends, streams and subscribers."""

    def __init__(
        self,
        database: Database,
        *,
        node_id: str,
        config: WebSocketConfig,
        redis_url: str | None = None,
        bus: Bus | None = None,
        responder: AnyResponder | None = None,
        passes: Passes | None = None,
        takes: Takes = Takes.ALL,
        record_error: RecordError | None = None,
    ) -> None:
        self._database = database
        self._config = config
        self.responder = responder
        # A node looks three times in a lease for what others left.
        share = 2 / 3 if takes is Takes.NONE else 1
        by_workers = config.sessions.answered_by == "workers"
        # Who takes nothing over ends too soon for an answer, as under WSGI.
        leaves_answers = by_workers or takes is Takes.NONE
        self._leaves_answers = leaves_answers
        if takes is Takes.ALL and leaves_answers:
            takes = Takes.STREAMS
        elif takes is Takes.NEXT and responder and is_concurrent(responder):
            takes = Takes.MANY
        limits = LogLimits(
            node_id=node_id,
            lease_seconds=config.node.node_timeout_seconds * share,
            timeout_seconds=config.sessions.stream_timeout_seconds,
            storage=StorageQuota(
                config.sessions.max_entries_per_client,
                config.sessions.max_bytes_per_client,
            ),
            history_limit=config.max_session_history,
            max_open_streams=config.sessions.max_open_streams,
            max_sessions=config.sessions.max_sessions_per_client,
            replaces_unused=config.sessions.when_full == "delete_unused",
            leaves_answers=leaves_answers,
            max_open_streams_per_client=config.sessions.max_open_streams_per_client,
        )
        passes = passes or Passes()
        self._commits = GroupCommit(database, limits, self._on_committed)
        self._fan_out = FanOut(
            database,
            node_id=node_id,
            redis_url=redis_url,
            bus=bus,
            passes=passes,
        )
        self._producers = Producers(
            config=config,
            database=database,
            commits=self._commits,
            fan_out=self._fan_out,
            terms=limits.terms,
            get_responder=lambda: self.responder,
            record_error=record_error,
        )
        self._leases = WorkLeases(
            producers=self._producers,
            database=database,
            commits=self._commits,
            fan_out=self._fan_out,
            terms=limits.terms,
            passes=passes,
            takes=takes,
        )
        self._keys = KeyedStreams(
            limits.lease_seconds, self._append, self._commits.submit
        )
        self.typing = TypingEvents(self._fan_out)
        self.answers = Answers(
            self._commits,
            self._producers.quota,
            self._producers.approvals,
            get_responder=self._producers.get_responder,
            stores_claims=leaves_answers,
        )
        """What clients do with answers that are there."""
        self.attached = AttachedConnections(database, self._fan_out, self.touch)
        """Attaches connections to sessions, and detaches them."""

        self._check_failed = False

    # Life

    async def drain(self) -> None:
        """Wait until no answer is under way."""
        await self._producers.drain()

    def take_no_more(self) -> None:
        """Begin no work that others left; what runs goes on."""
        self._leases.take_no_more()

    async def stop(self) -> None:
        """End all streams as interrupted and commit the queued requests."""
        self.take_no_more()
        await self._producers.stop()
        await self._commits.flush()
        await self._leases.release()
        await self._fan_out.flush()
        await self.attached.memberships.close()
        await self._fan_out.close()

    # Writing

    async def append(
        self,
        session_id: str,
        payload: object,
        kind: str = MESSAGE,
        *,
        key: str = "",
        traceparent: str = "",
    ) -> int:
        """
        Append an entry from the server to a session and return its offset.

        A key that was used for the same payload within a day returns the offset of
        the earlier entry, and appends nothing.

        Raises:
            InvalidMessage, EntryTooLarge: the payload cannot be stored.
            ValueError: the key cannot be used.
            KeyReused: the key was used for something else.
            SessionNotFound, StorageFull, LogFull: nothing was appended.
            DatabaseUnavailable: whether it was appended is unknown.
        """
        entry = NewEntry(kind=kind, sender=_SERVER, data=dump(payload))
        size, limit = measure_text(entry.data), self._config.max_message_size
        if size > limit:
            raise EntryTooLarge(size, limit)
        made_of = digest([kind, payload]) if key else ""
        with do_in_span(APPEND_SPAN, session_id, traceparent):
            return (await self._append(session_id, entry, key, made_of)).offset

    def say(
        self,
        session_id: str,
        key: str,
        payload: object,
        client_id: str = "",
        *,
        author: str = "",
        wants_answer: bool = True,
        claims: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        step: ProducerStep | None = None,
        beginning: Beginning | None = None,
    ) -> asyncio.Future[Committed]:
        """
        Append a client's message, and start its answer if there is a responder.

        The responder may read the claims of the client's JWT and the metadata of
        the message, an object of at most 4096 bytes of JSON.

        The future is done once the message and the place of its answer in the log
        are committed; it raises KeyReused, StorageFull, TooManyStreams,
        TooManySessions, SessionNotFound or DatabaseUnavailable.

        Raises:
            InvalidMessage: the payload or the metadata cannot be stored.
            LogFull: the database is too far behind.
            TooManyStreams: too many answers of the client or the node are under way.
        """
        message = NewEntry(sender=_CLIENT, data=dump(payload), author=author)
        entries: tuple[NewEntry, ...] = (message,)
        is_answered = wants_answer and self.responder is not None
        if is_answered:
            self._producers.quota.require_room(client_id)
            entries = (message, NewEntry.stream(MESSAGE))
        future = self._commits.submit(
            Append(
                session_id=session_id,
                entries=entries,
                key=key,
                digest=digest(payload),
                client_id=client_id,
                beginning=beginning or self._fan_out.find_beginning(session_id),
                claims=claims,
                stored_claims=(
                    dump_claims(claims) if is_answered and self._leaves_answers else ""
                ),
                metadata=dump_metadata(metadata),
                step=step,
                traceparent=get_traceparent() if TRACE_API in sys.modules else "",
            )
        )
        if is_answered:
            # Until the commit, which counts the answer itself.
            self._producers.quota.count_until(future, client_id)
        return future

    @asynccontextmanager
    async def stream(
        self,
        session_id: str,
        kind: str = MESSAGE,
        *,
        key: str = "",
        traceparent: str = "",
    ) -> AsyncIterator[Stream]:
        """
        Open a streaming entry: `async with log.stream(session) as stream`.

        See Stream for how it ends. A key that was used within a day resumes its
        entry, with the text so far, unless it is done or cancelled. A traceparent
        continues a trace; without one the current span does.

        Raises:
            TooManyStreams, StorageFull, SessionNotFound, LogFull, DatabaseUnavailable.
            ValueError: the key cannot be used.
            KeyReused: the key was used for something else.
            StreamFinished: the entry of the key is done or cancelled.
            StreamBusy: another task writes it; this one has waited for a lease.
            StreamEnded: it was cancelled, or took too long.
        """
        entry = NewEntry.stream(kind)
        self._producers.quota.require_room("")
        ended = asyncio.get_running_loop().create_future()
        self._producers.quota.count_until(ended, "")
        try:
            with do_in_span(STREAM_SPAN, session_id, traceparent):
                async with (
                    self._keys.take(session_id, entry, key) as committed,
                    self._producers.open(
                        session_id,
                        committed.entries[0],
                        committed.chunks,
                        committed.epoch,
                    ) as stream,
                ):
                    yield stream
        finally:
            ended.set_result(None)

    async def cancel(
        self, session_id: str, offset: int, epoch: str = "", *, waits: bool = False
    ) -> None:
        """
        Stop a stream, whichever node it is on, and wait for the commit if asked to.

        With an epoch, only in that log: another may have the offset for another entry.

        Raises:
            StreamEnded: no entry streams at that offset.
            DatabaseUnavailable: the stream may go on.
        """
        stream = self._producers.cancel(session_id, offset, epoch)
        if stream is not None:
            if waits:
                await stream.settled()
            return
        try:
            await self.submit(
                Rewrite(
                    session_id=session_id,
                    offset=offset,
                    state=State.CANCELLED,
                    is_owner=False,
                    epoch=epoch,
                )
            )
        except StreamEnded:
            self._fan_out.send_missed_end(session_id, offset)
            raise
        self._fan_out.send_changed(session_id, offset)

    def touch(self, session_id: str) -> None:
        """Record that a client is attached; nobody waits for it."""
        if self._fan_out.find_beginning(session_id) is not None:
            return
        try:
            touching = self._commits.submit(Touch(session_id=session_id))
            touching.add_done_callback(_forget)
        except LogFull:
            logger.debug("last_seen_at of %s is not written", session_id)

    async def check_positions(self) -> bool:
        """Wait for the next check of positions; return False if a session failed."""
        interval_seconds = self._config.sessions.position_seconds
        if self._check_failed:
            interval_seconds = min(interval_seconds, _RETRY_CHECK_SECONDS)
        await self._fan_out.wait(interval_seconds)
        self._check_failed = True
        is_whole = await self._fan_out.check()
        await self.attached.memberships.check_all()
        self._check_failed = False
        return is_whole

    async def check_work(self) -> bool:
        """Renew the leases of this node's streams, and take over what others left."""
        return await self._leases.check()

    async def take_next(self) -> bool:
        """Begin the answers that wait for a worker; return if there were any."""
        return await self._leases.take_next()

    async def flush(self) -> None:
        """Wait until the other nodes were told of what was committed so far."""
        await self._fan_out.flush()

    async def _append(
        self, session_id: str, entry: NewEntry, key: str = "", made_of: str = ""
    ) -> Committed:
        return await self.submit(
            Append(
                session_id=session_id,
                entries=(entry,),
                key=make_append_key(key) if key else "",
                digest=made_of,
                beginning=self._fan_out.find_beginning(session_id),
                traceparent=get_traceparent(),
            )
        )

    async def submit(self, request: Request) -> Committed:
        """Carry out a request, and return its result; see GroupCommit.submit()."""
        return await self._commits.submit(request)

    def _on_committed(self, request: Request, committed: Committed) -> None:
        """Send what was appended to the subscribers, and start its answer."""
        if not committed.entries:
            return
        session_id = request.session_id
        if isinstance(request, Resume):
            entry = committed.entries[0]
            self._fan_out.send_rewritten(session_id, entry, committed.previous)
            return
        self._fan_out.send_appended(session_id, committed)
        if isinstance(request, Append) and (
            request.is_question or committed.question is not None
        ):
            self._producers.answer(request, committed)


def get_log(node: Node) -> SessionLog:
    """Return the log of a node, made and started at the first call."""
    log = _logs.get(node)
    if log is None:
        if node.database is None:
            raise RuntimeError("sessions need a node with a database")
        redis_url: str | None = getattr(settings, "REDIS_URL", None)
        log = _logs[node] = SessionLog(
            node.database,
            node_id=node.node_id,
            config=node.config,
            redis_url=redis_url if is_in_redis(node.pool_kind) else None,
            bus=node.bus if node.pool_kind == "postgres" else None,
            responder=make_responder(),
            takes=Takes.NONE if is_brief() else Takes.ALL,
            passes=node.hub.passes,
            record_error=node.recorder.record_error if node.recorder else None,
        )
        node.extensions.join(log)
        node.periodic.start(
            "The check of positions",
            log.check_positions,
            expected_seconds=node.config.sessions.position_seconds,
        )
        node.periodic.start("The check of work", log.check_work, _WORK_SECONDS)
    return log


_logs: weakref.WeakKeyDictionary[Node, SessionLog] = weakref.WeakKeyDictionary()


def _forget(done: "asyncio.Future[Any]") -> None:
    """Retrieve the exception of a future that nobody awaits."""
    if not done.cancelled():
        done.exception()
