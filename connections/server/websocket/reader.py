"""Turn the bytes of one client into events, bounded in size and in time."""

import asyncio
import dataclasses
from enum import Enum
from typing import Any, Protocol

from connections import close_codes
from connections.close_codes import CloseReason
from connections.config.loader import WebSocketConfig
from connections.exceptions import ProtocolViolation
from connections.server.transport import Transport
from connections.server.websocket import frames
from connections.server.websocket.receive_queue import ReceiveQueue
from connections.token_bucket import TokenBucket
from connections.units import measure_text

_VIOLATIONS = {
    1002: dataclasses.replace(close_codes.PROTOCOL_ERROR, code=1002),
    1007: dataclasses.replace(close_codes.PROTOCOL_ERROR, code=1007),
    1009: dataclasses.replace(close_codes.MESSAGE_TOO_BIG, code=1009),
}

_EARLY_BYTES = 65_536
"""What a client may send before its handshake is answered."""

_SMALL_FRAGMENT_BYTES = 64

_BACKLOG_SECONDS = 5
"""For a consumer to take what its client sent before it left."""


class Owner(Protocol):
    """Who is told what is no message."""

    def take_ping(self, payload: bytes) -> None:
        """A ping came."""

    def take_pong(self, payload: bytes) -> None:
        """A pong came."""

    def take_close(self, code: int, reason: str) -> None:
        """A close frame came; nothing after it is looked at."""

    def fail(self, close_reason: CloseReason, explanation: str) -> None:
        """The client broke the protocol or a bound."""


class _Mode(Enum):
    WAITING = "waiting"
    """The handshake is not answered: keep the bytes, look at none."""
    OPEN = "open"
    CLOSING = "closing"
    """Messages are dropped; the client's close frame is still awaited."""
    DEAF = "deaf"
    """Everything is dropped."""


# A member of an enumeration costs a look-up in its class each time.
_OPEN, _DEAF = _Mode.OPEN, _Mode.DEAF


class Inbound:
    """
    Reads frames into the queue of a consumer and stops reading when it is full.

    A pause is brief, because a paused transport does not hear its peer leave:
    after receive_stall_seconds the client has outrun its consumer for good.
    """

    def __init__(
        self,
        config: WebSocketConfig,
        transport: Transport,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        buffers = config.buffers
        self.queue = ReceiveQueue(
            buffers.max_receive_queue, buffers.max_receive_bytes, self._resume
        )
        self._config = config
        self._transport = transport
        self._owner = owner
        self._loop = loop
        self._reader = frames.FrameReader(config.max_message_size)
        self._mode = _Mode.WAITING
        self._small_frames: TokenBucket | None = None
        self._is_paused = False
        self._resumed_at = 0.0
        self._received_at = 0.0
        self._unfinished_since: float | None = None
        self._unfinished_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the consumer, or for the rest of their message."""
        return self.queue.held_bytes + self._reader.held_bytes

    def is_behind(self, since: float) -> bool:
        """Tell whether a pong may wait behind data that was not read since."""
        if self._is_paused:
            return True  # Not for long: the pause ends in time, or the connection.
        return self._resumed_at > since and self._received_at > since

    def take(self, received: bytes) -> None:
        """Take in what was read from the socket."""
        if self._mode is _DEAF:
            return
        self._received_at = self._loop.time()
        if self._mode is _OPEN and not self._is_paused and self._take_whole(received):
            return
        self._reader.feed(received)
        if self._mode is _Mode.WAITING:
            if self._reader.held_bytes > _EARLY_BYTES and not self._is_paused:
                self._pause()
        elif not self._is_paused:
            self._read()

    def open(self) -> None:
        """Begin to read messages, those too that did not wait for the answer."""
        self._mode = _Mode.OPEN
        if self._is_paused or self._reader.held_bytes:
            self._loop.call_soon(self._resume)

    def drop_messages(self) -> None:
        """Wait for nothing more but the client's close frame."""
        if self._mode is _Mode.OPEN:
            self._mode = _Mode.CLOSING
            self._unfinished_since = None
            if self._is_paused:
                self._loop.call_soon(self._resume)

    def drop_all(self) -> None:
        """Drop what waits and whatever comes; hear only the connection's end."""
        self._mode = _Mode.DEAF
        self._unfinished_since = None
        self._reader = frames.FrameReader(0)
        self.queue.discard()
        self._cancel_stall()
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def finish(self, code: int, reason: str) -> None:
        """
        Let the consumer know that its client has gone.

        A slow one has a while for what was sent before, and then must learn the
        end while there is time to act on it.
        """
        gone = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self.queue.finish(gone)
        if len(self.queue):
            self._loop.call_later(_BACKLOG_SECONDS, self.queue.discard)

    def close(self) -> None:
        """Let go of timers; the connection is lost."""
        self._mode = _Mode.DEAF
        self._is_paused = False
        self._cancel_stall()
        if self._unfinished_timer is not None:
            self._unfinished_timer.cancel()

    def _take_whole(self, received: bytes) -> bool:
        """Hand on a read that is one message; return whether it was dealt with."""
        if self.queue.is_full:
            return False
        try:
            text = self._reader.take_whole_text(received)
        except ProtocolViolation as violation:
            self._owner.fail(_VIOLATIONS[violation.code], str(violation))
            return True
        if text is None:
            return False
        self.queue.put({"type": "websocket.receive", "text": text}, measure_text(text))
        return True

    def _read(self) -> None:
        """Hand on what has come in, until the queue is full."""
        put, next_event = self.queue.put, self._reader.next_event
        has_finished_message = False
        try:
            while True:
                if self._mode is _Mode.OPEN and self.queue.is_full:
                    self._pause()
                    return
                event = next_event()
                if event is None:
                    break
                opcode, payload = event
                if opcode is frames.TEXT:
                    has_finished_message = True
                    if self._mode is _Mode.OPEN:
                        received = {"type": "websocket.receive", "text": payload}
                        put(received, measure_text(payload))
                elif opcode is frames.BINARY:
                    has_finished_message = True
                    if self._mode is _Mode.OPEN:
                        received = {"type": "websocket.receive", "bytes": payload}
                        put(received, len(payload))
                else:
                    self._take_other(opcode, payload)
                    if self._mode is _Mode.DEAF:
                        return
        except ProtocolViolation as violation:
            self._owner.fail(_VIOLATIONS[violation.code], str(violation))
            return
        self._watch_unfinished(has_finished_message)

    def _take_other(self, opcode: frames.Opcode, payload: Any) -> None:
        """Take a control frame or a fragment."""
        if opcode is frames.CLOSE:
            code, reason = frames.parse_close(payload)
            self.close()
            self._owner.take_close(code, reason)
            return
        if opcode is frames.FRAGMENT and payload >= _SMALL_FRAGMENT_BYTES:
            return
        now = self._loop.time()
        if self._small_frames is None:
            limits = self._config.rate_limit
            self._small_frames = TokenBucket(
                limits.small_frames_per_second, limits.burst_small_frames, now
            )
        if not self._small_frames.take(1, now):
            self._owner.fail(close_codes.RATE_LIMITED, "a flood of small frames")
        elif opcode is frames.PONG:
            self._owner.take_pong(payload)
        elif opcode is frames.PING:
            self._owner.take_ping(payload)

    def _watch_unfinished(self, has_finished_message: bool) -> None:
        """Keep time of a message that has begun and does not become whole."""
        if not self._reader.is_within_message:
            self._unfinished_since = None
        elif self._unfinished_since is None or has_finished_message:
            self._unfinished_since = self._loop.time()
            if self._unfinished_timer is None:
                self._check_unfinished()

    def _check_unfinished(self) -> None:
        self._unfinished_timer = None
        if self._unfinished_since is None:
            return
        limit_seconds = self._config.buffers.unfinished_message_seconds
        left_seconds = self._unfinished_since + limit_seconds - self._loop.time()
        if left_seconds > 0:
            self._unfinished_timer = self._loop.call_later(
                left_seconds, self._check_unfinished
            )
        else:
            self._owner.fail(close_codes.POLICY, "a message did not become whole")

    def _pause(self) -> None:
        self._is_paused = True
        self._unfinished_since = None
        self._transport.pause_reading()
        self._stall_timer = self._loop.call_later(
            self._config.buffers.receive_stall_seconds, self._give_up
        )

    def _resume(self) -> None:
        """Go on with what was read before the pause, then read on."""
        if self._mode in (_Mode.WAITING, _Mode.DEAF):
            return
        self._cancel_stall()
        was_paused, self._is_paused = self._is_paused, False
        self._resumed_at = self._loop.time()
        self._read()
        if was_paused and not self._is_paused:
            self._transport.resume_reading()

    def _give_up(self) -> None:
        self._owner.fail(close_codes.RATE_LIMITED, "the consumer does not keep up")

    def _cancel_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
