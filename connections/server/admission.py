"""Decide which handshakes reach the application, and refuse the others cheaply."""

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from connections.config.enforcement import FAR_OVER
from connections.config.loader import WebSocketConfig
from connections.net.addresses import find_source, group_address, is_listed
from connections.server.websocket.handshake import Handshake, Header
from connections.token_bucket import TokenBucket
from connections.units import Clock

logger = logging.getLogger(__name__)

_OVERLOADED_SECONDS = 5
"""Seconds in Retry-After when the node has too many open WebSockets."""

_MAX_BUCKETS = 10_000
"""Addresses whose rate or refusal is kept; the oldest is dropped first."""

_LOG_SECONDS = 10

_REFUSED_SECONDS = 60
"""How long an address counts as refused: longer than a client waits between tries."""


class Pending(Protocol):
    """A handshake in progress."""

    def cut_off(self) -> None:
        """Answer the handshake with a refusal and end it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A reason to refuse a handshake, its HTTP status, and when the client may return.

    503 says that the node refuses everybody, so that a proxy asks another node.
    429 concerns one address, and a proxy passes it on (RFC 6585, section 4).
    """

    reason: str
    status: int
    retry_after_seconds: int

    def describe(self) -> tuple[int, str, list[Header]]:
        """Return the status, the explanation and a header of the answer."""
        retry_after = (b"Retry-After", b"%d" % self.retry_after_seconds)
        return self.status, f"Try again later: {self.reason}", [retry_after]


class PendingHandshakes:
    """Handshakes in progress, oldest first, in all and by address."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[Pending, str | None] = OrderedDict()
        self._by_address: dict[str, OrderedDict[Pending, None]] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, pending: Pending, address: str | None) -> None:
        """Add a handshake; without an address it counts in the total only."""
        self._addresses[pending] = address
        if address is not None:
            self._by_address.setdefault(address, OrderedDict())[pending] = None

    def remove(self, pending: Pending) -> None:
        """Remove a handshake if it is there."""
        address = self._addresses.pop(pending, None)
        if address is not None:
            same = self._by_address[address]
            del same[pending]
            if not same:
                del self._by_address[address]

    def find(self, pending: Pending) -> str | None:
        """Return the address of a handshake that is there, if it has one."""
        return self._addresses.get(pending)

    def count(self, address: str) -> int:
        """Return how many handshakes come from an address."""
        return len(self._by_address.get(address, ()))

    def oldest(self, address: str | None = None) -> Pending:
        """Return the oldest handshake, of all or of one address."""
        same = self._addresses if address is None else self._by_address[address]
        return next(iter(same))


class Admission:
    """
    Admits or refuses handshakes before the application sees them.

    A slow request never keeps another out: beyond the bound the oldest
    incomplete one is refused, of the heads and of the bodies apart. A complete
    handshake counts from its arrival until the application has answered it.
    """

    def __init__(self, config: WebSocketConfig, clock: Clock) -> None:
        self._config = config.handshake
        self._trusted_proxies = config.trusted_proxies
        self._clock = clock
        limit = config.max_total_connections
        if config.enforce.observes("total"):
            limit *= FAR_OVER
        self._max_open = max(math.floor(1.1 * limit), limit + 50)
        self._heads = PendingHandshakes()
        self._bodies = PendingHandshakes()
        self._unanswered = PendingHandshakes()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._refused_at: OrderedDict[str, float] = OrderedDict()
        self._logged_at = -math.inf
        self._unlogged = 0
        self.is_draining = False
        self.open_count = 0
        """How many WebSockets are accepted and not closing."""
        self.refusals: Counter[str] = Counter()
        """How many handshakes were refused here, by reason."""
        self.on_refused: Callable[[str], None] = lambda address: None
        """Called with the address of each refused handshake."""

    @property
    def unanswered_count(self) -> int:
        """How many complete handshakes wait for the application."""
        return len(self._unanswered)

    # Request heads

    def find_limited(self, peer: str | None) -> str | None:
        """Return the address whose heads are limited, or None."""
        # All clients of a proxy share its address.
        if peer is None or is_listed(peer, self._trusted_proxies):
            return None
        return peer

    def begin_head(self, pending: Pending, address: str | None) -> None:
        """Count a connection whose request head is incomplete."""
        self._begin(self._heads, pending, address)

    def begin_body(self, pending: Pending, address: str | None) -> None:
        """Count it as an upload instead, which no flood of heads drops."""
        self._heads.remove(pending)
        self._begin(self._bodies, pending, address)

    def end_head(self, pending: Pending) -> None:
        """Stop counting it: the request is complete, or the connection is closed."""
        self._heads.remove(pending)
        self._bodies.remove(pending)

    def _begin(
        self, waiting: PendingHandshakes, pending: Pending, address: str | None
    ) -> None:
        """Add a pending request; beyond a bound the oldest is refused."""
        if address is not None:
            address = group_address(address)
            if waiting.count(address) >= self._config.per_address_pending:
                self._cut_off(waiting.oldest(address))
        if len(waiting) >= self._config.max_pending:
            self._cut_off(waiting.oldest())
        waiting.add(pending, address)

    # Complete handshakes

    def admit(
        self, pending: Pending, handshake: Handshake, peer: str | None
    ) -> Refusal | None:
        """Count a handshake by the address behind trusted proxies, or refuse it."""
        source = find_source(
            peer,
            handshake.headers,
            self._trusted_proxies,
            is_secure=handshake.is_secure,
        )
        return self.begin_handshake(pending, source.address)

    def begin_handshake(self, pending: Pending, address: str) -> Refusal | None:
        """Count a handshake, unless it is refused."""
        address = group_address(address)
        refusal = self._check(address)
        if refusal is not None:
            self._remember(address)
            self._record(refusal.reason)
            self.on_refused(address)
            return refusal
        if len(self._unanswered) >= self._config.max_pending:
            self._cut_off(self._unanswered.oldest())
        self._unanswered.add(pending, address)
        return None

    def end_handshake(self, pending: Pending) -> None:
        """Stop counting it: it was answered, or the client has left."""
        self._unanswered.remove(pending)

    def note_refusal(self, pending: Pending) -> None:
        """Remember that a client was told to return later, whose handshake counts."""
        address = self._unanswered.find(pending)
        if address is not None:
            self._remember(address)

    def was_refused(self, address: str) -> bool:
        """Return whether a client of an address was told to return later, just now."""
        at = self._refused_at.get(group_address(address), -math.inf)
        return self._clock() - at < _REFUSED_SECONDS

    def _remember(self, address: str) -> None:
        if not address:
            # All clients of a Unix socket whose proxy names none.
            return
        self._refused_at[address] = self._clock()
        self._refused_at.move_to_end(address)
        if len(self._refused_at) > _MAX_BUCKETS:
            self._refused_at.popitem(last=False)

    def _check(self, address: str) -> Refusal | None:
        if self.is_draining:
            return Refusal("draining", 503, 1)
        if self.open_count >= self._max_open:
            return Refusal("overloaded", 503, _OVERLOADED_SECONDS)
        if not address:
            # All clients of a Unix socket whose proxy names none: one would
            # use up the limits of all.
            return None
        if self._unanswered.count(address) >= self._config.per_address_pending:
            return Refusal("pending", 429, 1)
        now = self._clock()
        bucket = self._get_bucket(address, now)
        if not bucket.take(1, now):
            return Refusal("rate", 429, math.ceil(bucket.seconds_until(1, now)))
        return None

    def _get_bucket(self, address: str, now: float) -> TokenBucket:
        bucket = self._buckets.pop(address, None)
        if bucket is None:
            while len(self._buckets) >= _MAX_BUCKETS:
                self._buckets.popitem(last=False)
            rate = self._config.per_address_per_second
            bucket = TokenBucket(rate, self._config.per_address_burst, now)
        self._buckets[address] = bucket
        return bucket

    def _cut_off(self, pending: Pending) -> None:
        self.end_head(pending)
        self.note_refusal(pending)
        self._unanswered.remove(pending)
        self._record("oldest")
        pending.cut_off()

    def _record(self, reason: str) -> None:
        """Count a refusal; log the number at most once in a while."""
        self.refusals[reason] += 1
        self._unlogged += 1
        now = self._clock()
        if now - self._logged_at >= _LOG_SECONDS:
            logger.warning(
                "%s handshakes refused before the application; the last one: %s",
                self._unlogged,
                reason,
                extra={"event": "handshakes_refused"},
            )
            self._logged_at = now
            self._unlogged = 0
