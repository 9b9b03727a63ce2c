"""Report that the pool is full: in the log, on /readyz and to alerts."""

import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from connections.exceptions import PoolUnavailable
from connections.hub.hub import Hub
from connections.metrics.meter import WINDOW_SECONDS, Meter
from connections.pool.base import Usage
from connections.units import Clock, count_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 1
_LOG_SECONDS = 60
"""The least time between two lines of the log, while handshakes are refused."""


class FullPool:
    """
    Counts the handshakes that this node refused within a minute for want of a slot.

    The log gets a line at the first refusal, one a minute while refusals go on, and
    one when no handshake was refused for a minute.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        meter: Meter,
        get_usage: Callable[[], Usage | None],
        read_usage: Callable[[], Awaitable[Usage]],
        is_shared: bool,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._meter = meter
        self._get_usage = get_usage
        self._read_usage = read_usage
        self._here = " on this node" if is_shared else ""
        self._clock = clock
        self._began_at: float | None = None
        self._logged_at = clock()

    def describe(self) -> str:
        """Return who was refused and who holds the slots; empty if there is room."""
        refused = self._count_refused()
        usage = self._get_usage()
        if not refused and (usage is None or usage.slots < usage.limit):
            return ""
        parts = [f"{refused} refused in the last minute"]
        if usage is not None:
            parts.append(f"{usage.slots} of {usage.limit} slots are taken")
        held = Counter(one.client_id for one in self._hub)
        if held:
            most = max(held.values())
            holders = sum(count == most for count in held.values())
            verb = "holds" if holders == 1 else "hold"
            each = "" if holders == 1 else " each"
            parts.append(f"{count_of(holders, 'client')} {verb} {most}{each}")
        return ", ".join(parts) + (self._here if held else "")

    async def poll(self) -> None:
        """Log that handshakes are refused, and that they are not any more."""
        now = self._clock()
        if self._count_refused():
            with contextlib.suppress(PoolUnavailable):
                await self._read_usage()
            if self._began_at is None:
                self._began_at = now
            elif now - self._logged_at < _LOG_SECONDS:
                return
            self._logged_at = now
            logger.error(
                "The pool is full: %s", self.describe(), extra={"event": "pool_full"}
            )
        elif self._began_at is not None:
            logger.warning(
                "The pool has refused no handshake for a minute, after %.0f s of"
                " refusals",
                now - self._began_at - WINDOW_SECONDS,
                extra={"event": "pool_has_room"},
            )
            self._began_at = None

    def _count_refused(self) -> int:
        recent: dict[str, int] = self._meter.latest["counters"]["recent"]
        return recent["pool_full"]
