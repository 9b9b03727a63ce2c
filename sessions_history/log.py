"""
Append to, stream into and attach to the sessions of one node.

get_log(node) is the entry point. An awaited result is committed.
"""

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from connections.config.loader import WebSocketConfig
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.passes import Passes
from connections.storage.database import Database
from sessions_history.beginnings import Beginning, delete_session
from sessions_history.commits import LogLimits
from sessions_history.entries import (
    EMPTY_STREAM,
    MESSAGE,
    Append,
    Committed,
    NewEntry,
    Request,
    Rewrite,
    Sender,
    State,
    Touch,
)
from sessions_history.exceptions import LogFull
from sessions_history.fan_out import FanOut
from sessions_history.group_commit import GroupCommit
from sessions_history.payloads import digest, dump
from sessions_history.producers import Producers
from sessions_history.quotas import StorageQuota
from sessions_history.reads import (
    Claim,
    Position,
    Snapshot,
    make_provisional,
    read_snapshot,
)
from sessions_history.responders import Responder, make_responder
from sessions_history.resume import Resumption, decide
from sessions_history.session_ids import make_session_id
from sessions_history.streams import Stream
from sessions_history.subscribers import SendText, Subscriber

logger = logging.getLogger(__name__)

# A member of an enumeration costs a call each time it becomes text.
_CLIENT, _SERVER = Sender.CLIENT.value, Sender.SERVER.value

_RETRY_CHECK_SECONDS = 1
_WORK_SECONDS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """An attached connection, before its client gets `hello`."""

    subscriber: Subscriber
    position: Position
    resumption: Resumption


class SessionLog:
    """The log of all sessions on one node: appends, streams and subscribers."""

    def __init__(
        self,
        database: Database,
        *,
        node_id: str,
        config: WebSocketConfig,
        redis_url: str | None = None,
        responder: Responder | None = None,
        passes: Passes | None = None,
    ) -> None:
        self._database = database
        self._config = config
        self.responder = responder
        limits = LogLimits(
            node_id=node_id,
            lease_seconds=config.node.node_timeout_seconds,
            timeout_seconds=config.sessions.stream_timeout_seconds,
            storage=StorageQuota(
                config.sessions.max_entries_per_client,
                config.sessions.max_bytes_per_client,
            ),
            history_limit=config.max_session_history,
            max_open_streams=config.sessions.max_open_streams,
            max_sessions=config.sessions.max_sessions_per_client,
            replaces_unused=config.sessions.when_full == "delete_unused",
        )
        self._commits = GroupCommit(database, limits, self._on_committed)
        self._fan_out = FanOut(
            database, node_id=node_id, redis_url=redis_url, passes=passes or Passes()
        )
        self._producers = Producers(
            config=config,
            database=database,
            commits=self._commits,
            fan_out=self._fan_out,
            terms=limits.terms,
            get_responder=lambda: self.responder,
        )
        self._check_failed = False

    # Life

    async def drain(self) -> None:
        """Wait until no answer is under way."""
        await self._producers.drain()

    async def stop(self) -> None:
        """End all streams as interrupted and commit the queued requests."""
        await self._producers.stop()
        await self._commits.flush()
        await self._fan_out.close()

    # Writing

    async def append(
        self, session_id: str, payload: object, kind: str = MESSAGE
    ) -> int:
        """
        Append an entry from the server to a session and return its offset.

        Raises:
            InvalidMessage: the payload cannot be stored.
            SessionNotFound, LogFull: nothing was appended.
            DatabaseUnavailable: whether it was appended is unknown.
        """
        entry = NewEntry(kind=kind, sender=_SERVER, data=dump(payload))
        committed = await self._append(session_id, entry)
        return committed.offset

    def say(
        self, session_id: str, key: str, payload: object, client_id: str = ""
    ) -> asyncio.Future[Committed]:
        """
        Append a client's message, and start its answer if there is a responder.

        The future is done once the message and the place of its answer in the log
        are committed; it raises KeyReused, StorageFull, TooManyStreams,
        TooManySessions, SessionNotFound or DatabaseUnavailable.

        Raises:
            InvalidMessage: the payload cannot be stored.
            LogFull: the database is too far behind.
            TooManyStreams: too many answers of the client or the node are under way.
        """
        message = NewEntry(sender=_CLIENT, data=dump(payload))
        entries: tuple[NewEntry, ...] = (message,)
        if self.responder is not None:
            self._producers.quota.require_room(client_id)
            entries = (message, _new_stream(MESSAGE))
        future = self._commits.submit(
            Append(
                session_id=session_id,
                entries=entries,
                key=key,
                digest=digest(payload),
                client_id=client_id,
                beginning=self._fan_out.find_beginning(session_id),
            )
        )
        if self.responder is not None:
            # Until the commit, which counts the answer itself.
            self._producers.quota.count_until(future, client_id)
        return future

    @asynccontextmanager
    async def stream(
        self, session_id: str, kind: str = MESSAGE
    ) -> AsyncIterator[Stream]:
        """
        Open a streaming entry: `async with log.stream(session) as stream`.

        See Stream for how it ends.

        Raises:
            TooManyStreams, SessionNotFound, LogFull, DatabaseUnavailable.
            StreamEnded: it was cancelled, or took too long.
        """
        self._producers.quota.require_room("")
        ended = asyncio.get_running_loop().create_future()
        self._producers.quota.count_until(ended, "")
        try:
            committed = await self._append(session_id, _new_stream(kind))
            async with self._producers.open(session_id, committed.entries[0]) as stream:
                yield stream
        finally:
            ended.set_result(None)

    async def cancel(self, session_id: str, offset: int) -> None:
        """
        Stop a stream, whichever node it is on.

        Raises:
            StreamEnded: no entry streams at that offset.
            DatabaseUnavailable: the stream may go on.
        """
        if self._producers.cancel(session_id, offset):
            return
        await self._submit(
            Rewrite(
                session_id=session_id,
                offset=offset,
                state=State.CANCELLED,
                is_owner=False,
            )
        )
        self._fan_out.send_changed(session_id, offset)

    # Subscribers

    async def attach(
        self,
        session_id: str | None,
        claim: Claim,
        *,
        connection: LiveConnection,
        send: SendText,
    ) -> Attached:
        """
        Attach a connection to its client's session, or to a new one.

        A new session is provisional: its first entry inserts it. Nothing is sent
        before subscriber.start(); its owner closes it.

        Raises:
            SessionNotFound: it does not exist, or belongs to another client.
            DatabaseUnavailable: the session could not be read.
        """
        client_id = connection.client_id
        is_new = session_id is None
        session_id = session_id or make_session_id(client_id)
        subscriber = await self._follow(session_id, connection, send)
        try:
            if is_new:
                snapshot = make_provisional(session_id)
            else:
                read = self._database.read
                snapshot = await read(read_snapshot, session_id, client_id, claim)
        except BaseException:
            self.detach(subscriber)
            raise
        if snapshot.position.is_provisional:
            beginning = Beginning(
                session_id=session_id,
                client_id=client_id,
                user_id=connection.user_id,
                epoch=snapshot.position.epoch,
            )
            snapshot = make_provisional(session_id, subscriber.tail.begin(beginning))
        if not self._adopt(subscriber, snapshot):
            # The tail was of an earlier log of this session.
            return await self.attach(
                session_id, claim, connection=connection, send=send
            )
        self.touch(session_id)
        return Attached(
            subscriber=subscriber,
            position=snapshot.position,
            resumption=decide(claim, snapshot),
        )

    def touch(self, session_id: str) -> None:
        """Record that a client is attached; nobody waits for it."""
        if self._fan_out.find_beginning(session_id) is not None:
            return
        try:
            touching = self._commits.submit(Touch(session_id=session_id))
            touching.add_done_callback(_forget)
        except LogFull:
            logger.debug("last_seen_at of %s is not written", session_id)

    async def delete(self, subscriber: Subscriber, client_id: str) -> None:
        """
        Delete the session of a subscriber; the others attached to it attach anew.

        Raises:
            SessionNotFound: it does not exist, or belongs to another client.
            DatabaseUnavailable: whether it is deleted is unknown.
        """
        tail = subscriber.tail
        await self._database.write(delete_session, tail.session_id, client_id)
        self.detach(subscriber)
        self._fan_out.reset(tail)

    def detach(self, subscriber: Subscriber) -> None:
        """Detach a connection; a second call does nothing."""
        subscriber.close()
        self._fan_out.leave(subscriber.tail)

    async def _follow(
        self, session_id: str, connection: LiveConnection, send: SendText
    ) -> Subscriber:
        """Subscribe first and read afterwards, so that no entry is missed."""
        tail = self._fan_out.find_or_make(session_id)
        subscriber = Subscriber(
            tail, database=self._database, connection=connection, send=send
        )
        await self._fan_out.listen(session_id)
        return subscriber

    def _adopt(self, subscriber: Subscriber, snapshot: Snapshot) -> bool:
        """Add the read entries to the tail; return False if its log is another one."""
        tail, position = subscriber.tail, snapshot.position
        if tail.epoch is None:
            tail.epoch = position.epoch
        if tail.is_reset or tail.epoch != position.epoch:
            self.detach(subscriber)
            self._fan_out.reset(tail)
            return False
        tail.learn(position.mark)
        tail.move_to(position.last_offset)
        return True

    async def check_positions(self) -> bool:
        """Wait for the next check of positions; return False if a session failed."""
        interval_seconds = self._config.sessions.position_seconds
        if self._check_failed:
            interval_seconds = min(interval_seconds, _RETRY_CHECK_SECONDS)
        await self._fan_out.wait(interval_seconds)
        self._check_failed = True
        is_whole = await self._fan_out.check()
        self._check_failed = False
        return is_whole

    async def check_work(self) -> None:
        """Renew the leases of this node's streams, and take over what others left."""
        await self._producers.check_work()

    async def _append(self, session_id: str, entry: NewEntry) -> Committed:
        beginning = self._fan_out.find_beginning(session_id)
        return await self._submit(
            Append(session_id=session_id, entries=(entry,), beginning=beginning)
        )

    async def _submit(self, request: Request) -> Committed:
        return await self._commits.submit(request)

    def _on_committed(self, request: Request, committed: Committed) -> None:
        """Send what was appended to the subscribers, and start its answer."""
        if not committed.entries:
            return
        session_id = request.session_id
        self._fan_out.send_appended(session_id, committed.epoch, committed.entries)
        if isinstance(request, Append) and request.key and self.responder is not None:
            message, answer = committed.entries
            self._producers.answer(session_id, message, answer, request.client_id)


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
            redis_url=redis_url if node.bus is not None else None,
            responder=make_responder(),
            passes=node.hub.passes,
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


def _new_stream(kind: str) -> NewEntry:
    return NewEntry(
        kind=kind, sender=_SERVER, data=EMPTY_STREAM, state=State.STREAMING.value
    )


def _forget(done: "asyncio.Future[Any]") -> None:
    """Retrieve the exception of a future that nobody awaits."""
    if not done.cancelled():
        done.exception()
