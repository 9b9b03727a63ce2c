"""Generate a day of connections, and replay it against a real node on moved clocks."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from connections import close_codes
from connections.close_codes import CloseReason
from connections.connection.scope import connection_from_scope
from connections.exceptions import ClientFull, PoolFull
from connections.hub.connection import LiveConnection
from connections.limits import Limits
from connections.node.node import Node
from connections.testing import FakeClock

CONNECTIONS = 10_000
DAY_SECONDS = 86_400
BEAT_SECONDS = 20
_FLUSHED_EVERY = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One connection of the day; moments are seconds since its start."""

    client_id: str
    opens_at: float
    closes_at: float
    silent_from: float
    silent_until: float
    phase: float
    """How long before a beat the last message came, outside of the silence."""

    def find_activity(self, moment: float) -> float:
        """Return when the last message came before a beat at this moment."""
        active_at = max(self.opens_at, moment - self.phase)
        if active_at < self.silent_from:
            return active_at
        return self.silent_from if moment < self.silent_until else moment - self.phase


def generate_day(seed: int) -> list[Planned]:
    """Return the connections of a day, oldest first; few clients have many."""
    chance = random.Random(seed)
    clients = [f"client-{number}" for number in range(900)]
    weights = [1 / (number + 2) for number in range(len(clients))]
    planned = []
    for client_id in chance.choices(clients, weights, k=CONNECTIONS):
        # Most connections open around noon.
        opens_at = chance.triangular(0, DAY_SECONDS - 60, DAY_SECONDS / 2)
        lasts = min(chance.lognormvariate(6.5, 1.2), 6 * 3600)
        silent_from = opens_at + chance.uniform(0, lasts)
        silent_for = chance.expovariate(1 / 200)
        planned.append(
            Planned(
                client_id=client_id,
                opens_at=opens_at,
                closes_at=min(opens_at + lasts, DAY_SECONDS - 1),
                silent_from=silent_from,
                silent_until=silent_from + silent_for,
                phase=chance.uniform(0, BEAT_SECONDS),
            )
        )
    return sorted(planned, key=lambda one: one.opens_at)


@dataclass(slots=True)
class Replay:
    """What happened to the connections of a day, by limit and client."""

    affected: Counter[str] = field(default_factory=Counter)
    by_client: Counter[str] = field(default_factory=Counter)


class _Leaver:
    """The sender of a client that leaves as soon as the node ends its connection."""

    def __init__(self, ended: Callable[[CloseReason], None]) -> None:
        self._ended = ended

    def end(
        self, close_reason: CloseReason, ref: str | None, after_ms: int | None
    ) -> None:
        self._ended(close_reason)

    def announce(self, close_reason: CloseReason, after_ms: int) -> None: ...

    def send(self, content: dict[str, Any]) -> bool:
        return False

    def abort(self) -> None: ...


_LIMIT_OF = {close_codes.EVICTED: "clients", close_codes.IDLE: "idle"}


class Day:
    """Replays a day on one node, whose clock and wall clock the test moves."""

    def __init__(self, node: Node, clock: FakeClock, start: datetime) -> None:
        self.node = node
        self.now = start
        self._start = start
        self._clock = clock
        self._open: dict[int, LiveConnection] = {}
        self.result = Replay()

    async def run(self, planned: list[Planned]) -> Replay:
        """Replay the day: openings, ends, and a check for idle ones each beat."""
        for count, (moment, kind, index) in enumerate(_list_events(planned)):
            self._move_to(moment)
            if kind == "beat":
                self._be_active(planned, moment)
                await self.node.activity.check_idle()
            elif kind == "open":
                await self._admit(index, planned[index])
            elif index in self._open:
                connection = self._open.pop(index)
                self.node.leave(connection, 1000, "closed")
            if self.node.recorder is not None and count % _FLUSHED_EVERY == 0:
                await self.node.recorder.flush()
                await self.node.refusals.flush()
        if self.node.recorder is not None:
            await self.node.recorder.flush()
            await self.node.refusals.flush()
        return self.result

    def _move_to(self, moment: float) -> None:
        moved = moment - (self.now - self._start).total_seconds()
        self._clock.advance(moved)
        self.now = self._start + timedelta(seconds=moment)

    def _be_active(self, planned: list[Planned], moment: float) -> None:
        now = self._clock()
        for index, connection in self._open.items():
            active_at = planned[index].find_activity(moment)
            connection.last_activity = now - (moment - active_at)

    async def _admit(self, index: int, planned: Planned) -> None:
        node, client_id = self.node, planned.client_id

        def leave(close_reason: CloseReason) -> None:
            self._count(_LIMIT_OF[close_reason], client_id)
            node.leave(self._open.pop(index), close_reason.code, close_reason.reason)

        limits = Limits.configured(node.config)
        scope = {"path": "/ws/", "route": "ws/"}
        connection = connection_from_scope(
            scope, client_id, node, _Leaver(leave), limits
        )
        connection.mark_opened(self._clock())
        try:
            await node.admit(connection, None)
        except ClientFull:
            self._count("clients", client_id)
        except PoolFull:
            self._count("total", client_id)
        else:
            self._open[index] = connection

    def _count(self, limit: str, client_id: str) -> None:
        self.result.affected[limit] += 1
        self.result.by_client[client_id] += 1


def _list_events(planned: list[Planned]) -> Iterator[tuple[float, str, int]]:
    """Yield the moment, the kind and the connection of each event, in order."""
    events: list[tuple[float, str, int]] = []
    for index, one in enumerate(planned):
        events += [(one.opens_at, "open", index), (one.closes_at, "close", index)]
    events += [(at, "beat", 0) for at in range(0, DAY_SECONDS, BEAT_SECONDS)]
    yield from sorted(events)
