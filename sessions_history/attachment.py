"""One session of one connection: its position, its role, and what the client asks."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from connections import close_codes
from connections.asgi import Message
from connections.close_codes import CloseReason
from connections.exceptions import DatabaseUnavailable, InvalidMessage
from connections.hub.connection import WEBSOCKET
from connections.presence.rooms import JoinedRoom, find_member
from sessions_history.attached import Attached
from sessions_history.entries import Committed
from sessions_history.exceptions import (
    LogFull,
    NoResponder,
    SessionNotFound,
    StreamEnded,
    TooManyStreams,
)
from sessions_history.member_models import Role
from sessions_history.memberships import Membership
from sessions_history.message_fields import (
    read_active,
    read_call,
    read_decision,
    read_epoch,
    read_id,
    read_offset,
)
from sessions_history.presence import SessionPresence
from sessions_history.reads import Claim
from sessions_history.refusals import (
    DELETION_UNKNOWN,
    NOT_CANCELLED,
    NOTHING_STREAMS,
    Refusal,
    explain,
)
from sessions_history.shared_connection import SharedConnection
from sessions_history.subscribers import Subscriber

_MAX_UNDER_WAY = 32
"""How many messages of one connection may wait for their commit."""

_NO_PRESENCE = "attach with ?presence=1, or with presence: true"
_TOUCH_SECONDS = 600


OnEnd = Callable[["SessionAttachment", CloseReason], None]


class SessionAttachment:
    """
    One session to which a connection is attached.

    The session of the connection's path ends the connection when it ends. One that a
    message attached has an `on_end`, which is called instead, and its messages name it.
    """

    session_id: str
    _attached: Attached
    _subscriber: Subscriber
    _membership: Membership

    def __init__(self, shared: SharedConnection, on_end: OnEnd | None = None) -> None:
        self._shared = shared
        self._on_end = on_end
        self._author = find_member(shared.connection.live)
        self._presence: SessionPresence | None = None
        self._is_named = on_end is not None
        # Its client receives alone, and asks nothing.
        self._is_response = shared.connection.live.carrier != WEBSOCKET
        self._is_open = self._has_ended = False
        self._touched_at = 0.0

    async def open(
        self, session_id: str | None, claim: Claim, *, has_presence: bool
    ) -> None:
        """
        Attach to a session, or to a new one; nothing is sent before start().

        Raises:
            SessionNotFound: it does not exist, or the client has no role in it.
            DatabaseUnavailable: the session could not be read.
        """
        shared = self._shared
        attached = self._attached = await shared.log.attached.attach(
            session_id,
            claim,
            connection=shared.connection.live,
            send=self._send_named if self._is_named else shared.send,
            has_parts=shared.has_parts,
            end=self.end,
            turns=shared.turns,
        )
        self._subscriber = attached.subscriber
        self._membership = attached.membership
        self.session_id = attached.position.session_id
        self._is_open = True
        shared.node.counters.attached_sessions += 1
        if has_presence:
            self._presence = SessionPresence(
                shared.log.typing,
                session_id=self.session_id,
                connection=shared.connection.live,
                node=shared.node,
                send=self._send_quietly,
                is_listed=self._is_response,
            )

    @property
    def room(self) -> JoinedRoom | None:
        """The room that the accept joins if the client asks who is present."""
        if self._presence is None or self._is_response:
            return None
        return self._presence.joined_room

    @property
    def last_offset(self) -> int:
        """The last offset of the session."""
        return self._subscriber.tail.last_offset

    def make_hello(self) -> Message:
        """Return the part of `hello` that is about the session."""
        resumption, position = self._attached.resumption, self._attached.position
        hello = {
            "session": position.session_id,
            "epoch": position.epoch,
            "offset": position.last_offset,
            "chain": str(position.mark) if position.mark else None,
            "outcome": resumption.outcome.value,
            "gap": list(resumption.gap) if resumption.gap else None,
            "role": self._membership.role,
            "author": self._author,
        }
        if self._presence is not None:
            hello["member"] = self._presence.member
        return hello

    async def start(self) -> None:
        """Send the client, which has its hello, what it misses, and what follows."""
        if self._presence is not None:
            # The list and the events after it have one order only in one queue.
            is_own_room = self._is_named or self._is_response
            self._presence.start(is_own_room=is_own_room)
        attached, resumption = self._attached, self._attached.resumption
        self._shared.node.counters.resumes.add(resumption.outcome.value)
        try:
            await self._subscriber.start(
                resumption.position,
                mark=attached.position.mark,
                missing_to=resumption.missing_to,
                reopened=resumption.reopened,
            )
        except DatabaseUnavailable:
            # The client has its hello, and claims the same when it returns.
            self.end(close_codes.UNAVAILABLE)

    def end(self, close_reason: CloseReason) -> None:
        """End the session for this connection, or the connection with it."""
        self._has_ended = True
        if self._on_end is not None:
            self._on_end(self, close_reason)
        elif not self._is_named:
            self._shared.connection.live.end(close_reason)

    def close(self) -> None:
        """Detach from the session; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._shared.node.counters.attached_sessions -= 1
        self._on_end = None
        if self._presence is not None:
            self._presence.close()
            self._presence = None
        self._shared.log.attached.detach(self._subscriber)

    async def say(self, content: Message) -> None:
        """Append a message of the client, whose ack follows the commit."""
        message_id = read_id(content)
        if "data" not in content:
            raise InvalidMessage("invalid_message", "no data", message_id=message_id)
        is_agent = self._membership.role is Role.AGENT
        wants_answer = content.get("answer", not is_agent)
        if not isinstance(wants_answer, bool):
            raise InvalidMessage(
                "invalid_message", "answer: true or false", message_id=message_id
            )
        is_submitted = await self._submit(
            message_id,
            lambda: self._shared.log.say(
                self.session_id,
                message_id,
                content["data"],
                self._shared.connection.client_id,
                author=self._author,
                wants_answer=wants_answer,
                claims=self._find_claims(),
                metadata=content.get("metadata"),
            ),
        )
        if is_submitted and self._presence is not None:
            self._presence.set_typing(is_typing=False)

    async def regenerate(self, content: Message) -> None:
        """Answer the message of an answer again; the ack follows the commit."""
        message_id = read_id(content)
        offset = read_offset(content, message_id)
        epoch = read_epoch(content, message_id)
        await self._submit(
            message_id,
            lambda: self._shared.log.answers.regenerate(
                self.session_id,
                message_id,
                offset,
                self._shared.connection.client_id,
                author=self._author,
                epoch=epoch,
                claims=self._find_claims(),
                metadata=content.get("metadata"),
            ),
        )

    async def decide(self, content: Message, *, is_approved: bool) -> None:
        """Approve or deny a tool call; the ack follows the commit."""
        message_id = read_id(content)
        call = read_call(content, self.session_id, message_id)
        note_and_epoch = read_decision(content, message_id)
        await self._wait_for_place()
        role = self._membership.role
        if role not in (Role.OWNER, Role.WRITER):
            text = f"the role {role} neither approves nor denies tool calls"
            self._refuse(Refusal("forbidden", text), message_id)
            return
        await self._submit(
            message_id,
            lambda: asyncio.ensure_future(
                self._shared.log.answers.decide(
                    call, is_approved=is_approved, by=self._author, **note_and_epoch
                )
            ),
        )

    def _find_claims(self) -> Mapping[str, Any] | None:
        credential = self._shared.connection.live.credential
        return credential.claims if credential is not None else None

    async def _submit(
        self, message_id: str, start: Callable[[], asyncio.Future[Committed]]
    ) -> bool:
        """Start a request, whose result is sent; return False if it was refused."""
        await self._wait_for_place()
        if not self._may_write(message_id):
            return False
        shared = self._shared
        try:
            future = start()
        except InvalidMessage as exc:
            raise InvalidMessage(exc.code, exc.message, message_id=message_id) from exc
        except (LogFull, NoResponder, TooManyStreams) as exc:
            self._refuse(explain(exc), message_id)
            return False
        shared.under_way.add(future)
        began_at = shared.node.clock()
        future.add_done_callback(lambda done: self._settle(message_id, done, began_at))
        return True

    async def _wait_for_place(self) -> None:
        """Wait until one more message may be under way; the role may change."""
        shared = self._shared
        while len(shared.under_way) >= _MAX_UNDER_WAY:
            # asyncio.wait() would add a callback to each of them for each message.
            shared.has_settled.clear()
            await shared.has_settled.wait()

    async def cancel(self, content: Message) -> None:
        """Stop a stream of the session."""
        offset, epoch = read_offset(content), read_epoch(content)
        if epoch is None:
            # Clients of the previous release name none.
            epoch = self._subscriber.tail.epoch
        if not self._may_write(offset=offset):
            return
        try:
            await self._shared.log.cancel(self.session_id, offset, epoch or "")
        except (StreamEnded, SessionNotFound):
            self._refuse(NOTHING_STREAMS, offset=offset)
        except (DatabaseUnavailable, LogFull):
            self._refuse(NOT_CANCELLED, offset=offset)

    async def delete(self) -> None:
        """Delete the session for its owner; it ends for all connections."""
        if self._membership.role is not Role.OWNER:
            self._refuse(Refusal("forbidden", "only the owner deletes the session"))
            return
        try:
            await self._shared.log.attached.delete(
                self.session_id, self._membership.owner_id, but=self._subscriber
            )
        except DatabaseUnavailable:
            self._refuse(DELETION_UNKNOWN)
            return
        except SessionNotFound:
            # It was deleted before, or handed over: the client attaches anew.
            self.end(close_codes.ASKED_TO_RECONNECT)
            return
        await self._shared.send_in_turn({"type": "deleted", "session": self.session_id})
        self.end(close_codes.NOT_FOUND)

    async def describe_present(self) -> None:
        """Send who is present."""
        await self._send_quietly(json.dumps(await self._require_presence().describe()))

    def set_typing(self, content: Message) -> None:
        """Send the other connections of the session whether the user types."""
        is_typing = read_active(content)
        presence = self._require_presence()
        if self._may_write():
            presence.set_typing(is_typing=is_typing)

    def keep_empty(self) -> None:
        """Keep a session without entries, which is deleted if unseen for an hour."""
        now = self._shared.node.clock()
        if not self.last_offset and now - self._touched_at > _TOUCH_SECONDS:
            self._touched_at = now
            self._shared.log.touch(self.session_id)

    def _require_presence(self) -> SessionPresence:
        """
        Return the presence of this connection in the session.

        Raises:
            InvalidMessage: the client has not asked for it.
        """
        if self._presence is None:
            raise InvalidMessage("invalid_message", _NO_PRESENCE)
        return self._presence

    def _may_write(self, message_id: str | None = None, **more: Any) -> bool:
        """Return whether the role allows to write; if not, tell the client."""
        if self._has_ended:
            # The client learns that, and sends again what has no ack.
            return False
        role = self._membership.role
        if role is not None and role.may_write:
            return True
        text = f"the role {role} may read this session, and not write in it"
        self._refuse(Refusal("forbidden", text), message_id, **more)
        return False

    def _settle(
        self, message_id: str, done: asyncio.Future[Committed], began_at: float
    ) -> None:
        """Send the client the result of its message."""
        shared = self._shared
        shared.under_way.discard(done)
        shared.has_settled.set()
        if done.cancelled():
            return
        exc = done.exception()
        if exc is not None:
            self._refuse(explain(exc), message_id)
            return
        committed = done.result()
        mark = f',"chain":"{committed.mark}"' if committed.mark else ""
        # The characters of an id need no escapes.
        self._subscriber.reply(
            f'{{"type":"ack","id":"{message_id}","offset":{committed.offset}{mark}}}'
        )
        shared.node.counters.acks.observe(shared.node.clock() - began_at)

    def _refuse(
        self, refusal: Refusal, message_id: str | None = None, **more: Any
    ) -> None:
        text = json.dumps(refusal.to_wire(message_id, **more))
        self._subscriber.reply(text, ends_with=refusal.ends_with)

    async def _send_named(self, text: str) -> None:
        await self._shared.send(self._name(text))

    async def _send_quietly(self, text: str) -> None:
        """Send a message that is no activity."""
        await self._shared.connection.send(self._name(text))

    def _name(self, text: str) -> str:
        """Return a message with the session that it belongs to, unless it is clear."""
        if not self._is_named:
            return text
        return f'{{"session":"{self.session_id}",{text[1:]}'
