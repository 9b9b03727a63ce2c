"""Attach connections to their sessions, and detach them."""

from collections.abc import Callable
from dataclasses import dataclass

from connections.hub.connection import LiveConnection
from connections.storage.database import Database
from sessions_history.beginnings import Beginning, delete_session
from sessions_history.fan_out import FanOut
from sessions_history.reads import (
    Claim,
    Position,
    Snapshot,
    make_provisional,
    read_snapshot,
)
from sessions_history.resume import Resumption, decide
from sessions_history.session_ids import make_session_id
from sessions_history.subscribers import SendText, Subscriber


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """An attached connection, before its client gets `hello`."""

    subscriber: Subscriber
    position: Position
    resumption: Resumption


class AttachedConnections:
    """The connections of one node that are attached to sessions."""

    def __init__(
        self, database: Database, fan_out: FanOut, touch: Callable[[str], None]
    ) -> None:
        self._database = database
        self._fan_out = fan_out
        self._touch = touch

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
        self._touch(session_id)
        return Attached(
            subscriber=subscriber,
            position=snapshot.position,
            resumption=decide(claim, snapshot),
        )

    async def delete(
        self, session_id: str, client_id: str, but: Subscriber | None = None
    ) -> None:
        """
        Delete a session. Those attached to it on any node but one attach anew.

        Raises:
            SessionNotFound: it does not exist, or belongs to another client.
            DatabaseUnavailable: whether it is deleted is unknown.
        """
        await self._database.write(delete_session, session_id, client_id)
        if but is not None:
            self.detach(but)
        self._fan_out.send_deleted(session_id)

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
        """Add the position to the tail; return False if its log is another one."""
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
