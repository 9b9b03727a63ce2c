"""Limit the requests of each access token, in this process."""

import math
import time
from collections import OrderedDict

from connections.api.errors import ApiError
from connections.config.api import ApiConfig
from connections.token_bucket import TokenBucket
from connections.units import Clock

MOST_TOKENS = 10_000
"""The bound of remembered tokens; those unused for longest are forgotten."""


class RequestRates:
    """One token bucket for each access token, by the digest of the token."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, digest: str, config: ApiConfig) -> None:
        """
        Count a request of a token.

        Raises:
            ApiError: 429, the token made too many requests.
        """
        now = self._clock()
        rate, burst = config.requests_per_second, config.burst_requests
        bucket = self._buckets.pop(digest, None)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            bucket = TokenBucket(rate, burst, now)
        self._buckets[digest] = bucket
        if len(self._buckets) > MOST_TOKENS:
            self._buckets.popitem(last=False)
        if not bucket.take(1, now):
            wait_seconds = math.ceil(bucket.seconds_until(1, now))
            raise ApiError(
                429,
                "rate_limited",
                f"The token made more than {rate:g} requests a second "
                "(api.requests_per_second, api.burst_requests); retry in "
                f"{max(1, wait_seconds)} s.",
                {"Retry-After": str(max(1, wait_seconds))},
            )
