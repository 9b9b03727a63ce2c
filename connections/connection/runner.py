"""The life of one connection, from its handshake to the last of its cleanup."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from channels.db import aclose_old_connections
from channels.exceptions import StopConsumer
from django.db import Error as DatabaseError

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.close_codes import CloseReason
from connections.connection.channel import ConnectionChannel
from connections.connection.compat import get_handler_name
from connections.connection.error_budget import ErrorBudget
from connections.connection.lock import FifoLock
from connections.connection.rate_limiter import RateLimiter, Verdict
from connections.connection.scope import connection_from_scope, read_replaces
from connections.connection.sender import AsgiSender, State, measure
from connections.credentials.requirements import Requirements
from connections.exceptions import ConnectionEnded, InvalidMessage, Refused
from connections.hub.connection import CLOSED_SENDER
from connections.limits import Limits
from connections.logs import set_connection
from connections.net.redaction import conceal
from connections.node.node import Node
from connections.node.recorder import describe_error

logger = logging.getLogger(__name__)

_NOTHING: Message = {}

_DENSE_BYTES = 4096
"""What is smaller holds too few values to matter."""

_DISCONNECT_SECONDS = 1
"""How long disconnect() may take after a consumer was aborted."""

# A member of an enumeration costs a look-up in its class each time.
_OPEN, _PASS = State.OPEN, Verdict.PASS


class Consumer(Protocol):
    """What a life asks of its consumer."""

    is_json: bool
    permission_required: str | Sequence[str]
    groups_required: str | Sequence[str]
    channel_layer: Any

    def dispatch(self, message: Message) -> Awaitable[None]:
        """Handle one event; from the client, the server or the channel layer."""

    def is_activity(self, message: Message) -> bool:
        """Tell whether a client's message keeps the connection from being idle."""

    def get_client_id(self, scope: Message) -> str | None:
        """Return who the connection belongs to."""


class ConnectionRunner:
    """
    Owns one connection: its events in order, its limits, its end.

    Handlers run one at a time, in turns, whether the event came from the client or over
    the channel layer. No task is made per message. Whatever happens, run()
    gives back what the connection holds.
    """

    __slots__ = (
        "_consumer",
        "_errors",
        "_is_stopped",
        "_lock",
        "_max_message_size",
        "_node",
        "_rate",
        "_receive",
        "_scope",
        "_task",
        "channel",
        "connection",
        "sender",
    )

    def __init__(
        self,
        consumer: Consumer,
        scope: Message,
        receive: Receive,
        send: Send,
        *,
        node: Node,
        limits: Limits,
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a consumer runs in a task of an event loop")
        self._consumer = consumer
        self._node = node
        self._receive = receive
        self._scope = scope
        self._task = task
        self._lock = FifoLock()
        self._is_stopped = False
        self._max_message_size = limits.max_message_size
        self._rate = RateLimiter(
            messages_per_second=limits.messages_per_second,
            burst_messages=limits.burst_messages,
            bytes_per_second=limits.bytes_per_second,
            burst_bytes=limits.burst_bytes,
            tolerance_seconds=node.config.rate_limit.tolerance_seconds,
            clock=node.clock,
        )
        errors = node.config.errors
        self._errors = ErrorBudget(errors.budget, errors.window_seconds, node.clock)
        self.sender = AsgiSender(
            node=node,
            scope=scope,
            send=send,
            task=task,
            is_json=consumer.is_json,
            replaces=read_replaces(scope),
        )
        client_id = consumer.get_client_id(scope)
        self.connection = connection_from_scope(
            scope, client_id, node, self.sender, limits
        )
        self.connection.requirements = Requirements.read(
            consumer.permission_required, consumer.groups_required
        )
        self.sender.connection = self.connection
        set_connection(self.connection)
        self.channel: ConnectionChannel | None = None
        if consumer.channel_layer is not None:
            self.channel = ConnectionChannel(consumer.channel_layer, self._deliver)

    async def run(self) -> None:
        """Serve the connection until it has ended."""
        code: int | None = None
        self._node.counters.consumers += 1
        try:
            if self.channel is not None:
                await self.channel.name_channel()
            code = await self._converse()
        except StopConsumer:
            await self.sender.hang_up()
        except asyncio.CancelledError:
            if self.sender.is_aborted:
                self._task.uncancel()
                await self._disconnect_aborted()
            elif self._is_stopped:
                self._task.uncancel()
                await self.sender.hang_up()
            else:
                raise
        finally:
            if self.channel is not None:
                self.channel.close()
            self.sender.leave(code)
            self._account(code)
            # Two circles less for the garbage collector.
            self.connection.sender = CLOSED_SENDER
            del self._consumer

    def _account(self, code: int | None) -> None:
        """Say that the consumer has returned, and what should go with it."""
        node, connection = self._node, self.connection
        node.counters.record_returned(connection.connection_id)
        close_reason = connection.close_reason
        node.leaks.follow(
            connection.connection_id,
            close_reason.reason if close_reason else close_codes.get_reason(code),
            self._consumer,
            connection,
            connection.transport,
        )

    async def _converse(self) -> int:
        """Handle events until the client has gone; return the close code."""
        connection, sender, clock = self.connection, self.sender, self._node.clock
        lock, record_handled = self._lock, self._node.counters.handling.observe
        while True:
            # The last one may be large, and the next may be long in coming.
            message = _NOTHING
            message = await self._receive()
            kind = message["type"]
            if kind == "websocket.receive":
                verdict = self._check(message)
                if verdict is not _PASS:
                    await self._refuse(message, verdict)
                    continue
                try:
                    is_activity = self._consumer.is_activity(message)
                except Exception as exc:
                    await self._contain(exc)
                    continue
                began_at = clock()
                if is_activity:
                    connection.last_activity = began_at
                if not lock.acquire_nowait():
                    await lock.acquire()
                try:
                    await self._handle(message)
                finally:
                    lock.release()
                ended_at = clock()
                if is_activity:
                    connection.last_activity = ended_at
                record_handled(ended_at - began_at)
            elif kind == "websocket.disconnect":
                code: int = message.get("code") or 1005
                # The socket is gone: its slot is free before disconnect() runs,
                # however long that takes.
                sender.leave(code)
                await self._handle_locked({**message, "code": code})
                return code
            elif kind == "websocket.connect":
                await self._connect(message)
            else:
                await self._handle_locked(message)

    def _check(self, message: Message) -> Verdict:
        """Hold one message from the client against size and rate."""
        connection = self.connection
        if self.sender.state is not _OPEN:
            return Verdict.IGNORE
        size_bytes = measure(message)
        connection.messages_in += 1
        connection.bytes_in += size_bytes
        if size_bytes > self._max_message_size:
            connection.end(close_codes.MESSAGE_TOO_BIG)
            return Verdict.IGNORE
        return self._rate.check(self._weigh(message, size_bytes))

    def _weigh(self, message: Message, size_bytes: int) -> int:
        """Return what a message counts for: more where JSON takes long to parse."""
        if size_bytes < _DENSE_BYTES or not self._consumer.is_json:
            return size_bytes
        return self._rate.weigh(message.get("text") or "", size_bytes)

    async def _refuse(self, message: Message, verdict: Verdict) -> None:
        """Say that a message was dropped, or end the connection for it."""
        if verdict is Verdict.IGNORE:
            return
        self.connection.limited_at = self._node.clock()
        self.connection.flight.record("rate_limited")
        self._node.counters.rate_limited += 1
        if verdict is Verdict.CLOSE:
            self.connection.end(close_codes.RATE_LIMITED)
            return
        weight = self._weigh(message, measure(message))
        retry_after_seconds = self._rate.retry_after_seconds(weight)
        await self._send_error(
            "rate_limited",
            "too many messages; this one was dropped",
            retry_after_seconds=round(retry_after_seconds, 3),
        )

    async def _connect(self, message: Message) -> None:
        """Let the consumer accept or deny; one that fails is refused."""
        if not self._lock.acquire_nowait():
            await self._lock.acquire()
        try:
            await self._node.reauthoriser.require(self.connection)
            await self._consumer.dispatch(message)
        except (StopConsumer, asyncio.CancelledError):
            raise
        except ConnectionEnded:
            return
        except Refused as exc:
            await self.sender.refuse(exc.close_reason)
        except Exception as exc:
            error_id = await self._record_error(exc)
            if self.sender.state is State.CONNECTING:
                await self.sender.refuse(close_codes.INTERNAL_ERROR, ref=error_id)
            else:
                self.connection.end(close_codes.INTERNAL_ERROR, ref=error_id)
        finally:
            self._lock.release()

    async def _handle_locked(self, message: Message) -> None:
        if not self._lock.acquire_nowait():
            await self._lock.acquire()
        try:
            await self._handle(message)
        finally:
            self._lock.release()

    async def _handle(self, message: Message) -> None:
        """Have one event handled; what the handler raises stays here."""
        connection = self.connection
        connection.busy_count += 1
        try:
            await self._consumer.dispatch(message)
        except (StopConsumer, asyncio.CancelledError):
            raise
        except ConnectionEnded:
            return
        except InvalidMessage as exc:
            connection.errors += 1
            connection.flight.record("message_refused", exc.code)
            self._node.counters.errors.add(exc.code)
            await self._send_error(exc.code, exc.message, message_id=exc.message_id)
            self._spend(close_codes.PROTOCOL_ERROR, None)
        except Exception as exc:
            await self._contain(exc)
        finally:
            connection.busy_count -= 1

    async def _contain(self, exc: Exception) -> None:
        """Have an exception cost an error, and not the connection."""
        error_id = await self._record_error(exc)
        await self._send_error(
            "internal", "an error on our side; it is recorded", ref=error_id
        )
        self._spend(close_codes.INTERNAL_ERROR, error_id)

    async def _deliver(self, message: Message) -> None:
        """Hand on an event from the channel layer."""
        try:
            name = get_handler_name(message)
        except (ValueError, AttributeError, TypeError):
            name = ""
        if not hasattr(self._consumer, name or "-"):
            # One wrong group_send must not end every member's connection.
            logger.warning(
                "A layer message of type %.64r was ignored: no method for it",
                message.get("type"),
                extra={"event": "layer_message_ignored"},
            )
            return
        try:
            await self._handle_locked(message)
        except StopConsumer:
            self._is_stopped = True
            self._task.cancel()

    async def _disconnect_aborted(self) -> None:
        """Let the consumer of an aborted connection clean up, briefly."""
        close_reason = self.connection.close_reason or close_codes.NETWORK
        try:
            async with asyncio.timeout(_DISCONNECT_SECONDS):
                await self._handle(
                    {"type": "websocket.disconnect", "code": close_reason.code}
                )
        except (StopConsumer, TimeoutError):
            return

    async def _record_error(self, exc: Exception) -> str:
        """Log and record an exception; return the id under which it is found."""
        connection = self.connection
        connection.errors += 1
        self._node.counters.errors.add("internal")
        error = describe_error(exc, connection, self._scope)
        connection.flight.record("handler_failed", error.error_id)
        logger.error(
            "A handler failed (error %s, connection %s): %s",
            error.error_id,
            connection.connection_id,
            error.exception_class,
            exc_info=conceal(exc, self._scope),
            extra={
                "event": "handler_failed",
                "connection_id": connection.connection_id,
                "error_id": error.error_id,
            },
        )
        if self._node.recorder is not None:
            self._node.recorder.record_error(error)
        if isinstance(exc, DatabaseError):
            await aclose_old_connections()
        return error.error_id

    def _spend(self, close_reason: CloseReason, ref: str | None) -> None:
        """Charge an error to the budget; whose fault the last one was decides."""
        if not self._errors.spend():
            self.connection.end(close_reason, ref=ref)

    async def _send_error(
        self,
        code: str,
        message: str,
        *,
        message_id: str | None = None,
        ref: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        await self.sender.send_json(
            {
                "type": "error",
                "code": code,
                "message": message,
                "id": message_id,
                "ref": ref,
                "retry_after_seconds": retry_after_seconds,
            }
        )
