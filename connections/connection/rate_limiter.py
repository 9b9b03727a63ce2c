"""Limit how much a connection may send, sustained and at once."""

import math
from enum import Enum

from connections.token_bucket import TokenBucket
from connections.units import Clock

_LEAST_QUIET_SECONDS = 2.0


_BYTES_PER_VALUE = 16


class Verdict(Enum):
    """What happens to a message."""

    PASS = "pass"
    DROP = "drop"
    CLOSE = "close"
    IGNORE = "ignore"
    """It comes too late, or has ended the connection by itself."""


_PASS = Verdict.PASS


class RateLimiter:
    """
    Messages and bytes of one connection.

    What is over the rate is dropped. An excess that goes on for
    tolerance_seconds closes the connection: it goes on until nothing was
    dropped for as long as half a burst takes to refill (at least two seconds), so
    that a few messages let through in between do not start it anew.
    """

    __slots__ = (
        "_bytes",
        "_clock",
        "_excess_at",
        "_excess_since",
        "_messages",
        "_quiet_seconds",
        "_tolerance_seconds",
    )

    def __init__(
        self,
        *,
        messages_per_second: float,
        burst_messages: float,
        bytes_per_second: float,
        burst_bytes: float,
        tolerance_seconds: float,
        clock: Clock,
    ) -> None:
        now = clock()
        self._clock = clock
        self._messages = TokenBucket(messages_per_second, burst_messages, now)
        self._bytes = TokenBucket(bytes_per_second, burst_bytes, now)
        self._tolerance_seconds = tolerance_seconds
        self._quiet_seconds = max(
            _LEAST_QUIET_SECONDS,
            burst_messages / messages_per_second / 2,
            burst_bytes / bytes_per_second / 2,
        )
        self._excess_since = self._excess_at = -math.inf

    def weigh(self, text: str, size_bytes: int) -> int:
        """
        Return the bytes that a JSON text counts for: 16 more for each value.

        A megabyte of empty lists takes the event loop thirty times as long as a
        megabyte of prose. It never counts for more than may come at once.
        """
        values = text.count(",") + text.count("[") + text.count("{")
        weight = size_bytes + _BYTES_PER_VALUE * values
        return max(size_bytes, min(weight, int(self._bytes.burst)))

    def check(self, size_bytes: int) -> Verdict:
        """Decide about one message that has arrived now."""
        now = self._clock()
        if self._messages.take(1, now):
            if self._bytes.take(size_bytes, now):
                return _PASS
            self._messages.give_back(1)
        if now - self._excess_at >= self._quiet_seconds:
            self._excess_since = now
        self._excess_at = now
        if now - self._excess_since >= self._tolerance_seconds:
            return Verdict.CLOSE
        return Verdict.DROP

    def retry_after_seconds(self, size_bytes: int) -> float:
        """Return how long until a message of that size would pass."""
        now = self._clock()
        return max(
            self._messages.seconds_until(1, now),
            self._bytes.seconds_until(size_bytes, now),
        )
