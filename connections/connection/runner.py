"""Run one connection, from its handshake to the last of its cleanup."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

from channels.exceptions import StopConsumer

from connections import close_codes
from connections.asgi import TRANSPORT, Message, Receive, Send, get_extension
from connections.close_codes import CloseReason
from connections.connection.additions import find_added
from connections.connection.channel import ConnectionChannel
from connections.connection.error_budget import ErrorBudget
from connections.connection.failures import FAILURES, ends_task, record_error
from connections.connection.layer_messages import is_presence, is_reserved
from connections.connection.lock import FifoLock
from connections.connection.look_ahead import LookAhead
from connections.connection.presence import ConnectionPresence
from connections.connection.rate_limiter import Verdict
from connections.connection.receive_limits import ReceiveLimits
from connections.connection.scheduling import make_fair
from connections.connection.scope import connection_from_scope, read_replaces
from connections.connection.send_deadline import SendDeadline
from connections.connection.sender import AsgiSender
from connections.connection.stage import Stage
from connections.connection.terms import Terms
from connections.connection.unprotected import require_admission
from connections.error_log import get_logger
from connections.exceptions import (
    ConnectionEnded,
    InvalidMessage,
    Refused,
    UnknownEvent,
)
from connections.hub.connection import CLOSED_SENDER
from connections.layers.broadcast import BROADCAST, read_broadcast
from connections.layers.mailbox import GAP, Mailbox
from connections.logs import set_connection
from connections.node.node import Node
from connections.telemetry.carrier import TRACEPARENT

logger = get_logger(__name__)

_NOTHING: Message = {}

_DISCONNECT_SECONDS = 1
"""The time for disconnect() after an abort."""

# Reading a member of an enumeration costs a look-up in its class each time.
_PASS = Verdict.PASS


class Consumer(Protocol):
    """The part of a consumer that its runner uses."""

    is_json: bool
    presence: Any
    channel_layer: Any
    channel_name: str | None
    _orchestra_turn_seconds: float

    def dispatch(self, message: Message) -> Awaitable[None]:
        """Handle one event of the client, the server or the channel layer."""

    def is_activity(self, message: Message) -> bool:
        """Return True if a client's message keeps the connection from being idle."""


class ConnectionRunner:
    """
    Runs one connection: takes its events in order, applies the limits, ends it.

    Handlers run one at a time, for events of the client and of the channel
    layer. No task is created per message. run() releases what the connection
    holds in every case.
    """

    __slots__ = (
        "_consumer",
        "_deadline",
        "_errors",
        "_failure",
        "_is_refused",
        "_limits",
        "_lock",
        "_node",
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
        terms: Terms,
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a consumer runs in a task of an event loop")
        self._consumer = consumer
        self._node = node
        self._scope = scope
        self._task = task
        self._lock = FifoLock()
        self._failure, self._is_refused = terms.failure, False
        # None until the first error.
        self._errors: ErrorBudget | None = None
        self._deadline: SendDeadline | None = None
        ahead: LookAhead | None = None
        if get_extension(scope, TRANSPORT) is None:
            stall_seconds = node.config.buffers.send_stall_seconds
            send = SendDeadline(send, stall_seconds, self._abort_stalled)
            self._deadline = send
            receive = ahead = LookAhead(receive)
        self._receive = make_fair(receive, consumer._orchestra_turn_seconds)
        self.sender = AsgiSender(
            node=node,
            scope=scope,
            send=send,
            task=task,
            is_json=consumer.is_json,
            replaces=read_replaces(scope),
            ahead=ahead,
        )
        self.connection = connection_from_scope(
            *(scope, terms.client_id, node, self.sender, terms.limits),
            credential=terms.credential,
        )
        self.connection.requirements = terms.requirements
        self.sender.connection = self.connection
        if type(consumer).presence is not False:
            self.sender.presence = ConnectionPresence(
                consumer, self.sender, node, self._handle_in_turn
            )
        self._limits = ReceiveLimits(
            self.connection, self.sender, node, is_json=consumer.is_json
        )
        set_connection(self.connection)
        self.channel: ConnectionChannel | None = None
        if consumer.channel_layer is not None:
            self.channel = ConnectionChannel(
                consumer.channel_layer,
                owner=self,
                failures=node.counters.failures,
            )

    async def run(self) -> None:
        """Serve the connection until it has ended."""
        code: int | None = None
        self._node.counters.consumers += 1
        try:
            if self.channel is not None:
                await self.channel.open()
            code = await self._handle_events()
        except StopConsumer:
            await self.sender.hang_up()
        except asyncio.CancelledError:
            if self.sender.stage not in (Stage.ABORTED, Stage.STOPPED):
                raise
            self._task.uncancel()
            if self.sender.stage is Stage.ABORTED:
                await self._disconnect_aborted()
        finally:
            if self.channel is not None:
                self.channel.close()
            if self._deadline is not None:
                self._deadline.stop()
            self.sender.leave(code)
            self._report_returned(code)
            self._break_reference_cycles()

    def _break_reference_cycles(self) -> None:
        """Let reference counting free the connection; a project's cycles are young."""
        if added := list(find_added(self._consumer, self._scope)):
            self._node.leaks.young.add(added)
        self.connection.sender = CLOSED_SENDER
        if self.sender.presence is not None:
            self.sender.presence.close()
            self.sender.presence = None
        self.connection.transport = None
        # A failure and a cancelled task keep tracebacks that refer to the consumer.
        del self._consumer, self._failure, self._task

    def _report_returned(self, code: int | None) -> None:
        """Report that the consumer has returned, for the search for leaks."""
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

    async def _handle_events(self) -> int:
        """Handle events until the client has left; return the close code."""
        connection, sender, clock = self.connection, self.sender, self._node.clock
        lock, handling = self._lock, self._node.counters.handling
        limits = self._limits
        while True:
            # Free the last message, which may be large, before the next arrives.
            message = _NOTHING
            message = await self._receive()
            kind = message["type"]
            if kind == "websocket.receive":
                verdict = limits.check(message)
                if verdict is not _PASS and not await limits.delay(message, verdict):
                    continue
                try:
                    is_activity = self._consumer.is_activity(message)
                except Exception as exc:
                    await self._handle_exception(exc)
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
                handling.observe(ended_at - began_at)
            elif kind == "websocket.disconnect":
                code: int = message.get("code") or 1005
                # The socket is gone: release its slot before disconnect(), which
                # may take long.
                sender.leave(code)
                if not self._is_refused:
                    await self._handle_locked({**message, "code": code})
                return code
            elif kind == "websocket.connect":
                await self._connect(message)
            else:
                await self._handle_locked(message)

    async def _connect(self, message: Message) -> None:
        """Let the consumer accept or deny; refuse the connection if it raises."""
        if not self._lock.acquire_nowait():
            await self._lock.acquire()
        self.connection.busy_count += 1
        try:
            self._is_refused = True
            if self._failure is not None:
                raise self._failure
            if self._scope.get("is_unprotected"):
                await require_admission(self._node, self.connection)
            await self._node.reauthoriser.require(self.connection)
            self._is_refused = False
            await self._consumer.dispatch(message)
        except ConnectionEnded:
            return
        except Refused as exc:
            if self.sender.stage is Stage.CONNECTING:
                await self.sender.refuse(exc.close_reason)
            else:
                self.connection.end(exc.close_reason)
        except FAILURES as exc:
            if ends_task(exc):
                raise
            error_id = await record_error(exc, self.connection, self._scope, self._node)
            if self.sender.stage is Stage.CONNECTING:
                await self.sender.refuse(close_codes.INTERNAL_ERROR, ref=error_id)
            else:
                self.connection.end(close_codes.INTERNAL_ERROR, ref=error_id)
        finally:
            self.connection.busy_count -= 1
            self._lock.release()

    async def _handle_locked(self, message: Message) -> None:
        if not self._lock.acquire_nowait():
            await self._lock.acquire()
        try:
            await self._handle(message)
        finally:
            self._lock.release()

    async def _handle(self, message: Message) -> None:
        """Handle one event; an exception of the handler costs an error."""
        connection = self.connection
        connection.busy_count += 1
        # A handler expects the fields of the sender alone.
        message.pop(TRACEPARENT, None)
        try:
            await self._consumer.dispatch(message)
        except ConnectionEnded:
            return
        except UnknownEvent as exc:
            # One wrong group_send must not end every member's connection.
            if exc.kind != GAP:
                self._ignore(exc.kind, "no method for it")
        except InvalidMessage as exc:
            connection.errors += 1
            connection.flight.record("message_refused", exc.code)
            self._node.counters.errors.add(exc.code)
            await self.sender.send_error(
                exc.code, exc.message, message_id=exc.message_id
            )
            self._spend(close_codes.PROTOCOL_ERROR, None)
        except FAILURES as exc:
            if ends_task(exc):
                raise
            await self._handle_exception(exc)
        finally:
            connection.busy_count -= 1

    async def _handle_exception(self, exc: BaseException) -> None:
        """Record an exception, answer it, and charge it to the error budget."""
        error_id = await record_error(exc, self.connection, self._scope, self._node)
        await self.sender.send_error(
            "internal", "an error on our side; it is recorded", ref=error_id
        )
        self._spend(close_codes.INTERNAL_ERROR, error_id)

    def name_channel(self, channel_name: str | None, mailbox: Mailbox | None) -> None:
        self._consumer.channel_name = channel_name
        if mailbox is not None:
            mailbox.send_prepared = self.sender.send_prepared

    async def deliver(self, message: Message, lets_pass: bool) -> None:
        """
        Handle an event from the channel layer.

        With lets_pass, a message of the client that arrives in the same moment is
        handled first, as Channels does.
        """
        if message.get("type") == BROADCAST:
            await self._send_broadcast(message)
            return
        if is_reserved(message) or (self.sender.presence and is_presence(message)):
            self._ignore(message.get("type"), "it is reserved")
            return
        await self._handle_in_turn(message, lets_pass=lets_pass)

    async def _handle_in_turn(
        self, message: Message, *, lets_pass: bool = False
    ) -> None:
        """Handle an event that is not the client's, after those before it."""
        if lets_pass:
            await self._lock.acquire_second()
        elif not self._lock.acquire_nowait():
            await self._lock.acquire()
        try:
            await self._handle(message)
        except StopConsumer:
            await self.sender.stop()
        finally:
            self._lock.release()

    async def _send_broadcast(self, message: Message) -> None:
        """Send a broadcast that the layer did not; only connect() delays it."""
        sender, exclude = self.sender, message.get("exclude")
        if exclude is not None and exclude == self._consumer.channel_name:
            return
        prepared = read_broadcast(message)
        if sender.stage is Stage.CONNECTING:
            if not self._lock.acquire_nowait():
                await self._lock.acquire()
            self._lock.release()
        if prepared is not None and sender.stage is Stage.OPEN:
            await sender.transmit(prepared.event.copy())

    def _ignore(self, kind: object, cause: str) -> None:
        logger.warning(
            "A message of type %.64r was ignored: %s",
            kind,
            cause,
            extra={"event": "layer_message_ignored"},
        )

    def _abort_stalled(self) -> None:
        """End the connection of a client that takes no message."""
        if self.connection.close_reason is None:
            self.connection.close_reason = close_codes.SLOW_CONSUMER
        self.sender.abort()

    async def _disconnect_aborted(self) -> None:
        """Call disconnect() of an aborted connection, for one second at most."""
        if self._is_refused:
            return  # connect() was never called.
        close_reason = self.connection.close_reason or close_codes.NETWORK
        try:
            async with asyncio.timeout(_DISCONNECT_SECONDS):
                await self._handle(
                    {"type": "websocket.disconnect", "code": close_reason.code}
                )
        except (StopConsumer, TimeoutError):
            return

    def _spend(self, close_reason: CloseReason, ref: str | None) -> None:
        """Charge an error to the budget; end the connection when it is spent."""
        if self._errors is None:
            errors, clock = self._node.config.errors, self._node.clock
            self._errors = ErrorBudget(errors.budget, errors.window_seconds, clock)
        if not self._errors.spend():
            self.connection.end(close_reason, ref=ref)
