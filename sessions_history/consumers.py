"""The session protocol, orchestra.v1 and orchestra.v2, on one connection."""

import asyncio
import json
import logging
import re

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.consumers import LimitedJsonConsumer
from connections.exceptions import (
    DatabaseUnavailable,
    InvalidMessage,
    Refused,
)
from connections.presence.rooms import find_member
from sessions_history.attached import Attached
from sessions_history.claims import asks_presence, read_claim
from sessions_history.entries import Committed
from sessions_history.exceptions import (
    KeyReused,
    LogFull,
    SessionNotFound,
    StorageFull,
    StreamEnded,
    TooManySessions,
    TooManyStreams,
)
from sessions_history.log import SessionLog, get_log
from sessions_history.member_models import Role
from sessions_history.memberships import Membership
from sessions_history.presence import SessionPresence
from sessions_history.session_ids import SESSION_ID
from sessions_history.subscribers import Subscriber

logger = logging.getLogger(__name__)

SUBPROTOCOL = "orchestra.v1"
PARTS_SUBPROTOCOL = "orchestra.v2"
"""The subprotocol whose entries have parts."""
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_-]{12,80}-[0-9]{1,15}")
_MAX_UNDER_WAY = 32
"""How many messages of one connection may wait for their commit."""

_RETRY_SECONDS = 1
_TOUCH_SECONDS = 600
_QUIET_TYPES = ("ping", "present", "refresh")
_LONGEST_QUIET = 20_000
"""A longer message always counts as activity: parsing it only to find out would
cost too much."""

_MOST_OFFSET = 2**63 - 1
_QUIET_TEXTS = tuple(f'"{kind}"' for kind in _QUIET_TYPES)


class SessionConsumer(LimitedJsonConsumer):
    """
    One connection attached to one session, of its client or of others.

    It translates messages into calls of the node's SessionLog. Its subscriber
    decides what is sent and when.
    """

    _log: SessionLog
    _session_id: str
    _membership: Membership
    _author: str
    _subscriber: Subscriber | None = None
    _presence: SessionPresence | None = None
    _under_way: set[asyncio.Future[Committed]]

    _touched_at = 0.0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self._under_way = set()
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._presence is not None:
                self._presence.close()
                self._presence = None
            if self._subscriber is not None:
                self._log.attached.detach(self._subscriber)

    async def connect(self) -> None:
        offered = self.scope.get("subprotocols") or []
        known = [one for one in (PARTS_SUBPROTOCOL, SUBPROTOCOL) if one in offered]
        if offered and not known:
            raise Refused(close_codes.PROTOCOL_ERROR)
        try:
            session_id, claim = read_claim(self.scope)
            has_presence = asks_presence(self.scope)
        except ValueError as exc:
            raise Refused(close_codes.PROTOCOL_ERROR) from exc
        if session_id is not None and not SESSION_ID.fullmatch(session_id):
            raise Refused(close_codes.NOT_FOUND)
        self._log = get_log(self.scope["node"])
        try:
            attached = await self._log.attached.attach(
                session_id,
                claim,
                connection=self.connection.live,
                send=self._send_text,
                has_parts=PARTS_SUBPROTOCOL in known,
            )
        except SessionNotFound as exc:
            raise Refused(close_codes.NOT_FOUND) from exc
        except DatabaseUnavailable as exc:
            raise Refused(close_codes.UNAVAILABLE) from exc
        self._subscriber = attached.subscriber
        self._session_id = attached.position.session_id
        self._membership = attached.membership
        self._author = find_member(self.connection.live)
        if has_presence:
            self._presence = SessionPresence(
                self._log.typing,
                session_id=self._session_id,
                connection=self.connection.live,
                node=self.scope["node"],
                send=self.connection.send,
            )
        await self.accept(known[0] if known else None)
        await self.send_json(self._make_hello(attached))
        if self._presence is not None:
            self._presence.start()
        resumption = attached.resumption
        self.scope["node"].counters.resumes.add(resumption.outcome.value)
        try:
            await self._subscriber.start(
                resumption.position,
                mark=attached.position.mark,
                missing_to=resumption.missing_to,
                reopened=resumption.reopened,
            )
        except DatabaseUnavailable:
            # The client has its hello, and claims the same when it returns.
            self.connection.live.end(close_codes.UNAVAILABLE)

    def presence(self) -> str | None:
        """Return the room of the session if the client asks who is present."""
        return self._presence.room if self._presence is not None else None

    def is_activity(self, message: Message) -> bool:
        """Return False for heartbeats and refreshes: they keep a dead page alive."""
        text = message.get("text") or ""
        if len(text) > _LONGEST_QUIET or not any(one in text for one in _QUIET_TEXTS):
            return True
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return True
        return not isinstance(content, dict) or content.get("type") not in _QUIET_TYPES

    async def handle_message(self, content: Message) -> None:
        message_id = content.get("id")
        if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
            raise InvalidMessage(
                "invalid_message",
                "id: 12 or more of A-Z a-z 0-9 _ -, then - and a number",
            )
        if "data" not in content:
            raise InvalidMessage("invalid_message", "no data", message_id=message_id)
        if not self._may_write(message_id):
            return
        is_agent = self._membership.role is Role.AGENT
        wants_answer = content.get("answer", not is_agent)
        if not isinstance(wants_answer, bool):
            raise InvalidMessage(
                "invalid_message", "answer: true or false", message_id=message_id
            )
        while len(self._under_way) >= _MAX_UNDER_WAY:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        credential = self.connection.live.credential
        try:
            future = self._log.say(
                self._session_id,
                message_id,
                content["data"],
                self.connection.client_id,
                author=self._author,
                wants_answer=wants_answer,
                claims=credential.claims if credential is not None else None,
                metadata=content.get("metadata"),
            )
        except InvalidMessage as exc:
            raise InvalidMessage(exc.code, exc.message, message_id=message_id) from exc
        except (LogFull, TooManyStreams) as exc:
            self._answer(message_id, exc)
            return
        if self._presence is not None:
            self._presence.set_typing(is_typing=False)
        self._under_way.add(future)
        began_at = self.scope["node"].clock()
        future.add_done_callback(lambda done: self._settle(message_id, done, began_at))

    async def handle_cancel(self, content: Message) -> None:
        offset = content.get("offset")
        if (
            not isinstance(offset, int)
            or isinstance(offset, bool)
            or not 0 < offset <= _MOST_OFFSET
        ):
            raise InvalidMessage("invalid_message", "offset: a whole number")
        epoch = content.get("epoch")
        if not isinstance(epoch, str | None):
            raise InvalidMessage("invalid_message", "epoch: a text, or none")
        if epoch is None and self._subscriber is not None:
            # Clients of the previous release name none.
            epoch = self._subscriber.tail.epoch
        if not self._may_write(offset=offset):
            return
        try:
            await self._log.cancel(self._session_id, offset, epoch)
        except (StreamEnded, SessionNotFound):
            text = "nothing streams at this offset"
            self._reply_error("not_found", text, offset=offset)
        except (DatabaseUnavailable, LogFull):
            self._reply_error(
                "unavailable",
                "not cancelled; try again",
                offset=offset,
                retry=_RETRY_SECONDS,
            )

    async def handle_delete(self, content: Message) -> None:
        if self._subscriber is None:
            return
        if self._membership.role is not Role.OWNER:
            self._reply_error("forbidden", "only the owner deletes the session")
            return
        try:
            await self._log.attached.delete(
                self._session_id, self._membership.owner_id, but=self._subscriber
            )
        except DatabaseUnavailable:
            text = "whether it is deleted is unknown; try again"
            self._reply_error("unavailable", text, retry=_RETRY_SECONDS)
            return
        except SessionNotFound:
            logger.debug("The session %s was deleted before", self._session_id)
        await self.connection.send(
            json.dumps({"type": "deleted", "session": self._session_id})
        )
        self.connection.live.end(close_codes.NOT_FOUND)

    async def handle_present(self, content: Message) -> None:
        presence = self._require_presence()
        await self.connection.send(json.dumps(await presence.describe()))

    async def handle_typing(self, content: Message) -> None:
        is_typing = content.get("active")
        if not isinstance(is_typing, bool):
            raise InvalidMessage("invalid_message", "active: true or false")
        presence = self._require_presence()
        if self._may_write():
            presence.set_typing(is_typing=is_typing)

    def _may_write(
        self, message_id: str | None = None, *, offset: int | None = None
    ) -> bool:
        """Return whether the role allows to write; if not, tell the client."""
        role = self._membership.role
        if role is not None and role.may_write:
            return True
        text = f"the role {role} may read this session, and not write in it"
        self._reply_error("forbidden", text, message_id, offset=offset)
        return False

    def _require_presence(self) -> SessionPresence:
        """
        Return the presence of this connection.

        Raises:
            InvalidMessage: the client has not asked for it.
        """
        if self._presence is None:
            raise InvalidMessage("invalid_message", "attach with ?presence=1")
        return self._presence

    async def handle_ping(self, content: Message) -> None:
        if self._subscriber and not self._subscriber.tail.last_offset:
            self._keep_empty()
        offset = self._subscriber.tail.last_offset if self._subscriber else 0
        pong = {"type": "pong", "t": content.get("t"), "offset": offset}
        # send_json() would count as activity.
        await self.connection.send(json.dumps(pong))

    def _keep_empty(self) -> None:
        """Keep a session without entries, which is deleted if unseen for an hour."""
        now = self.scope["node"].clock()
        if now - self._touched_at > _TOUCH_SECONDS:
            self._touched_at = now
            self._log.touch(self._session_id)

    def _settle(
        self, message_id: str, done: asyncio.Future[Committed], began_at: float
    ) -> None:
        """Send the client the result of its message."""
        self._under_way.discard(done)
        if done.cancelled():
            return
        exc = done.exception()
        if exc is not None:
            self._answer(message_id, exc)
        elif self._subscriber is not None:
            offset = done.result().offset
            # The characters of an id need no escapes.
            self._subscriber.reply(
                f'{{"type":"ack","id":"{message_id}","offset":{offset}}}'
            )
            node = self.scope["node"]
            node.counters.acks.observe(node.clock() - began_at)

    def _answer(self, message_id: str, exc: BaseException) -> None:
        """Send the client the reason why its message was not appended."""
        if isinstance(exc, KeyReused):
            text = "this id was used before, with other data"
            self._reply_error("invalid_message", text, message_id)
        elif isinstance(exc, StorageFull):
            text = "the storage of this client is full: delete a session"
            self._reply_error("storage_full", text, message_id)
        elif isinstance(exc, TooManySessions):
            text = "this client has as many sessions as allowed: delete one"
            end = close_codes.SESSIONS_FULL
            self._reply_error("sessions_full", text, message_id, ends_with=end)
        elif isinstance(exc, TooManyStreams):
            text = "too many answers are under way"
            self._reply_error("rate_limited", text, message_id, retry=_RETRY_SECONDS)
        elif isinstance(exc, LogFull | DatabaseUnavailable):
            text = "not recorded, as far as is known; send it again"
            self._reply_error("unavailable", text, message_id, retry=_RETRY_SECONDS)
        elif isinstance(exc, SessionNotFound):
            text, end = "the session is gone", close_codes.NOT_FOUND
            self._reply_error("not_found", text, message_id, ends_with=end)
        else:
            self._reply_error("internal", "this cannot be stored", message_id)

    def _reply_error(
        self,
        code: str,
        message: str,
        message_id: str | None = None,
        *,
        offset: int | None = None,
        retry: float | None = None,
        ends_with: close_codes.CloseReason | None = None,
    ) -> None:
        if self._subscriber is None:
            return
        error = {
            "type": "error",
            "code": code,
            "message": message,
            "id": message_id,
            "ref": None,
            "retry_after_seconds": retry,
        }
        if offset is not None:
            error["offset"] = offset
        self._subscriber.reply(json.dumps(error), ends_with=ends_with)

    def _make_hello(self, attached: Attached) -> Message:
        config = self.scope["node"].config
        limits = self.connection.limits
        resumption, position = attached.resumption, attached.position
        hello = {
            "type": "hello",
            "connection": self.connection.id,
            "session": position.session_id,
            "epoch": position.epoch,
            "offset": position.last_offset,
            "chain": str(position.mark) if position.mark else None,
            "outcome": resumption.outcome.value,
            "gap": list(resumption.gap) if resumption.gap else None,
            "role": self._membership.role,
            "author": self._author,
            "history_limit": config.max_session_history,
            "limits": {
                "max_message_size": limits.max_message_size,
                "messages_per_second": limits.messages_per_second,
                "burst_messages": limits.burst_messages,
                "bytes_per_second": limits.bytes_per_second,
                "burst_bytes": limits.burst_bytes,
                "max_open_streams": config.sessions.max_open_streams,
            },
            "heartbeat_seconds": config.ping_interval_seconds,
            "idle_timeout_seconds": limits.idle_timeout_seconds,
        }
        if self._presence is not None:
            hello["member"] = self._presence.member
        return hello

    async def _send_text(self, text: str) -> None:
        await self.send(text_data=text)
