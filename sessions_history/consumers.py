"""The session protocol, orchestra.v1 and orchestra.v2, on one connection."""

import json
import re
from typing import Any

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.close_codes import CloseReason
from connections.consumers import LimitedJsonConsumer
from connections.exceptions import DatabaseUnavailable, InvalidMessage, Refused
from connections.net.script_prefix import remove_script_prefix
from connections.presence.rooms import JoinedRoom
from sessions_history.attachment import SessionAttachment
from sessions_history.claims import (
    MANY,
    NEW,
    AttachRequest,
    asks_presence,
    read_attach,
    read_claim,
)
from sessions_history.exceptions import SessionNotFound
from sessions_history.log import get_log
from sessions_history.refusals import NOT_FOUND, UNREADABLE, Refusal
from sessions_history.session_ids import SESSION_ID
from sessions_history.shared_connection import SharedConnection

SUBPROTOCOL = "orchestra.v1"
PARTS_SUBPROTOCOL = "orchestra.v2"
"""The subprotocol whose entries have parts, and whose connections many sessions."""

_ALREADY_ATTACHED = Refusal("already_attached", "detach the session first")
_NOT_COVERED = Refusal("forbidden", "the credential does not cover the session")
_NOT_ATTACHED = Refusal(
    "not_attached", "attach the session that the message is for, and name it"
)
_QUIET_TYPES = ("ping", "present", "refresh")
_LONGEST_QUIET = 20_000
"""A longer message always counts as activity: parsing it only to find out would
cost too much."""

_QUIET_TEXT = re.compile(f'"({"|".join(_QUIET_TYPES)})"')


class SessionConsumer(LimitedJsonConsumer):
    """
    One connection attached to sessions of its client or of others.

    The path names the first one, or none, and messages attach more. The consumer
    passes each message to its session; a subscriber of each decides what is sent.
    """

    _orchestra_turn_seconds = 0.000_25

    _shared: SharedConnection
    _own: SessionAttachment | None = None
    """The session of the path, whose messages need not name it."""

    _sessions: dict[str, SessionAttachment]
    """All attached sessions, by id."""

    _begun: set[str]
    """The sessions that this connection attached as new ones."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self._sessions, self._begun = {}, set()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._own = None
            while self._sessions:
                self._sessions.popitem()[1].close()
            # It refers to a method of this consumer: a reference cycle.
            self.__dict__.pop("_shared", None)

    async def connect(self) -> None:
        offered = self.scope.get("subprotocols") or []
        known = [one for one in (PARTS_SUBPROTOCOL, SUBPROTOCOL) if one in offered]
        if offered and not known:
            raise Refused(close_codes.PROTOCOL_ERROR)
        self._shared = SharedConnection(
            node=self.scope["node"],
            log=get_log(self.scope["node"]),
            connection=self.connection,
            send=self._send_text,
            has_parts=PARTS_SUBPROTOCOL in known,
        )
        own: SessionAttachment | None = None
        if self._path_word != MANY:
            own = self._own = await self._attach_own()
            self._sessions[own.session_id] = own
        elif not self._shared.has_parts:
            raise Refused(close_codes.PROTOCOL_ERROR)
        await self.accept(known[0] if known else None)
        await self.send_json(self._make_hello(own))
        if own is not None:
            await own.start()

    async def _attach_own(self) -> SessionAttachment:
        """Attach to the session of the path."""
        try:
            session_id, claim = read_claim(self.scope)
            has_presence = asks_presence(self.scope)
        except ValueError as exc:
            raise Refused(close_codes.PROTOCOL_ERROR) from exc
        if session_id is not None and not SESSION_ID.fullmatch(session_id):
            raise Refused(close_codes.NOT_FOUND)
        one = SessionAttachment(self._shared)
        try:
            await one.open(session_id, claim, has_presence=has_presence)
        except SessionNotFound as exc:
            raise Refused(close_codes.NOT_FOUND) from exc
        except DatabaseUnavailable as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc
        return one

    @property
    def _path_word(self) -> str:
        word: str = self.scope["url_route"]["kwargs"]["session_id"]
        return word

    def presence(self) -> JoinedRoom | None:
        """Return the room of the session if the client asks who is present."""
        return self._own.room if self._own is not None else None

    def is_activity(self, message: Message) -> bool:
        """Return False for heartbeats and refreshes: they keep a dead page alive."""
        text = message.get("text") or ""
        if len(text) > _LONGEST_QUIET or not _QUIET_TEXT.search(text):
            return True
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return True
        return not isinstance(content, dict) or content.get("type") not in _QUIET_TYPES

    async def receive(
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        former = self.connection.live.credential
        await super().receive(text_data, bytes_data, **kwargs)
        if self.connection.live.credential is not former:
            self._end_uncovered()

    def _end_uncovered(self) -> None:
        """End the sessions that a new credential does not cover."""
        for session_id, one in list(self._sessions.items()):
            # The refresh has checked the path of the connection.
            if one is self._own or self._covers(session_id):
                continue
            if session_id in self._begun and self._covers(NEW):
                continue
            one.end(close_codes.FORBIDDEN)

    async def handle_message(self, content: Message) -> None:
        if one := await self._find(content):
            await one.say(content)

    async def handle_regenerate(self, content: Message) -> None:
        if one := await self._find(content):
            await one.regenerate(content)

    async def handle_approve(self, content: Message) -> None:
        if one := await self._find(content):
            await one.decide(content, is_approved=True)

    async def handle_deny(self, content: Message) -> None:
        if one := await self._find(content):
            await one.decide(content, is_approved=False)

    async def handle_cancel(self, content: Message) -> None:
        if one := await self._find(content):
            await one.cancel(content)

    async def handle_delete(self, content: Message) -> None:
        if one := await self._find(content):
            await one.delete()

    async def handle_present(self, content: Message) -> None:
        if one := await self._find(content):
            await one.describe_present()

    async def handle_typing(self, content: Message) -> None:
        if one := await self._find(content):
            one.set_typing(content)

    async def handle_ping(self, content: Message) -> None:
        for one in self._sessions.values():
            one.keep_empty()
        pong = {"type": "pong", "t": content.get("t")}
        if self._own is not None:
            pong["offset"] = self._own.last_offset
        named = {
            session_id: one.last_offset
            for session_id, one in self._sessions.items()
            if one is not self._own
        }
        if named:
            pong["offsets"] = named
        # send_json() would count as activity.
        await self.connection.send(json.dumps(pong))

    async def handle_attach(self, content: Message) -> None:
        self._require_many("attach")
        try:
            asked = read_attach(content)
        except ValueError as exc:
            raise InvalidMessage("invalid_message", str(exc)) from exc
        one = SessionAttachment(self._shared, self._on_end)
        refusal = self._check(asked) or await self._open(one, asked)
        if refusal is not None:
            error = refusal.to_wire(asked.request_id, session=content["session"])
            await self._shared.send_in_turn(error)
            return
        self._sessions[one.session_id] = one
        if asked.session_id is None:
            self._begun.add(one.session_id)
        self.connection.live.flight.record("attached", one.session_id)
        hello = self._make_hello(one)
        if asked.request_id is not None:
            hello["id"] = asked.request_id
        async with self._shared.turns:
            await self.send_json(hello)
        await one.start()

    async def _open(
        self, one: SessionAttachment, asked: AttachRequest
    ) -> Refusal | None:
        """Attach to a session; return why that is not possible."""
        presence = asked.has_presence
        try:
            await one.open(asked.session_id, asked.claim, has_presence=presence)
        except SessionNotFound:
            return NOT_FOUND
        except DatabaseUnavailable:
            return UNREADABLE
        return None

    async def handle_detach(self, content: Message) -> None:
        self._require_many("detach")
        one = await self._find(content)
        if one is None:
            return
        if one is self._own:
            text = "the connection ends with the session of its path: close it"
            raise InvalidMessage("invalid_message", text)
        detached = self._remove(one, close_codes.CLOSED)
        await self._shared.send_in_turn(detached)

    def _require_many(self, kind: str) -> None:
        """
        Check that the connection may attach several sessions.

        Raises:
            InvalidMessage: it speaks a version without them.
        """
        if not self._shared.has_parts:
            text = f"{kind} needs the subprotocol {PARTS_SUBPROTOCOL}"
            raise InvalidMessage("unknown_type", text)

    def _check(self, asked: AttachRequest) -> Refusal | None:
        """Return why a session is not attached, unless reading it has to decide."""
        session_id = asked.session_id or NEW
        most = self._shared.node.config.sessions.max_sessions_per_connection
        if session_id in self._sessions:
            return _ALREADY_ATTACHED
        if len(self._sessions) >= most:
            text = f"a connection attaches at most {most} sessions"
            return Refusal("too_many_sessions", text)
        if asked.session_id is not None and not SESSION_ID.fullmatch(session_id):
            return NOT_FOUND
        return None if self._covers(session_id) else _NOT_COVERED

    def _covers(self, session_id: str) -> bool:
        """Return whether the credential covers the path that a session has alone."""
        credential = self.connection.live.credential
        # A scope of the credential may be the path of one session.
        path = "/".join(
            session_id if part == self._path_word else part
            for part in remove_script_prefix(self.scope).split("/")
        )
        return credential is None or credential.covers(
            path, self.scope.get("route", "")
        )

    async def _find(self, content: Message) -> SessionAttachment | None:
        """Return the session of a message; without one, tell the client."""
        session_id = content.get("session")
        if session_id is None or not self._shared.has_parts:
            one = self._own
        else:
            one = (
                self._sessions.get(session_id) if isinstance(session_id, str) else None
            )
        if one is not None:
            return one
        # It may have ended while the message was on its way, which is no mistake.
        named = {"session": session_id} if isinstance(session_id, str) else {}
        message_id = content.get("id")
        error = _NOT_ATTACHED.to_wire(
            message_id if isinstance(message_id, str) else None, **named
        )
        await self._shared.send_in_turn(error)
        return None

    def _on_end(self, one: SessionAttachment, close_reason: CloseReason) -> None:
        """Detach a session that has ended for this connection, and tell the client."""
        detached = self._remove(one, close_reason)
        sending = self._shared.node.hub.sending
        sending.start(self._shared.send_in_turn(detached), "send that a session ended")

    def _remove(self, one: SessionAttachment, close_reason: CloseReason) -> Message:
        """Detach a session, and return the message about it."""
        self._sessions.pop(one.session_id, None)
        one.close()
        live = self.connection.live
        live.flight.record("detached", f"{one.session_id} {close_reason.reason}")
        bye = close_reason.bye(live.connection_id)
        return {**bye, "type": "detached", "session": one.session_id}

    def _make_hello(self, one: SessionAttachment | None) -> Message:
        config = self._shared.node.config
        limits = self.connection.limits
        allowed = {
            "max_message_size": limits.max_message_size,
            "messages_per_second": limits.messages_per_second,
            "burst_messages": limits.burst_messages,
            "bytes_per_second": limits.bytes_per_second,
            "burst_bytes": limits.burst_bytes,
            "max_open_streams": config.sessions.max_open_streams,
        }
        if self._shared.has_parts:
            allowed["max_sessions"] = config.sessions.max_sessions_per_connection
        return {
            "type": "hello",
            "connection": self.connection.id,
            **(one.make_hello() if one is not None else {}),
            "history_limit": config.max_session_history,
            "limits": allowed,
            "heartbeat_seconds": config.ping_interval_seconds,
            "idle_timeout_seconds": limits.idle_timeout_seconds,
        }

    async def _send_text(self, text: str) -> None:
        await self.send(text_data=text)
