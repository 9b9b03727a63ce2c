"""
The life cycle of one WebSocket on the server's side: its phases and its ends.

protocol.py adds what the application, the client and the keepalive do with it.
"""

import logging
from collections.abc import Iterable
from typing import Any

from connections import close_codes
from connections.close_codes import CloseReason, Reconnect
from connections.config.loader import WebSocketConfig
from connections.server.budget import COUNTED_FROM_BYTES
from connections.server.timers import HasDeadline
from connections.server.transport import Transport
from connections.server.websocket import frames
from connections.server.websocket.deflate import Deflater
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


class LifeCycle(HasDeadline):
    """
    A WebSocket that moves from phase to phase until its TCP connection is lost.

    close(), end(), fail(), abort() and cut_off() end it, each from its own caller.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_client",
        "_config",
        "_deflater",
        "_inbound",
        "_is_counted",
        "_is_gone",
        "_is_unattended",
        "_keepalive",
        "_opening",
        "_path",
        "_phase",
        "_server",
        "_timers",
        "_transport",
        "close_reason",
    )

    _transport: Transport
    _inbound: Inbound
    _buffer: SendBuffer

    def __init__(self, server: Any, handshake: Handshake) -> None:
        self.close_reason: CloseReason | None = None
        self._server = server
        self._config: WebSocketConfig = server.config
        self._timers = server.timers
        self._deadline = None
        # Deleted with the accept: a connection lasts, its handshake need not.
        self._opening = Opening(handshake)
        self._path, self._client = handshake.path, handshake.client
        self._phase = Phase.CONNECTING
        self._keepalive: Keepalive | None = None
        self._deflater: Deflater | None = None
        self._is_gone = False
        self._is_counted = False
        self._is_unattended = False

    # Ends asked for by the application, the node or the server

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
        """
        Free the compressor's window, or end this WebSocket.

        Its buffers hold most while all hold too much.
        """
        if self._deflater is not None and self._deflater.held_bytes:
            self._deflater.forget_window()
            self._record_held()
            return
        if self._buffer.unsent_bytes > self._inbound.held_bytes:
            self.give_up_slow()
        else:
            self.fail(close_codes.RATE_LIMITED, "the buffers of the node are full")

    def application_ended(self, exception: BaseException | None) -> None:
        """End the WebSocket at once after its application has ended."""
        if self._phase is Phase.CONNECTING:
            self._refuse(500, "Internal server error")
        elif self._phase is Phase.OPEN:
            self.fail(close_codes.CLOSED if exception is None else _CRASHED)
        self._is_unattended = True
        self._break_reference_cycles()

    # Ends caused by the client

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

    def on_lost(self) -> None:
        self._server.losses.run(self._lose)

    def _lose(self) -> None:
        self._leave_open()
        self._move(Phase.CLOSED)
        self._buffer.close()
        self._inbound.close()
        self._stop_deadline()
        self._say_gone(self.close_reason.code if self.close_reason else 1006, "")
        self._server.budget.forget(self)
        self._break_reference_cycles()

    def give_up_slow(self) -> None:
        """Drop a client that does not read; it would not read a close frame either."""
        self.close_reason = self.close_reason or close_codes.SLOW_CONSUMER
        self.abort()

    # Refusals of the handshake

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
            self._server.admission.note_refusal(self)
            self._refuse(*find_refusal(close_reason), [(b"Retry-After", b"1")])

    def _finish_refusal(self, response: bytes) -> None:
        self._leave_open()
        self._buffer.write(response)
        self._log_action("rejected")
        self._say_gone(1006, "")
        self._hang_up()

    # The steps of an end

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

    # The bytes on their way

    def _write(self, frame: bytes, *, is_shared: bool = False) -> None:
        self._buffer.write(frame, is_shared=is_shared)
        if self._transport.unsent_bytes or self._is_counted or self._deflater:
            self._record_held()

    def _record_held(self) -> None:
        held_bytes = self._inbound.held_bytes + self._transport.unsent_bytes
        if self._deflater is not None:
            held_bytes += self._deflater.held_bytes
        was_counted = self._is_counted
        self._is_counted = held_bytes >= COUNTED_FROM_BYTES
        if was_counted or self._is_counted:
            self._server.budget.record(self, held_bytes)

    def _log_action(self, action: str) -> None:
        if self._server.action_logger:
            client = ":".join(map(str, self._client)) if self._client else None
            details = {"path": self._path, "client": client}
            self._server.log_action("websocket", action, details)

    def __repr__(self) -> str:
        return f"<WebSocket {self._client} {self._phase.value}>"
