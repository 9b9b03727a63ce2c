"""Bound the HTTP requests that a node serves at once, in all and by address."""

import logging
import math
from collections import Counter
from collections.abc import Sequence

from connections.config.loader import WebSocketConfig
from connections.net.addresses import (
    Header,
    find_source,
    group_address,
    is_listed,
    is_passed_on_by_stranger,
)
from connections.privacy import show_address
from connections.server.admission import Refusal
from connections.units import Clock

logger = logging.getLogger(__name__)

_LOG_SECONDS = 10

_BUSY_SECONDS, _TOO_MANY_SECONDS = 5, 1
"""Seconds in Retry-After: of a node that is busy, of an address with too many."""


class RequestLimits:
    """
    Admits or refuses HTTP requests before the application sees them.

    A request counts from its last byte until its client has the response and its
    application has ended: an application may hold a thread until then.
    """

    def __init__(self, config: WebSocketConfig, clock: Clock) -> None:
        self._config = config.http
        self._trusted_proxies = config.trusted_proxies
        self._clock = clock
        self._addresses: dict[object, str | None] = {}
        self._by_address: Counter[str] = Counter()
        self._has_warned = False
        self.refusals: Counter[str] = Counter()
        """How many requests the server answered instead of the application."""
        self._logged_at = -math.inf
        self._unlogged = 0

    def __len__(self) -> int:
        return len(self._addresses)

    def check(self, address: str | None) -> Refusal | None:
        """Return why one more request is refused now, or None."""
        if len(self._addresses) >= self._config.max_requests:
            return self._record(Refusal("busy", 503, _BUSY_SECONDS))
        if (
            address is not None
            and self._by_address[address] >= self._config.max_requests_per_address
        ):
            return self._record(Refusal("too many requests", 429, _TOO_MANY_SECONDS))
        return None

    def begin(self, request: object, address: str | None) -> Refusal | None:
        """Count a request, unless it is refused."""
        refusal = self.check(address)
        if refusal is None:
            self._addresses[request] = address
            if address is not None:
                self._by_address[address] += 1
        return refusal

    def end(self, request: object) -> None:
        """Stop counting a request, if it counts."""
        address = self._addresses.pop(request, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def find_address(self, peer: str | None, headers: Sequence[Header]) -> str | None:
        """
        Return the client's address for its limit, None where it is unknown.

        All clients of a proxy that is not trusted, and of one that names no client,
        would share one address. The limit in all still holds for them.
        """
        trusted = self._trusted_proxies
        source = find_source(peer, headers, trusted, is_secure=False)
        if (
            source.address
            and not is_passed_on_by_stranger(peer, headers, trusted)
            and not is_listed(source.address, trusted)
        ):
            return group_address(source.address)
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "http.max_requests_per_address does not hold for requests through %s: "
                "the address of the client is unknown; see trusted_proxies",
                show_address(peer) if peer else "a Unix socket",
                extra={"event": "request_address_unknown"},
            )
        return None

    def _record(self, refusal: Refusal) -> Refusal:
        """Log the number of refusals, at most once in a while."""
        self._unlogged += 1
        now = self._clock()
        if now - self._logged_at >= _LOG_SECONDS:
            logger.warning(
                "%s HTTP requests refused; the last one: %s",
                self._unlogged,
                refusal.reason,
                extra={"event": "requests_refused"},
            )
            self._logged_at, self._unlogged = now, 0
        return refusal
