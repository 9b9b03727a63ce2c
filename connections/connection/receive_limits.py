"""Apply the limits of size and rate to the messages of one client."""

import asyncio

from connections import close_codes
from connections.asgi import Message
from connections.connection.rate_limiter import RateLimiter, Verdict
from connections.connection.sender import AsgiSender, measure
from connections.connection.stage import Stage
from connections.hub.connection import LiveConnection
from connections.node.node import Node

_DENSE_BYTES = 4096
"""A smaller JSON text holds too few values to matter."""

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
        "_is_json",
        "_max_message_size",
        "_node",
        "_rate",
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
        self._rate = RateLimiter(
            messages_per_second=limits.messages_per_second,
            burst_messages=limits.burst_messages,
            bytes_per_second=limits.bytes_per_second,
            burst_bytes=limits.burst_bytes,
            tolerance_seconds=self._tolerance_seconds,
            clock=node.clock,
        )

    def check(self, message: Message) -> Verdict:
        """Check one message of the client."""
        connection = self._connection
        if self._sender.stage is not _OPEN:
            return Verdict.IGNORE
        size_bytes = measure(message)
        connection.messages_in += 1
        connection.bytes_in += size_bytes
        if size_bytes > self._max_message_size:
            connection.end(close_codes.MESSAGE_TOO_BIG)
            return Verdict.IGNORE
        return self._rate.check(self._weigh(message, size_bytes))

    async def delay(self, message: Message, verdict: Verdict) -> bool:
        """
        Treat a message that did not pass; return True if it passes after a delay.

        Ends the connection where the excess has lasted, or the delay would last, for
        tolerance_seconds.
        """
        if verdict is Verdict.IGNORE:
            return False
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

    def _weigh(self, message: Message, size_bytes: int) -> int:
        """Return the bytes that a message counts for; dense JSON counts for more."""
        if size_bytes < _DENSE_BYTES or not self._is_json:
            return size_bytes
        return self._rate.weigh(message.get("text") or "", size_bytes)
