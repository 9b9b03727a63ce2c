"""What leaves for one client: the accept that takes a slot, messages, the end."""

import asyncio
import json
import logging
from enum import Enum
from typing import Any

from connections import close_codes
from connections.asgi import Message, Send
from connections.close_codes import CloseReason
from connections.exceptions import (
    ClientFull,
    ConnectionEnded,
    PoolFull,
    PoolUnavailable,
    Refused,
)
from connections.hub.connection import LiveConnection
from connections.node.node import Node

logger = logging.getLogger(__name__)

_REFUSED_LINGER_SECONDS = 1


class State(Enum):
    """How far a connection has come."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"


# A member of an enumeration costs a look-up in its class each time.
_OPEN, _CLOSING = State.OPEN, State.CLOSING


class AsgiSender:
    """
    The sending side of one connection, between its consumer and the server.

    Everything a consumer sends passes transmit(); everything that ends the
    connection from outside passes end().
    """

    __slots__ = (
        "_abort_timer",
        "_announced",
        "_farewell",
        "_is_json",
        "_node",
        "_replaces",
        "_scope",
        "_send",
        "_task",
        "_told",
        "connection",
        "has_left",
        "is_aborted",
        "state",
    )

    connection: LiveConnection

    def __init__(
        self,
        *,
        node: Node,
        scope: Message,
        send: Send,
        task: asyncio.Task[Any],
        is_json: bool,
        replaces: str | None,
    ) -> None:
        self.state = State.CONNECTING
        self.is_aborted = False
        self.has_left = False
        self._node = node
        self._scope = scope
        self._send = send
        self._task = task
        self._is_json = is_json
        self._replaces = replaces
        self._announced = False
        self._abort_timer: asyncio.TimerHandle | None = None
        self._farewell: asyncio.Task[None] | None = None
        self._told: asyncio.Task[None] | None = None

    async def transmit(self, message: Message) -> None:
        """
        Pass a consumer's message on to the server.

        After the end it is ignored: the consumer may not have noticed yet.

        Raises:
            ConnectionEnded: it is an accept, and there is no slot.
        """
        kind = message["type"]
        if kind == "websocket.send":
            if self.state is _CLOSING:
                # A handler that goes on sending holds nobody up.
                await asyncio.sleep(0)
                return
            if self.state is _OPEN:
                connection = self.connection
                connection.messages_out += 1
                connection.bytes_out += measure(message)
                connection.last_activity = self._node.clock()
            try:
                await self._send(message)
            except (OSError, RuntimeError) as exc:
                self._excuse(exc)
                await asyncio.sleep(0)
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            await self._close(message)
        else:
            await self._send(message)

    async def send_json(self, content: Message) -> None:
        """Send a message of our own on a JSON consumer; it is no activity."""
        if self._is_json and self.state is State.OPEN:
            await self._pass_on({"type": "websocket.send", "text": json.dumps(content)})

    async def send_own(self, message: Message) -> None:
        """Send an ASGI event that neither counts nor is activity."""
        if self.state is State.OPEN:
            await self._pass_on(message)

    async def refuse(
        self,
        close_reason: CloseReason,
        message: Message | None = None,
        *,
        ref: str | None = None,
    ) -> None:
        """
        Accept without a slot, only to say why the connection ends.

        Before the accept a browser would learn nothing, and try for ever.
        """
        if self.state is not State.CONNECTING:
            return
        self.connection.close_reason = close_reason
        self._answer(close_reason.reason)
        await self._send(self._complete_accept(message or {"type": "websocket.accept"}))
        await self._say_goodbye(close_reason, ref, None)
        self._abort_after(_REFUSED_LINGER_SECONDS)

    async def hang_up(self) -> None:
        """Close what the consumer left behind open when it stopped."""
        if not self.has_left:
            await self._close({"type": "websocket.close"})

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        if self.state is not State.OPEN:
            return  # Before the accept frame: _accept() looks at connection.ending.
        self.state = State.CLOSING
        self._abort_after(self._node.config.evict_grace_seconds)
        farewell = self._say_goodbye(close_reason, ref, after_ms)
        self._farewell = asyncio.create_task(farewell)

    def announce(self, close_reason: CloseReason, after_ms: int) -> None:
        if self._is_json and self.state is State.OPEN and not self._announced:
            self._announced = True
            self.connection.flight.record("end_announced", f"{after_ms} ms")
            bye = close_reason.bye(self.connection.connection_id, after_ms)
            self._farewell = asyncio.create_task(self.send_json(bye))

    def send(self, content: Message) -> bool:
        if not self._is_json or self.state is not State.OPEN:
            return False
        self._told = asyncio.create_task(self.send_json(content))
        return True

    def abort(self) -> None:
        """
        Drop the socket and stop the consumer.

        With our own server the TCP connection is gone at once. Elsewhere the
        consumer is cancelled, and the server closes what has no consumer.
        """
        if self.is_aborted:
            return
        self.is_aborted = True
        self.connection.flight.record("aborted")
        self.state = State.CLOSING
        transport = self.connection.transport
        if transport is not None:
            transport.abort()
        close_reason = self.connection.close_reason
        if close_reason is not None:
            self._node.leave(self.connection, close_reason.code, close_reason.reason)
        self._task.cancel()

    def leave(self, code: int | None) -> None:
        """Give back what the connection holds, recorded with the true reason."""
        if self.has_left:
            return
        self.has_left = True
        is_known = self._node.hub.get(self.connection.connection_id) is not None
        if self.state is State.CONNECTING and not is_known:
            self._answer("unanswered")
        self.state = State.CLOSING
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        transport = self.connection.transport
        close_reason = self.connection.close_reason or (
            transport and transport.close_reason
        )
        if close_reason:
            self._node.leave(self.connection, close_reason.code, close_reason.reason)
        else:
            reason = close_codes.get_reason(code)
            self._node.leave(self.connection, code, reason)

    async def _accept(self, message: Message) -> None:
        if self.state is not State.CONNECTING:
            await self._send(message)
            return
        connection = self.connection
        if self._node.is_draining:
            await self._refuse_accept(close_codes.DRAINING, message)
        connection.mark_opened(self._node.clock())
        try:
            await self._node.admit(connection, self._replaces)
        except Refused as exc:
            await self._refuse_accept(exc.close_reason, message, exc)
        except PoolFull as exc:
            await self._refuse_accept(close_codes.POOL_FULL, message, exc)
        except ClientFull as exc:
            await self._refuse_accept(close_codes.CLIENT_FULL, message, exc)
        except PoolUnavailable as exc:
            await self._refuse_accept(close_codes.UNAVAILABLE, message, exc)
        try:
            await self._send(self._complete_accept(message))
        except OSError as exc:
            # The client has gone; our own server ignores what comes then.
            raise ConnectionEnded(close_codes.NETWORK) from exc
        if self.has_left or self.is_aborted:
            raise ConnectionEnded(connection.close_reason or close_codes.NETWORK)
        self.state = State.OPEN
        if connection.close_reason is not None:
            # Asked to end between taking the slot and the accept frame.
            self.end(connection.close_reason, None, None)
            raise ConnectionEnded(connection.close_reason)

    async def _refuse_accept(
        self,
        close_reason: CloseReason,
        message: Message,
        cause: Exception | None = None,
    ) -> None:
        await self.refuse(close_reason, message)
        raise ConnectionEnded(close_reason) from cause

    def _complete_accept(self, message: Message) -> Message:
        """Add what the protocol promises where our middleware is in front."""
        if "node" not in self._scope:
            return message
        offered = self._scope.get("subprotocols") or []
        connection_id = self.connection.connection_id.encode()
        return {
            **message,
            # A browser fails the connection when it offered some and gets none.
            "subprotocol": message.get("subprotocol") or next(iter(offered), None),
            "headers": [
                *message.get("headers", ()),
                (b"x-connection-id", connection_id),
            ],
        }

    async def _close(self, message: Message) -> None:
        """Let a consumer close by itself, with a code and reason of its own."""
        if self.state is State.CLOSING:
            return
        if self.state is State.OPEN:
            code = message.get("code") or close_codes.CLOSED.code
            is_plain = code == close_codes.CLOSED.code
            reason = close_codes.CLOSED.reason if is_plain else close_codes.APPLICATION
            never = close_codes.Reconnect.NEVER
            self.connection.close_reason = CloseReason(
                code=code, reason=reason, reconnect=never
            )
            self.connection.flight.record("closed_by_consumer", str(code))
        else:
            self._answer("denied")
        self.state = State.CLOSING
        await self._pass_on(message)

    def _answer(self, outcome: str) -> None:
        """Count a handshake that does not become a connection."""
        self.state = State.CLOSING
        self._node.counters.record_outcome(self.connection.route, outcome)

    async def _say_goodbye(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        """Send `bye`, where it was not announced before, and the close frame."""
        if self._is_json and not self._announced:
            # Whatever is quoted finds the connection, and what it went through.
            bye = close_reason.bye(ref or self.connection.connection_id, after_ms)
            text = json.dumps(bye)
            await self._pass_on({"type": "websocket.send", "text": text})
        close = {"code": close_reason.code, "reason": close_reason.reason}
        await self._pass_on({"type": "websocket.close", **close})

    async def _pass_on(self, message: Message) -> None:
        try:
            await self._send(message)
        except (OSError, RuntimeError) as exc:
            self._excuse(exc)

    def _excuse(self, exc: Exception) -> None:
        """Take it that the client has gone: servers say so in different ways."""
        if self.state is State.CONNECTING:
            raise exc
        logger.debug(
            "Not sent to %s, which has gone: %s", self.connection.connection_id, exc
        )

    def _abort_after(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._abort_timer = loop.call_later(seconds, self.abort)


def measure(message: Message) -> int:
    """Return the bytes of a message's payload; text counts as UTF-8."""
    text: str | None = message.get("text")
    if text is None:
        return len(message.get("bytes") or b"")
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
