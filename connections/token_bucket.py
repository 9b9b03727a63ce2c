"""Limit a rate with a token bucket."""


class TokenBucket:
    """
    A bucket of `burst` tokens that refills at `rate` tokens a second.

    Over any span of t seconds it grants at most burst + rate * t tokens.
    """

    __slots__ = ("_filled_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, amount: float, now: float) -> bool:
        """Take tokens if there are enough; now is in seconds, monotonic."""
        if self._refill(now) < amount:
            return False
        self._tokens -= amount
        return True

    def overdraw(self, amount: float, most: float) -> None:
        """Take tokens that the bucket lacks, down to minus `most`."""
        self._tokens = max(-most, self._tokens - amount)

    def give_back(self, amount: float) -> None:
        """Put back tokens that were taken for a message that was refused otherwise."""
        self._tokens = min(self.burst, self._tokens + amount)

    def seconds_until(self, amount: float, now: float) -> float:
        """Return the seconds until the bucket has that many tokens (0: now)."""
        missing = min(amount, self.burst) - self._refill(now)
        return max(0.0, missing / self.rate)

    def _refill(self, now: float) -> float:
        elapsed = now - self._filled_at
        if elapsed > 0:
            tokens = self._tokens + elapsed * self.rate
            self._tokens = tokens if tokens < self.burst else self.burst
            self._filled_at = now
        return self._tokens
