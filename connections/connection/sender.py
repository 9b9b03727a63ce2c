"""Send to one client: the accept that takes a slot, messages, and the close."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from connections import close_codes
from connections.asgi import Message, Send
from connections.close_codes import CloseReason
from connections.connection.events import check_close, complete_accept, measure
from connections.connection.look_ahead import LookAhead
from connections.connection.presence import ConnectionPresence
from connections.connection.stage import MOVES, Stage
from connections.exceptions import (
    ClientFull,
    ConnectionEnded,
    PoolFull,
    PoolUnavailable,
    Refused,
)
from connections.hub.connection import LiveConnection
from connections.layers.prepared_message import PreparedMessage
from connections.node.node import Node

logger = logging.getLogger(__name__)

_REFUSED_LINGER_SECONDS = 1

# Reading a member of an enumeration costs a look-up in its class each time.
_CONNECTING, _OPEN = Stage.CONNECTING, Stage.OPEN


class AsgiSender:
    """
    Sends for one connection, between its consumer and the server.

    All messages of the consumer pass transmit(); every end from outside passes
    end(). It alone changes the stage of the connection, in _move().
    """

    __slots__ = (
        "_abort_timer",
        "_ahead",
        "_is_announced",
        "_is_json",
        "_node",
        "_replaces",
        "_scope",
        "_send",
        "_task",
        "connection",
        "presence",
        "stage",
    )

    connection: LiveConnection
    presence: ConnectionPresence | None

    def __init__(
        self,
        *,
        node: Node,
        scope: Message,
        send: Send,
        task: asyncio.Task[Any],
        is_json: bool,
        replaces: str | None,
        ahead: LookAhead | None = None,
    ) -> None:
        self.stage = Stage.CONNECTING
        self.presence = None
        self._node = node
        self._scope = scope
        self._send = send
        self._task = task
        self._is_json = is_json
        self._replaces = replaces
        self._ahead = ahead
        self._is_announced = False
        self._abort_timer: asyncio.TimerHandle | None = None

    async def transmit(self, message: Message) -> None:
        """
        Pass a consumer's message on to the server.

        A message after the end is dropped: the consumer may not know of it yet.

        Raises:
            ConnectionEnded: the message is an accept, and there is no slot.
        """
        kind = message["type"]
        if kind == "websocket.send":
            stage = self.stage
            size_bytes = measure(message)
            if stage is _OPEN:
                connection = self.connection
                connection.messages_out += 1
                connection.bytes_out += size_bytes
                connection.sizes_out[(size_bytes - 1).bit_length()] += 1
                connection.last_activity = self._node.clock()
            elif stage is not _CONNECTING:
                # A handler that sends in a loop must not block the event loop.
                await asyncio.sleep(0)
                return
            try:
                await self._send(message)
            except (OSError, RuntimeError) as exc:
                self._ignore_lost_client(exc)
                await asyncio.sleep(0)
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            await self._close(message)
        else:
            await self._send(message)

    def send_prepared(self, message: PreparedMessage) -> bool:
        """Send a message of a broadcast at once; return False if it must wait."""
        connection = self.connection
        transport = connection.transport
        if self.stage is not _OPEN or transport is None:
            return False
        if not transport.send_prepared(message):
            return False
        connection.messages_out += 1
        connection.bytes_out += message.size_bytes
        connection.sizes_out[(message.size_bytes - 1).bit_length()] += 1
        connection.last_activity = self._node.clock()
        return True

    async def send_json(self, content: Message) -> None:
        """Send a JSON message of Orchestra's own; other consumers get none."""
        if self._is_json and self.stage is _OPEN:
            await self._pass_on({"type": "websocket.send", "text": json.dumps(content)})

    async def send_error(
        self,
        code: str,
        message: str,
        *,
        message_id: str | None = None,
        ref: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Send a JSON client an `error` message."""
        await self.send_json(
            {
                "type": "error",
                "code": code,
                "message": message,
                "id": message_id,
                "ref": ref,
                "retry_after_seconds": retry_after_seconds,
            }
        )

    async def send_own(self, message: Message) -> None:
        """Send an ASGI event that is neither counted nor activity."""
        if self.stage is _OPEN:
            await self._pass_on(message)

    async def refuse(
        self,
        close_reason: CloseReason,
        message: Message | None = None,
        *,
        ref: str | None = None,
    ) -> None:
        """
        Accept without a slot, and close with a reason; `message` is a checked accept.

        A close before the accept gives a browser no reason, and it would retry
        without end.
        """
        if self.stage is not _CONNECTING:
            return
        self.connection.close_reason = close_reason
        self._count_outcome(close_reason.reason)
        self._move(Stage.CLOSING)
        self._abort_after(_REFUSED_LINGER_SECONDS)
        accept = message or self._complete({"type": "websocket.accept"})
        await self._send(accept)
        await self._send_close(close_reason, ref, None)

    async def hang_up(self) -> None:
        """Close the connection of a consumer that stopped without closing it."""
        await self._close({"type": "websocket.close"})

    async def stop(self) -> None:
        """Close for a consumer that stopped in another task, and cancel its own."""
        await self.hang_up()
        if self._move(Stage.STOPPED):
            self._task.cancel()

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        if self.stage is not _OPEN:
            # While it is connecting, _accept() reads connection.close_reason.
            return
        self._move(Stage.CLOSING)
        self._abort_after(self._node.config.evict_grace_seconds)
        close = self._send_close(close_reason, ref, after_ms)
        self._node.hub.sending.start(close, "send a close frame")

    def announce(self, close_reason: CloseReason, after_ms: int) -> None:
        if self._is_announced:
            return
        bye = close_reason.bye(self.connection.connection_id, after_ms)
        if self.send(bye):
            self._is_announced = True
            self.connection.flight.record("end_announced", f"{after_ms} ms")

    def send(self, content: Message) -> bool:
        if not self._is_json or self.stage is not _OPEN:
            return False
        self._node.hub.sending.start(self.send_json(content), "send a message")
        return True

    def abort(self) -> None:
        """
        Drop the socket and cancel the consumer's task.

        With Orchestra's own server the TCP connection is gone at once. Other
        servers close it after the task of the consumer has ended.
        """
        if not self._move(Stage.ABORTED):
            return
        self.connection.flight.record("aborted")
        self._drop()
        self._task.cancel()

    def _drop(self) -> None:
        """Drop the socket, and leave the node."""
        transport = self.connection.transport
        if transport is not None:
            transport.abort()
        close_reason = self.connection.close_reason
        if close_reason is not None:
            self._node.leave(self.connection, close_reason.code, close_reason.reason)

    def leave(self, code: int | None) -> None:
        """Release what the connection holds, and record the reason of its end."""
        was_connecting = self.stage is _CONNECTING
        if not self._move(Stage.CLOSED):
            return
        if was_connecting and self.connection.connection_id not in self._node.hub:
            self._count_outcome("unanswered")
        # A cancelled task keeps a traceback that refers to the consumer.
        del self._task
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

    def _move(self, stage: Stage) -> bool:
        """Move to a stage; return False where the life cycle does not allow it."""
        if stage not in MOVES[self.stage]:
            return False
        self.stage = stage
        return True

    async def _accept(self, message: Message) -> None:
        if self.stage is not _CONNECTING:
            await self._send(message)
            return
        message = self._complete(message)
        connection = self.connection
        if self._node.is_draining:
            await self._refuse_accept(close_codes.DRAINING, message)
        try:
            rooms = await self.presence.read() if self.presence else ()
        except Refused as exc:
            await self._refuse_accept(exc.close_reason, message, exc)
        if await self._has_left():
            # A slot for it could evict the connection with which the client is back.
            raise ConnectionEnded(close_codes.NETWORK)
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
            await self._send(message)
        except OSError as exc:
            # The client has gone. Orchestra's own server raises nothing then.
            raise ConnectionEnded(close_codes.NETWORK) from exc
        if not self._move(Stage.OPEN):
            raise ConnectionEnded(connection.close_reason or close_codes.NETWORK)
        if connection.close_reason is not None:
            # The end was requested after the slot was taken.
            self.end(connection.close_reason, None, None)
            raise ConnectionEnded(connection.close_reason)
        if self.presence is not None:
            self.presence.join(rooms)

    async def _has_left(self) -> bool:
        """Return True if no accept reaches the client, as far as the server tells."""
        if self.connection.transport is not None:
            return self.connection.transport.has_left
        return self._ahead is not None and await self._ahead.has_left()

    async def _refuse_accept(
        self,
        close_reason: CloseReason,
        message: Message,
        cause: Exception | None = None,
    ) -> None:
        await self.refuse(close_reason, message)
        raise ConnectionEnded(close_reason) from cause

    def _complete(self, accept: Message) -> Message:
        message = complete_accept(accept, self._scope, self.connection.connection_id)
        compression = self.connection.limits.compression
        if compression is not self._node.config.compression.enabled:
            message["compression"] = compression
        return message

    async def _close(self, message: Message) -> None:
        """
        Close for a consumer, with its own code and reason; before an accept, deny.

        Raises:
            TypeError, ValueError: as check_close(). The connection ends with 4500,
                because the consumer does not want it any longer.
        """
        if self.stage is _OPEN:
            try:
                code, text = check_close(message)
            except (TypeError, ValueError):
                self.connection.end(close_codes.INTERNAL_ERROR)
                raise
            message = {**message, "reason": text} if text else message
            is_plain = code == close_codes.CLOSED.code
            reason = close_codes.CLOSED.reason if is_plain else close_codes.APPLICATION
            never = close_codes.Reconnect.NEVER
            self.connection.close_reason = CloseReason(
                code=code, reason=reason, reconnect=never
            )
            self.connection.flight.record("closed_by_consumer", str(code))
        elif self.stage is _CONNECTING:
            self._count_outcome("denied")
        else:
            return
        self._move(Stage.CLOSING)
        self._schedule(self._node.config.evict_grace_seconds, self._abort_when_idle)
        await self._pass_on(message)

    def _abort_when_idle(self) -> None:
        """
        Abort after the consumer's own close, but let its handler finish.

        The slot is released in any case.
        """
        if not self.connection.busy_count:
            self.abort()
            return
        self._drop()
        self._schedule(self._node.config.evict_grace_seconds, self._abort_when_idle)

    def _count_outcome(self, outcome: str) -> None:
        """Count a handshake that does not become a connection."""
        one = self.connection
        self._node.counters.record_outcome(one.route, outcome)
        self._node.top.record_refused(one.client_id, one.address, one.route)

    async def _send_close(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        """Send `bye`, unless it was announced before, and the close frame."""
        if self._is_json and not self._is_announced:
            # Staff find the connection and its flight record by this id.
            bye = close_reason.bye(ref or self.connection.connection_id, after_ms)
            text = json.dumps(bye)
            await self._pass_on({"type": "websocket.send", "text": text})
        close = {"code": close_reason.code, "reason": close_reason.reason}
        await self._pass_on({"type": "websocket.close", **close})

    async def _pass_on(self, message: Message) -> None:
        try:
            await self._send(message)
        except (OSError, RuntimeError) as exc:
            self._ignore_lost_client(exc)

    def _ignore_lost_client(self, exc: Exception) -> None:
        """Ignore a failed send after the accept: servers raise it in several ways."""
        if self.stage is _CONNECTING:
            raise exc
        logger.debug(
            "A message to %s was not sent, its client has gone: %s",
            self.connection.connection_id,
            exc,
        )

    def _abort_after(self, seconds: float) -> None:
        self._schedule(seconds, self.abort)

    def _schedule(self, seconds: float, action: Callable[[], None]) -> None:
        """Replace the timer that ends a connection whose client does not leave."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._abort_timer = asyncio.get_running_loop().call_later(seconds, action)
