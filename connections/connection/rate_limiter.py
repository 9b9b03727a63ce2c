"""Limit the messages and bytes that a client sends on one connection."""

import math
from enum import Enum

from connections.token_bucket import TokenBucket
from connections.units import Clock

_LEAST_QUIET_SECONDS = 2.0
_BYTES_PER_VALUE = 16


class Verdict(Enum):
    """The treatment of one message."""

    PASS = "pass"
    DROP = "drop"
    CLOSE = "close"
    IGNORE = "ignore"
    """The connection is ending, or this message has ended it."""


_PASS = Verdict.PASS


class RateLimiter:
    """
    Limits the messages and bytes of one connection.

    A message over the rate does not pass. An excess of tolerance_seconds closes the
    connection. The excess ends when all messages passed for the time in which
    half a burst refills (at least two seconds), so that single messages that
    pass in between do not restart it.
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
        megabyte of prose. No text counts for more than the burst.
        """
        values = text.count(",") + text.count("[") + text.count("{")
        weight = size_bytes + _BYTES_PER_VALUE * values
        return max(size_bytes, min(weight, int(self._bytes.burst)))

    def check(self, size_bytes: int) -> Verdict:
        """Return the verdict on a message that arrives now."""
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

    def reserve(self, size_bytes: int) -> float:
        """Take the tokens of a message in advance; return the seconds to wait."""
        seconds = self.retry_after_seconds(size_bytes)
        self._messages.overdraw(1, math.inf)
        self._bytes.overdraw(size_bytes, math.inf)
        return seconds

    def extend_excess(self) -> None:
        """Count the time of a delay as excess: the client may have sent on."""
        self._excess_at = self._clock()

    def retry_after_seconds(self, size_bytes: int) -> float:
        """Return the seconds until a message of that size passes."""
        now = self._clock()
        return max(
            self._messages.seconds_until(1, now),
            self._bytes.seconds_until(size_bytes, now),
        )
