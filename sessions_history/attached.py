"""Attach connections to their sessions, and detach them."""

from collections.abc import Callable
from dataclasses import dataclass

from connections.hub.connection import LiveConnection
from connections.storage.database import Database
from sessions_history.beginnings import Beginning, delete_session
from sessions_history.fan_out import FanOut
from sessions_history.memberships import Membership, Memberships
from sessions_history.reads import (
    Claim,
    Position,
    Snapshot,
    make_provisional,
    read_snapshot,
)
from sessions_history.resume import Resumption, decide
from sessions_history.session_ids import make_session_id
from sessions_history.subscribers import End, SendText, Subscriber
from sessions_history.turns import Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """An attached connection, before its client gets `hello`."""

    subscriber: Subscriber
    position: Position
    resumption: Resumption
    membership: Membership


class AttachedConnections:
    """The connections of one node that are attached to sessions."""

    def __init__(
        self, database: Database, fan_out: FanOut, touch: Callable[[str], None]
    ) -> None:
        self._database = database
        self._fan_out = fan_out
        self._touch = touch
        self.memberships = Memberships(database, fan_out)
        self._by_subscriber: dict[Subscriber, Membership] = {}

    async def attach(
        self,
        session_id: str | None,
        claim: Claim,
        *,
        connection: LiveConnection,
        send: SendText,
        has_parts: bool = False,
        end: End | None = None,
        turns: Turns | None = None,
        subscriber_class: type[Subscriber] = Subscriber,
    ) -> Attached:
        """
        Attach a connection to a session of its client or user, or to a new one.

        A new session is provisional: its first entry inserts it. Nothing is sent
        before subscriber.start(); its owner closes it. `end` is called with the
        reason for which the session ends for the connection; without it the
        connection ends. The sessions of one connection share their turns.

        Raises:
            SessionNotFound: it does not exist, or the client has no role in it.
            DatabaseUnavailable: the session could not be read.
        """
        client_id = connection.client_id
        is_new = session_id is None
        session_id = session_id or make_session_id(client_id)
        subscriber = subscriber_class(
            self._fan_out.find_or_make(session_id),
            database=self._database,
            connection=connection,
            send=send,
            has_parts=has_parts,
            end=end,
            turns=turns,
        )
        try:
            membership = await self._follow(subscriber, connection, end)
            if is_new:
                snapshot = make_provisional(session_id)
            else:
                snapshot = await self._read(membership, claim)
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
        membership.role = snapshot.role
        membership.owner_id = snapshot.position.owner_id or client_id
        if not self._adopt(subscriber, snapshot):
            # The tail was of an earlier log of this session.
            return await self.attach(
                session_id,
                claim,
                connection=connection,
                send=send,
                has_parts=has_parts,
                end=end,
                turns=turns,
                subscriber_class=subscriber_class,
            )
        self._touch(session_id)
        return Attached(
            subscriber=subscriber,
            position=snapshot.position,
            resumption=decide(claim, snapshot),
            membership=membership,
        )

    async def delete(
        self,
        session_id: str,
        client_id: str,
        but: Subscriber | None = None,
        *,
        check: Callable[[], None] | None = None,
    ) -> None:
        """
        Delete a session. Those attached to it on any node but one attach anew.

        A check runs while the session cannot change; what it raises is raised.

        Raises:
            SessionNotFound: it does not exist, or belongs to another client.
            DatabaseUnavailable: whether it is deleted is unknown.
        """
        await self._database.write(delete_session, session_id, client_id, check)
        if but is not None:
            self.detach(but)
        self._fan_out.send_deleted(session_id)

    def detach(self, subscriber: Subscriber) -> None:
        """Detach a connection; a second call does nothing."""
        subscriber.close()
        membership = self._by_subscriber.pop(subscriber, None)
        if membership is not None:
            self.memberships.leave(membership)
        self._fan_out.leave(subscriber.tail)

    async def _follow(
        self, subscriber: Subscriber, connection: LiveConnection, end: End | None
    ) -> Membership:
        """Subscribe first and read afterwards, so that no entry is missed."""
        tail = subscriber.tail
        membership = self.memberships.join(tail, connection, end or connection.end)
        self._by_subscriber[subscriber] = membership
        await self._fan_out.listen(tail.session_id)
        return membership

    async def _read(self, membership: Membership, claim: Claim) -> Snapshot:
        """Read the session, once more if its members changed meanwhile."""
        connection = membership.connection
        while True:
            membership.is_outdated = False
            snapshot = await self._database.read(
                read_snapshot,
                membership.tail.session_id,
                connection.client_id,
                claim,
                connection.user_id,
            )
            if not membership.is_outdated:
                return snapshot

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
