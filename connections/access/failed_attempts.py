"""Refuse addresses that sent too many wrong credentials."""

import logging
import math
from collections import OrderedDict

from connections.config.sections import HandshakeConfig
from connections.net.addresses import group_address
from connections.token_bucket import TokenBucket
from connections.units import Clock

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 10_000
"""The bound of remembered addresses; the oldest failures are forgotten first."""

_LOG_SECONDS = 10


class FailedCredentials:
    """
    Counts unknown credentials by address (IPv6 by /64).

    An address that has spent its allowance is refused before a look-up, with
    right or wrong credentials, so that guessing costs no query.
    """

    def __init__(self, config: HandshakeConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._logged_at = -math.inf
        self.refused_count = 0
        """Handshakes refused here."""

    def __len__(self) -> int:
        return len(self._buckets)

    def record(self, address: str) -> None:
        """Count an unknown credential."""
        key, now = group_address(address), self._clock()
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            while len(self._buckets) >= MAX_ADDRESSES:
                self._buckets.popitem(last=False)
            rate = self._config.failures_per_address_per_minute / 60
            bucket = TokenBucket(rate, self._config.failures_per_address_burst, now)
        if not bucket.take(1, now):
            # It arrived while earlier ones were being checked: charge it later.
            bucket.overdraw(1, self._config.per_address_pending)
        self._buckets[key] = bucket

    def is_limited(self, address: str) -> bool:
        """Return True if an address has failed too often; then count and log it."""
        bucket = self._buckets.get(group_address(address))
        if bucket is None:
            return False
        now = self._clock()
        if not bucket.seconds_until(1, now):
            return False
        self.refused_count += 1
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            logger.warning(
                "Too many wrong credentials from %s: refused unread for a while "
                "(%s handshakes since the start)",
                address,
                self.refused_count,
                extra={"event": "credentials_limited"},
            )
        return True
