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
"""Bytes that a client may send before the answer to its handshake."""

_SMALL_FRAGMENT_BYTES = 64

_BACKLOG_SECONDS = 5
"""How long a consumer may take the messages of a client that has left."""


class Owner(Protocol):
    """The object that gets everything except messages."""

    def take_ping(self, payload: bytes) -> None:
        """Handle a ping."""

    def take_pong(self, payload: bytes) -> None:
        """Handle a pong."""

    def take_close(self, code: int, reason: str) -> None:
        """Handle a close frame; later bytes are ignored."""

    def fail(self, close_reason: CloseReason, explanation: str) -> None:
        """Handle a violation of the protocol or of a bound."""


class _Mode(Enum):
    WAITING = "waiting"
    """The handshake is unanswered: bytes are kept and not parsed."""
    OPEN = "open"
    CLOSING = "closing"
    """Messages are dropped; the client's close frame is awaited."""
    DEAF = "deaf"
    """Everything is dropped."""


# A member of an enumeration costs a look-up in its class each time.
_OPEN, _DEAF = _Mode.OPEN, _Mode.DEAF


class Inbound:
    """
    Reads frames into the queue of a consumer and stops reading when it is full.

    Pauses are short, because a paused transport does not notice that its peer has
    left: after receive_stall_seconds the connection ends.
    """

    __slots__ = (
        "_config",
        "_is_paused",
        "_loop",
        "_mode",
        "_owner",
        "_partly_received_at",
        "_reader",
        "_received_at",
        "_resumed_at",
        "_small_frames",
        "_stall_timer",
        "_transport",
        "_unfinished_since",
        "_unfinished_timer",
        "queue",
    )

    def __init__(
        self,
        config: WebSocketConfig,
        transport: Transport,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        buffers = config.buffers
        self.queue = ReceiveQueue(
            buffers.max_receive_queue, buffers.max_receive_bytes, self
        )
        self._config = config
        self._transport = transport
        self._owner = owner
        self._loop = loop
        self._reader = frames.FrameReader(config.max_message_size)
        self._mode = _Mode.WAITING
        self._small_frames: TokenBucket | None = None
        self._is_paused = False
        self._received_at = 0.0
        self._partly_received_at = 0.0
        self._resumed_at = 0.0
        self._unfinished_since: float | None = None
        self._unfinished_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """How many bytes wait for the consumer or for the rest of their message."""
        return self.queue.held_bytes + self._reader.held_bytes

    @property
    def max_message_size(self) -> int:
        """The largest message that passes."""
        return self._reader.max_message_size

    def allow_message_size(self, size_bytes: int) -> None:
        """Let messages up to a size pass, before the first one is read."""
        reader = self._reader
        reader.max_message_size = max(reader.max_message_size, size_bytes)

    def has_moved(self, since: float) -> bool:
        """Return True if a pong may wait behind bytes that came since, or unread."""
        if self._is_paused:
            return True  # The pause ends in time, or the connection ends.
        if self._partly_received_at > since:
            return True  # No pong can come within a frame.
        return self._resumed_at > since and self._received_at > since

    def take(self, received: bytes) -> None:
        """Handle bytes from the socket."""
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

    def open(self, inflater: frames.MessageInflater | None) -> None:
        """Start parsing messages, also those that arrived before the answer."""
        self._reader.inflater = inflater
        self._mode = _Mode.OPEN
        if self._is_paused or self._reader.held_bytes:
            self._loop.call_soon(self.resume)

    def drop_messages(self) -> None:
        """Drop messages and wait for the client's close frame."""
        if self._mode is _Mode.OPEN:
            self._mode = _Mode.CLOSING
            self._reader.drop_messages()
            self._unfinished_since = None
            if self._is_paused:
                self._loop.call_soon(self.resume)

    def drop_all(self) -> None:
        """Drop waiting and later messages; notice only the end of the connection."""
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
        Queue the disconnect event.

        A slow consumer may take earlier messages for a while; then they are dropped,
        so that it learns of the end in time.
        """
        gone = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self.queue.finish(gone)
        if len(self.queue):
            self._loop.call_later(_BACKLOG_SECONDS, self.queue.discard)

    def close(self) -> None:
        """Stop the timers; the connection is lost."""
        self._mode = _Mode.DEAF
        self._is_paused = False
        self._cancel_stall()
        if self._unfinished_timer is not None:
            self._unfinished_timer.cancel()

    def _take_whole(self, received: bytes) -> bool:
        """Queue a read that is exactly one message; return True if it was."""
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
        """Queue received messages until the queue is full."""
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
                    received = {"type": "websocket.receive", "text": payload}
                    put(received, measure_text(payload))
                elif opcode is frames.BINARY:
                    has_finished_message = True
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
        """Handle a control frame, or a fragment or message of which nothing is kept."""
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
        """Start or stop the deadline of an incomplete message."""
        if not self._reader.is_within_message or self._mode is not _OPEN:
            self._unfinished_since = None
            return
        self._partly_received_at = self._received_at
        if self._unfinished_since is None or has_finished_message:
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

    def resume(self) -> None:
        """Parse the bytes read before the pause, then resume reading."""
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
