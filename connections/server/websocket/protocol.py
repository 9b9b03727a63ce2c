"""
Serve one WebSocket, from its handshake to its last byte.

The class replaces daphne's WebSocketProtocol without building on it or on Autobahn
(frames.py says why). daphne's Server uses the same few methods of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from connections import close_codes
from connections.asgi import Message
from connections.close_codes import CloseReason, Reconnect
from connections.config.loader import WebSocketConfig
from connections.server.budget import COUNTED_FROM_BYTES
from connections.server.timers import HasDeadline
from connections.server.transport import Transport
from connections.server.websocket import frames
from connections.server.websocket.handshake import Handshake, Header
from connections.server.websocket.keepalive import Keepalive
from connections.server.websocket.reader import Inbound
from connections.server.websocket.response import (
    PHASES_AFTER,
    Opening,
    Phase,
    find_refusal,
)
from connections.server.websocket.send_buffer import SendBuffer

logger = logging.getLogger(__name__)

_CRASHED = CloseReason(code=1011, reason="internal_error", reconnect=Reconnect.BACKOFF)

_CLOSE_SECONDS = 2
"""The least time for a client to answer a close frame before its connection drops."""


# A member of an enumeration costs a look-up in its class each time.
_CONNECTING, _OPEN = Phase.CONNECTING, Phase.OPEN


class WebSocketProtocol(HasDeadline):
    """
    One client's WebSocket, as the ASGI application's receive and send.

    It is also the scope's "transport" (connections.hub.hub.Transport). Nothing per
    message makes a task or a Deferred.
    """

    application_type = "websocket"

    _transport: Transport
    _inbound: Inbound
    _buffer: SendBuffer

    def __init__(self, server: Any, handshake: Handshake) -> None:
        self.close_reason: CloseReason | None = None
        self._server = server
        self._config: WebSocketConfig = server.config
        self._timers = server.timers
        self._opening = Opening(handshake)
        self._phase = Phase.CONNECTING
        self._keepalive: Keepalive | None = None
        self._is_gone = False
        self._is_counted = False
        self._is_unattended = False

    # Used by the application and the node

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._phase is Phase.CLOSED else self._buffer.unsent_bytes

    @property
    def rtt_seconds(self) -> float | None:
        return self._keepalive.rtt_seconds if self._keepalive else None

    def get_scope(self) -> Message:
        """Return the ASGI scope."""
        return {
            **self._opening.handshake.get_scope(),
            "root_path": self._server.root_path,
            "extensions": {"websocket.http.response": {}},
            "transport": self,
        }

    @property
    def receive(self) -> Callable[[], Awaitable[Message]]:
        """Return the next event, and the final event repeatedly."""
        return self._inbound.queue.get

    async def send(self, message: Message) -> None:
        """
        Take an event from the application.

        A message waits while more than send_high_water is unsent, and sometimes to
        let other tasks run. After the end events are ignored, because the
        application may not know of it yet.

        Raises:
            ValueError: the event is invalid, or not allowed in this state.
        """
        if message["type"] != "websocket.send":
            self._take_answer(message)
            return
        if self._phase is not _OPEN:
            if self._phase is _CONNECTING:
                raise ValueError("websocket.send before websocket.accept")
            # A handler that keeps sending must not block the loop.
            await asyncio.sleep(0)
            return
        payload = message.get("bytes")
        if (message.get("text") is None) == (payload is None):
            raise ValueError("websocket.send needs either text or bytes")
        if self._buffer.should_wait:
            await self._buffer.wait_for_room()
        if self._phase is not _OPEN:
            return
        if payload is None:
            self._write(frames.build_text(message["text"]))
        else:
            self._write(frames.build_frame(frames.BINARY, payload))

    def gather(self) -> None:
        """Send the frames of this turn of the loop together."""
        if self._phase is _OPEN:
            self._transport.gather()

    def close(self, code: int, reason: str) -> None:
        """
        Begin the closing handshake; before the accept, answer HTTP 403.

        Raises:
            ValueError: RFC 6455 does not allow an application to send the code.
        """
        if self._phase is Phase.CONNECTING:
            self._refuse(403, "Access denied")
        elif self._phase is Phase.OPEN:
            if not close_codes.may_send(code):
                raise ValueError(f"the close code {code} may not be sent")
            self._leave_open()
            self._write(frames.build_close(code, reason))
            self._inbound.drop_messages()
            grace_seconds = max(_CLOSE_SECONDS, self._config.evict_grace_seconds)
            self._start_deadline(grace_seconds, self.abort)

    def end(self, close_reason: CloseReason) -> None:
        """End it from the server's side, with the ending's code and reason."""
        if self._phase is Phase.OPEN:
            self.close_reason = close_reason
            self.close(close_reason.code, close_reason.reason)
        else:
            self._refuse_because(close_reason)

    def abort(self) -> None:
        """Drop the TCP connection; what is unsent is lost."""
        if self._phase is not Phase.CLOSED:
            self._leave_open()
            self._buffer.close()
            self._transport.abort()

    def cut_off(self) -> None:
        """Refuse a handshake that the application does not answer."""
        self._refuse_because(None)

    def end_over_budget(self) -> None:
        """End this WebSocket: its buffers hold most while all hold too much."""
        if self._buffer.unsent_bytes > self._inbound.held_bytes:
            self._give_up_slow()
        else:
            self.fail(close_codes.RATE_LIMITED, "the buffers of the node are full")

    # Called by the server

    def application_ended(self, exception: BaseException | None) -> None:
        """End the WebSocket at once after its application has ended."""
        if self._phase is Phase.CONNECTING:
            self._refuse(500, "Internal server error")
        elif self._phase is Phase.OPEN:
            self.fail(close_codes.CLOSED if exception is None else _CRASHED)
        self._is_unattended = True
        self._break_reference_cycles()

    def begin(self, transport: Transport) -> None:
        """Take over the TCP connection of the handshake."""
        loop = asyncio.get_running_loop()
        self._transport = transport
        self._inbound = Inbound(self._config, transport, self, loop)
        self._buffer = SendBuffer(
            transport, self._config.buffers, loop, self._give_up_slow
        )
        self._start_deadline(self._config.handshake.timeout_seconds, self.cut_off)
        self._inbound.queue.put({"type": "websocket.connect"})
        self._log_action("connecting")

    # What the line calls

    def take(self, received: bytes) -> None:
        self._inbound.take(received)
        if self._inbound.held_bytes or self._is_counted:
            self._record_held()

    def on_drained(self) -> None:
        self._buffer.on_drained()
        if self._is_counted:
            self._record_held()

    def on_lost(self) -> None:
        self._leave_open()
        self._move(Phase.CLOSED)
        self._buffer.close()
        self._inbound.close()
        self._stop_deadline()
        self._say_gone(self.close_reason.code if self.close_reason else 1006, "")
        self._server.budget.forget(self)
        self._break_reference_cycles()

    # Called by the keepalive

    def send_ping(self, payload: bytes) -> None:
        self._buffer.follow_ping()
        self._write(frames.build_frame(frames.PING, payload))

    def has_moved(self, since: float) -> bool:
        return self._inbound.has_moved(since) or self._buffer.has_ping_moved()

    def record_round_trip(self, seconds: float) -> None:
        self._server.round_trips.observe(seconds)

    def give_up_dead(self) -> None:
        self.close_reason = self.close_reason or close_codes.DEAD
        self.abort()

    # Called by the reader

    def take_ping(self, payload: bytes) -> None:
        # A client that does not read pongs gets no more of them.
        if self._phase is Phase.OPEN and not self._buffer.is_above_high_water:
            self._write(frames.build_frame(frames.PONG, payload))

    def take_pong(self, payload: bytes) -> None:
        if self._keepalive is not None:
            self._keepalive.on_pong(payload)

    def take_close(self, code: int, reason: str) -> None:
        """Complete the closing handshake, whichever side began it."""
        if self._phase is Phase.OPEN:
            self._leave_open()
            if code == 1005:
                self._buffer.write(frames.build_frame(frames.CLOSE, b""))
            else:
                self._buffer.write(frames.build_close(code, reason))
        self._say_gone(self.close_reason.code if self.close_reason else code, reason)
        self._hang_up()

    def fail(self, close_reason: CloseReason, explanation: str = "") -> None:
        """
        Send a close frame with the reason, and ignore the client from now on.

        Its bytes are read and dropped for a moment: closing with unread bytes would
        reset the connection and lose the close frame.
        """
        if self._phase is Phase.CONNECTING:
            self._refuse_because(close_reason)
            return
        if explanation:
            logger.debug("%r ends with %s: %s", self, close_reason.code, explanation)
        was_open = self._phase is Phase.OPEN
        self._leave_open()
        self.close_reason = self.close_reason or close_reason
        if was_open:
            self._buffer.write(
                frames.build_close(close_reason.code, close_reason.reason)
            )
        self._buffer.close()
        self._inbound.drop_all()
        self._record_held()
        self._say_gone(self.close_reason.code, self.close_reason.reason)
        self._transport.close_sending()
        self._start_deadline(_CLOSE_SECONDS, self.abort)

    # The answer to the handshake

    def _take_answer(self, message: Message) -> None:
        kind = message["type"]
        if self._phase in (Phase.CLOSING, Phase.CLOSED):
            return
        if kind == "websocket.close":
            self.close(message.get("code") or 1000, message.get("reason") or "")
        elif self._phase is Phase.OPEN:
            raise ValueError(f"{kind} after websocket.accept")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.http.response.start":
            self._opening.begin_denial(message)
        elif kind == "websocket.http.response.body":
            self._deny(message)
        else:
            raise ValueError(f"unknown event {kind}")

    def _accept(self, message: Message) -> None:
        acceptance = self._opening.accept(message)
        self._stop_deadline()
        self._server.admission.end_handshake(self)
        self._server.admission.open_count += 1
        self._move(Phase.OPEN)
        self._buffer.write(acceptance)
        self._keepalive = Keepalive(
            interval_seconds=self._config.ping_interval_seconds,
            timeout_seconds=self._config.ping_timeout_seconds,
            timers=self._timers,
            owner=self,
        )
        self._log_action("connected")
        self._inbound.open()

    def _deny(self, message: Message) -> None:
        response = self._opening.deny(message)
        if message.get("more_body"):
            self._buffer.write(response)
        else:
            self._finish_refusal(response)

    def _refuse(
        self, status: int, explanation: str, extra: Iterable[Header] = ()
    ) -> None:
        response = self._opening.refuse(status, explanation, extra)
        if response:
            self._finish_refusal(response)
        else:
            self.abort()

    def _refuse_because(self, close_reason: CloseReason | None) -> None:
        """Refuse a handshake that waits for its answer."""
        if self._phase is Phase.CONNECTING:
            self._refuse(*find_refusal(close_reason), [(b"Retry-After", b"1")])

    def _finish_refusal(self, response: bytes) -> None:
        self._leave_open()
        self._buffer.write(response)
        self._log_action("rejected")
        self._say_gone(1006, "")
        self._hang_up()

    # Ends decided by the transport

    def _give_up_slow(self) -> None:
        """Drop a client that does not read; it would not read a close frame either."""
        self.close_reason = self.close_reason or close_codes.SLOW_CONSUMER
        self.abort()

    def _leave_open(self) -> None:
        """Leave CONNECTING or OPEN, whatever comes next."""
        if self._phase is Phase.CONNECTING:
            self._server.admission.end_handshake(self)
        elif self._phase is Phase.OPEN:
            self._server.admission.open_count -= 1
            if self._keepalive is not None:
                self._keepalive.stop()
        if self._phase in (Phase.CONNECTING, Phase.OPEN):
            self._move(Phase.CLOSING)

    def _hang_up(self) -> None:
        """Close the TCP connection once everything is sent, or after a while."""
        self._buffer.close()
        self._transport.close()
        self._start_deadline(_CLOSE_SECONDS, self.abort)

    def _say_gone(self, code: int, reason: str) -> None:
        """Send the application the disconnect event, once."""
        if self._is_gone:
            return
        self._is_gone = True
        self._inbound.finish(code, reason)
        self._server.protocol_disconnected(self)
        self._log_action("disconnected")

    def _break_reference_cycles(self) -> None:
        """
        Drop the parts once client and application have both ended.

        The parts refer back to this object: only the garbage collector frees such a
        cycle.
        """
        if self._is_unattended and self._phase is Phase.CLOSED:
            del self._transport, self._inbound, self._buffer
            self._keepalive = None

    def _move(self, phase: Phase) -> None:
        """Enter a phase; the only place that changes it."""
        if phase not in PHASES_AFTER[self._phase]:
            raise RuntimeError(f"{self!r} cannot become {phase.value}")
        self._phase = phase

    # Small things

    def _write(self, frame: bytes) -> None:
        self._buffer.write(frame)
        if self._transport.unsent_bytes or self._is_counted:
            self._record_held()

    def _record_held(self) -> None:
        held_bytes = self._inbound.held_bytes + self._buffer.unsent_bytes
        self._is_counted = held_bytes >= COUNTED_FROM_BYTES
        self._server.budget.record(self, held_bytes)

    def _log_action(self, action: str) -> None:
        if self._server.action_logger:
            self._server.log_action("websocket", action, self._opening.describe())

    def __repr__(self) -> str:
        return f"<WebSocket {self._opening.handshake.client} {self._phase.value}>"
