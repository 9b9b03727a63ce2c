"""Count what observed limits would have done to the connections of one node."""

import logging
from collections import Counter

from connections.config.enforcement import EnforceConfig
from connections.hub.connection import LiveConnection
from connections.metrics.counters import Counters
from connections.pool.base import Pool
from connections.units import Clock

logger = logging.getLogger(__name__)

_SAMPLES = 10
"""How many decisions of one limit have a line of the log and a stored flight record."""

_SAMPLE_SECONDS = 60
"""The time to which the number of samples refers."""


class Observer:
    """
    Records the decisions of limits that are observed and not enforced.

    Every decision is counted by limit and route, and is an event of the flight
    record. A sample of them is logged, and the flight record of their connections
    is stored with their rows.

    The pool knows only connections that would be open if all limits were enforced.
    A connection that would have been refused or evicted holds no slot, so that the
    next decision is that of a pool that had acted. Other ends free the slot if
    clients and total are observed as well; otherwise an enforced limit would no
    longer hold for the connection, which is still open.
    """

    def __init__(self, counters: Counters, pool: Pool, clock: Clock) -> None:
        self._counters = counters
        self._pool = pool
        self._clock = clock
        self._sampled: Counter[str] = Counter()
        self._sampled_since = clock()

    def announce(self, enforce: EnforceConfig) -> None:
        """Log what this node observes and does not enforce."""
        described = enforce.describe()
        if described:
            logger.warning(
                "Observed, not enforced: %s", described, extra={"event": "observing"}
            )
        unknown = {one.route for one in enforce.routes} - self._counters.routes.keys()
        if unknown:
            logger.warning(
                "enforce.routes names unknown routes: %s",
                ", ".join(sorted(unknown)),
                extra={"event": "unknown_routes"},
            )

    def record(self, connection: LiveConnection, limit: str, what: str) -> None:
        """Count one decision about a connection that has not ended for a limit."""
        if connection.would_have_ended:
            return
        self._counters.record_would_have(connection.route, limit)
        connection.flight.record(f"would_have_{what}", limit)
        self._sample(connection, limit, what)

    def record_end(self, connection: LiveConnection, limit: str, what: str) -> None:
        """Count the end that a limit would have caused, once for each connection."""
        self.record(connection, limit, what)
        connection.would_have_ended = True
        if limit in ("clients", "total"):
            connection.slot = None
        elif connection.slot is not None and connection.observed >= _BOTH:
            connection.slot = None
            self._pool.release(connection.connection_id)

    def needs_slot(self, connection: LiveConnection) -> bool:
        """Return False for a connection that no pool would have seen."""
        return not (connection.would_have_ended and connection.observed >= _BOTH)

    def admits(self, connection: LiveConnection, limit: str) -> bool:
        """Return True if the limit that refuses a connection is observed; count it."""
        if limit not in connection.observed:
            return False
        self.record_end(connection, limit, "refused")
        return True

    def _sample(self, connection: LiveConnection, limit: str, what: str) -> None:
        now = self._clock()
        if now - self._sampled_since >= _SAMPLE_SECONDS:
            self._sampled.clear()
            self._sampled_since = now
        if self._sampled[limit] >= _SAMPLES:
            return
        self._sampled[limit] += 1
        connection.keeps_flight = True
        logger.info(
            "Observed, not enforced: %s would have %s connection %s of %.100s",
            limit,
            what,
            connection.connection_id,
            connection.client_id,
            extra={
                "event": "would_have",
                "limit": limit,
                "decision": what,
                "connection_id": connection.connection_id,
                "client_id": connection.client_id,
                "route": connection.route,
            },
        )


_BOTH = {"clients", "total"}
