"""Hold recorded connections to limits, and count whom these would have affected."""

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from heapq import heappop, heappush

from connections.close_codes import CLIENT_FULL, EVICTED, IDLE, POOL_FULL, RATE_LIMITED
from connections.config.loader import WebSocketConfig
from connections.exceptions import ClientFull, PoolFull
from connections.forecast.durations import Durations
from connections.forecast.records import Record, RefusedRecord
from connections.metrics.space_saving import SpaceSaving
from connections.pool.base import Slot
from connections.pool.local import LocalPool

EVICTIONS, CLIENT_REFUSALS, TOTAL_REFUSALS, IDLE_ENDS = (
    *("evicted", "refused_for_client"),
    *("refused_for_total", "idle"),
)
KINDS = (EVICTIONS, CLIENT_REFUSALS, TOTAL_REFUSALS, IDLE_ENDS)
"""How a limit affects a connection."""

LIMIT_OF = {
    EVICTIONS: "clients",
    CLIENT_REFUSALS: "clients",
    TOTAL_REFUSALS: "total",
    IDLE_ENDS: "idle",
}
"""The limit that affects a connection, as in websocket_would_have_total."""

MOST_CLIENTS = 200_000
"""Distinct clients are counted up to this number."""

RETRY_SECONDS = 15
"""Clients of this package return within this time after they were refused."""

_RANKED_CLIENTS = 1000
_ENDED_BY_LIMITS = frozenset(
    one.reason for one in (EVICTED, CLIENT_FULL, POOL_FULL, IDLE, RATE_LIMITED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastLimits:
    """The limits to which recorded connections are held."""

    max_connections_per_client: int
    max_total_connections: int
    idle_timeout_seconds: float
    on_client_limit: str

    @classmethod
    def configured(cls, config: WebSocketConfig) -> "ForecastLimits":
        """Return the limits in force."""
        return cls(
            max_connections_per_client=config.max_connections_per_client,
            max_total_connections=config.max_total_connections,
            idle_timeout_seconds=config.idle_timeout_seconds,
            on_client_limit=config.on_client_limit,
        )


class DistinctClients:
    """Counts distinct clients in bounded memory."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def is_full(self) -> bool:
        """True if there may be more than were counted."""
        return len(self._hashes) >= MOST_CLIENTS

    def add(self, client_id: str) -> None:
        """Count a client."""
        if not self.is_full:
            self._hashes.add(hash(client_id))


@dataclass(slots=True, kw_only=True)
class Forecast:
    """Whom limits would have affected."""

    connections: int = 0
    clients: DistinctClients = field(default_factory=DistinctClients)
    affected: Counter[str] = field(default_factory=Counter)
    """Affected connections by kind; each connection counts once."""

    affected_clients: DistinctClients = field(default_factory=DistinctClients)
    ranking: SpaceSaving = field(default_factory=lambda: SpaceSaving(_RANKED_CLIENTS))
    """Affected connections by client."""

    by_hour: Counter[int] = field(default_factory=Counter)
    """Affected connections by hour since the Unix epoch."""

    by_route: Counter[str] = field(default_factory=Counter)
    over_rate_connections: int = 0
    over_rate_messages: int = 0
    unknown: int = 0
    """Connections without the columns that idle and rate need."""

    refused: int = 0
    """Handshakes that limits in force had refused."""

    estimated: int = 0
    """Those of them that are admitted; how long they would have lasted is estimated."""

    ended_by_limits: Counter[str] = field(default_factory=Counter)
    """Connections that the limits then in force had ended, by reason."""


class Simulation:
    """
    Replays recorded connections against a pool of the same code as a node's.

    Memory grows with the connections that are open at once, and not with the
    length of the period.
    """

    def __init__(
        self,
        limits: ForecastLimits,
        *,
        beat_seconds: float,
        start: float,
        end: float,
    ) -> None:
        self.forecast = Forecast()
        self._limits = limits
        self._beat_seconds = beat_seconds
        self._start = start
        self._end = end
        self._pool = LocalPool(
            max_total=limits.max_total_connections,
            evict_oldest=limits.on_client_limit == "evict_oldest",
        )
        # Client and route of each connection with a slot.
        self._open: dict[str, tuple[str, str]] = {}
        # The ends to come: the moment, the connection, and whether it is idle then.
        self._ends: list[tuple[float, str, bool]] = []
        self._durations = Durations()
        # When a handshake that was refused is admitted, or tried again; by client and
        # route, the oldest first.
        self._admitted: OrderedDict[tuple[str, str], float] = OrderedDict()

    def add(self, record: Record) -> None:
        """Open a connection, after all that opened before it."""
        self._end_until(record.opened_at)
        self._describe(record)
        idle_at = record.find_idle_end(
            self._limits.idle_timeout_seconds, self._beat_seconds
        )
        ends_at = record.ends_at if idle_at is None else idle_at
        is_idle = idle_at is not None
        if record.reason not in _ENDED_BY_LIMITS:
            self._durations.add(ends_at - record.opened_at, is_idle)
        if self._take(record.connection_id, record, 1):
            self._end_at(ends_at, record.connection_id, is_idle)

    def add_refused(self, refused: RefusedRecord) -> None:
        """Try handshakes that were refused; those that are admitted open."""
        moment, client_id = refused.opened_at, refused.client_id
        self._end_until(moment)
        if moment >= self._start:
            self.forecast.refused += refused.count
            self.forecast.clients.add(client_id)
        if self._is_retry(refused):
            return
        for number in range(refused.count):
            name = f"refused-{refused.row_id}-{number}"
            if not self._take(name, refused, refused.count - number):
                return
            lasts, is_idle = self._durations.next()
            self._end_at(moment + lasts, name, is_idle)
            if moment >= self._start:
                self.forecast.estimated += 1
            if client_id:
                self._admitted[client_id, refused.route] = moment
                return

    def finish(self) -> Forecast:
        """Return the forecast, up to the end of the period."""
        self._end_until(self._end)
        return self.forecast

    def _take(self, name: str, record: Record | RefusedRecord, count: int) -> bool:
        """Take a slot; if there is none, count so many refusals, and return False."""
        found = (record.client_id, record.route)
        slot = Slot(
            connection_id=name,
            client_id=record.client_id or name,
            node_id="",
            opened_at=record.opened_at,
            limit=self._limits.max_connections_per_client,
        )
        try:
            evicted = self._pool.take(slot)
        except ClientFull:
            self._count(CLIENT_REFUSALS, *found, record.opened_at, count)
            return False
        except PoolFull:
            self._count(TOTAL_REFUSALS, *found, record.opened_at, count)
            return False
        for one in evicted:
            held = self._open.pop(one.connection_id)
            self._count(EVICTIONS, *held, record.opened_at)
        self._open[name] = found
        return True

    def _end_at(self, moment: float, name: str, is_idle: bool) -> None:
        if moment < math.inf:
            heappush(self._ends, (moment, name, is_idle))

    def _is_retry(self, refused: RefusedRecord) -> bool:
        """Return True for a handshake that an admitted client would not have made."""
        oldest = refused.opened_at - RETRY_SECONDS
        while self._admitted and next(iter(self._admitted.values())) < oldest:
            self._admitted.popitem(last=False)
        key = (refused.client_id, refused.route)
        if key not in self._admitted:
            return False
        self._admitted[key] = refused.opened_at
        self._admitted.move_to_end(key)
        return True

    def _end_until(self, moment: float) -> None:
        while self._ends and self._ends[0][0] <= moment:
            ends_at, connection_id, is_idle = heappop(self._ends)
            held = self._open.pop(connection_id, None)
            if held is not None:
                self._pool.release(connection_id)
                if is_idle:
                    self._count(IDLE_ENDS, *held, ends_at)

    def _describe(self, record: Record) -> None:
        forecast = self.forecast
        if record.ends_at < self._start:
            return
        forecast.connections += 1
        forecast.clients.add(record.client_id)
        if record.longest_silence_seconds is None or record.over_rate is None:
            forecast.unknown += 1
        if record.over_rate:
            forecast.over_rate_connections += 1
            forecast.over_rate_messages += record.over_rate
        if record.reason in _ENDED_BY_LIMITS:
            forecast.ended_by_limits[record.reason] += 1

    def _count(
        self, kind: str, client_id: str, route: str, moment: float, count: int = 1
    ) -> None:
        if moment < self._start:
            return
        forecast = self.forecast
        forecast.affected[kind] += count
        forecast.by_hour[int(moment // 3600)] += count
        forecast.by_route[route] += count
        if client_id:
            forecast.affected_clients.add(client_id)
            forecast.ranking.add(client_id, count)
