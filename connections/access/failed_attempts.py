"""Slow down addresses that sent too many wrong credentials."""

import asyncio
import logging
import math
from collections import OrderedDict

from connections import close_codes
from connections.config.sections import HandshakeConfig
from connections.exceptions import Refused
from connections.net.addresses import group_address
from connections.privacy import show_address
from connections.token_bucket import TokenBucket
from connections.units import Clock

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 10_000
"""The bound of remembered addresses; the oldest failures are forgotten first."""

_LOG_SECONDS = 10
_MOST_WAIT_SECONDS = 2


class FailedCredentials:
    """
    Counts wrong credentials by address (IPv6 by /64).

    The attempts of an address that has spent its allowance wait in a queue,
    which lets handshake.per_address_per_second of them be verified, as many as
    the server admits of one address. So wrong credentials push out no right one
    from the same address, for example behind the same proxy. Tokens, JWTs and
    tickets cannot be guessed at any rate.
    """

    def __init__(self, config: HandshakeConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._logged_at = -math.inf
        self._most_wait_seconds = min(_MOST_WAIT_SECONDS, config.timeout_seconds / 2)
        self.refused_count = 0
        """Attempts refused here."""

    def __len__(self) -> int:
        return len(self._addresses)

    def record(self, address: str) -> None:
        """Count a wrong credential."""
        key, now = group_address(address), self._clock()
        known = self._addresses.pop(key, None)
        if known is None:
            while len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.popitem(last=False)
            rate = self._config.failures_per_address_per_minute / 60
            burst = self._config.failures_per_address_burst
            known = _Address(TokenBucket(rate, burst, now))
        if not known.allowance.take(1, now):
            # It arrived while earlier ones were being checked: charge it later.
            known.allowance.overdraw(1, self._config.per_address_pending)
        self._addresses[key] = known

    def is_limited(self, address: str) -> bool:
        """Return True if an address has spent its allowance."""
        known = self._addresses.get(group_address(address))
        if known is None:
            return False
        return known.allowance.seconds_until(1, self._clock()) > 0

    async def wait(self, address: str) -> None:
        """
        Wait until the next attempt of a limited address may be verified.

        Raises:
            Refused: too many attempts of the address wait.
        """
        loop = asyncio.get_running_loop()
        known = self._addresses[group_address(address)]
        wait_seconds = known.verified_at - loop.time()
        if wait_seconds > self._most_wait_seconds:
            raise self.refuse(address)
        known.verified_at = (
            max(known.verified_at, loop.time())
            + 1 / self._config.per_address_per_second
        )
        if wait_seconds > 0:
            await asyncio.sleep(wait_seconds)

    def refuse(self, address: str) -> Refused:
        """Count and log an attempt of a limited address; return its refusal."""
        self.refused_count += 1
        now = self._clock()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            logger.warning(
                "Too many wrong credentials from %s: verified slowly for a while "
                "(%s attempts refused since the start)",
                show_address(address),
                self.refused_count,
                extra={"event": "credentials_limited"},
            )
        return Refused(close_codes.RATE_LIMITED)


class _Address:
    """The wrong credentials of one address, and its queue of attempts."""

    __slots__ = ("allowance", "verified_at")

    def __init__(self, allowance: TokenBucket) -> None:
        self.allowance = allowance
        self.verified_at = -math.inf
        """When the last attempt of the queue is verified, on the loop's clock."""
