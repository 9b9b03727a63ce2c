"""Apply the limits of size and rate to the messages of one client."""

import asyncio
import math

from connections import close_codes
from connections.asgi import Message
from connections.config.enforcement import FAR_OVER
from connections.connection.events import measure
from connections.connection.rate_limiter import RateLimiter, Verdict
from connections.connection.sender import AsgiSender
from connections.connection.stage import Stage
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.units import Clock

_DENSE_BYTES = 4096
"""A smaller JSON text holds too few values to matter."""

_NO_DELAY = -math.inf

# Reading a member of an enumeration costs a look-up in its class each time.
_OPEN = Stage.OPEN


class ReceiveLimits:
    """
    The limits of one connection on what its client sends.

    A message over the rate is never lost in silence. A JSON client gets an error in
    its place. No other client would learn of the loss, and a shared document would
    diverge: there the message waits until it fits, with all that follow it.
    """

    __slots__ = (
        "_connection",
        "_delayed_until",
        "_far_rate",
        "_is_json",
        "_max_message_size",
        "_node",
        "_own_rate",
        "_sender",
        "_tolerance_seconds",
    )

    def __init__(
        self,
        connection: LiveConnection,
        sender: AsgiSender,
        node: Node,
        *,
        is_json: bool,
    ) -> None:
        limits = connection.limits
        self._connection = connection
        self._sender = sender
        self._node = node
        self._is_json = is_json
        self._max_message_size = limits.max_message_size
        self._tolerance_seconds = node.config.rate_limit.tolerance_seconds
        # The end of the delays that an observed limit would have caused so far.
        self._delayed_until = _NO_DELAY
        # None until the first message: many clients only listen.
        self._own_rate: RateLimiter | None = None
        self._far_rate: RateLimiter | None = None

    def check(self, message: Message) -> Verdict:
        """Check one message of the client."""
        connection = self._connection
        if self._sender.stage is not _OPEN:
            return Verdict.IGNORE
        size_bytes = measure(message)
        connection.messages_in += 1
        connection.bytes_in += size_bytes
        connection.sizes_in[(size_bytes - 1).bit_length()] += 1
        if size_bytes > self._max_message_size:
            if not self._observes_size(size_bytes):
                connection.end(close_codes.MESSAGE_TOO_BIG)
                return Verdict.IGNORE
            connection.end_for("size", close_codes.MESSAGE_TOO_BIG)
        rate = self._own_rate or self._rate
        return rate.check(self._weigh(message, size_bytes))

    async def delay(self, message: Message, verdict: Verdict) -> bool:
        """
        Treat a message that did not pass; return True if it passes after a delay.

        Ends the connection where the excess has lasted, or the delay would last, for
        tolerance_seconds.
        """
        if verdict is Verdict.IGNORE:
            return False
        self._connection.over_rate += 1
        if "rate" in self._connection.observed and not self._is_far_over(message):
            return self._observe(message, verdict)
        self._connection.limited_at = self._node.clock()
        self._connection.flight.record("rate_limited")
        self._node.counters.rate_limited += 1
        if verdict is Verdict.CLOSE:
            self._connection.end(close_codes.RATE_LIMITED)
            return False
        weight = self._weigh(message, measure(message))
        if self._is_json:
            await self._sender.send_error(
                "rate_limited",
                "too many messages; this one was dropped",
                retry_after_seconds=round(self._rate.retry_after_seconds(weight), 3),
            )
            return False
        seconds = self._rate.reserve(weight)
        if seconds > self._tolerance_seconds:
            self._connection.end(close_codes.RATE_LIMITED)
            return False
        await asyncio.sleep(seconds)
        self._rate.extend_excess()
        return self._sender.stage is _OPEN

    def _observe(self, message: Message, verdict: Verdict) -> bool:
        """Count what the rate would have done with a message, and let it pass."""
        connection, observer = self._connection, self._node.observer
        if verdict is not Verdict.CLOSE and not self._is_json:
            seconds = self._rate.reserve(self._weigh(message, measure(message)))
            if seconds > self._tolerance_seconds:
                verdict = Verdict.CLOSE
            else:
                self._delayed_until = self._read_delayed_clock() + seconds
                self._rate.extend_excess()
        if verdict is Verdict.CLOSE:
            observer.record_end(connection, "rate", "ended")
        else:
            observer.record(
                connection, "rate", "dropped" if self._is_json else "delayed"
            )
        return True

    def _is_far_over(self, message: Message) -> bool:
        """Return True if the excess alone is ten times the rate."""
        if self._far_rate is None:
            self._far_rate = self._make_limiter(FAR_OVER, self._node.clock)
        weight = self._weigh(message, measure(message))
        return self._far_rate.check(weight) is not Verdict.PASS

    def _observes_size(self, size_bytes: int) -> bool:
        """Return True if a message over the limit of size passes, to be counted."""
        most = self._node.config.buffers.max_receive_bytes
        return "size" in self._connection.observed and size_bytes <= most

    @property
    def _rate(self) -> RateLimiter:
        if self._own_rate is None:
            is_observed = "rate" in self._connection.observed
            self._own_rate = self._make_limiter(
                1, self._read_delayed_clock if is_observed else self._node.clock
            )
        return self._own_rate

    def _make_limiter(self, times: int, clock: Clock) -> RateLimiter:
        limits = self._connection.limits
        return RateLimiter(
            messages_per_second=times * limits.messages_per_second,
            burst_messages=times * limits.burst_messages,
            bytes_per_second=times * limits.bytes_per_second,
            burst_bytes=times * limits.burst_bytes,
            tolerance_seconds=self._tolerance_seconds,
            clock=clock,
        )

    def _read_delayed_clock(self) -> float:
        """Return the time at which an enforced rate would treat the next message."""
        return max(self._node.clock(), self._delayed_until)

    def _weigh(self, message: Message, size_bytes: int) -> int:
        """Return the bytes that a message counts for; dense JSON counts for more."""
        if size_bytes < _DENSE_BYTES or not self._is_json:
            return size_bytes
        return self._rate.weigh(message.get("text") or "", size_bytes)
