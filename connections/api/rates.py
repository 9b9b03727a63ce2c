"""Limit the requests of each access token or client, in this process."""

import math
import time
from collections import OrderedDict

from connections.api.errors import ApiError
from connections.token_bucket import TokenBucket
from connections.units import Clock

MOST_KEYS = 10_000
"""The bound of remembered tokens or clients; those unused for longest are forgotten."""


class RequestRates:
    """One token bucket for each key, such as the digest of an access token."""

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        subject: str = "token",
        options: str = "api.requests_per_second, api.burst_requests",
    ) -> None:
        self._subject = subject
        self._options = options
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, rate: float, burst: float) -> None:
        """
        Count a request of a key, with so many a second and in a burst.

        Raises:
            ApiError: 429, there were too many requests of this key.
        """
        now = self._clock()
        bucket = self._buckets.pop(key, None)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            bucket = TokenBucket(rate, burst, now)
        self._buckets[key] = bucket
        if len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        if not bucket.take(1, now):
            wait_seconds = math.ceil(bucket.seconds_until(1, now))
            raise ApiError(
                429,
                "rate_limited",
                f"The {self._subject} made more than {rate:g} requests a second "
                f"({self._options}); retry in {max(1, wait_seconds)} s.",
                {"Retry-After": str(max(1, wait_seconds))},
            )

    def charge(self, key: str, amount: float) -> None:
        """Count more of a key, which later requests have to wait for."""
        if bucket := self._buckets.get(key):
            bucket.overdraw(amount, math.inf)
