"""A simulated node: its handshakes, its members and its beats."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import simpy

from benchmarks.simulation.stations import Station
from connections.client.reconnect import Ended, read_end
from connections.close_codes import NETWORK, POOL_FULL

if TYPE_CHECKING:
    from benchmarks.simulation.model import Model

Steps = Generator[simpy.Event, Any, Any]

POOL_TIMEOUT_SECONDS = 1.0
"""A node that waits longer for its pool admits by itself (on_pool_outage: local)."""

LOST = read_end(NETWORK.code, "", None)
_FULL = read_end(POOL_FULL.code, "", None)


@dataclass(eq=False, slots=True)
class Cohort:
    """Clients that move together."""

    weight: int
    has_slots: bool = False
    """Whether they hold slots, which a killed node leaves behind for a lease."""

    node: "Node | None" = None
    place: int = 0
    """The index among the members of the node."""

    reaches_at: float = 0.0
    """When a balancer leads them to nodes."""


@dataclass(eq=False, slots=True)
class _Handshake:
    cohort: Cohort
    answered: simpy.Event
    """Succeeds with None when it is accepted, else with the end of the connection."""


class Node:
    """One node with one core, which reads handshakes before it completes them."""

    def __init__(self, model: "Model") -> None:
        self.is_serving = True
        self.members: list[Cohort] = []
        self.count = 0
        """How many connections are open."""

        self.core = Station(model.env)
        self._model = model
        self._env = model.env
        self._unread: deque[_Handshake] = deque()
        self._waiting: deque[_Handshake] = deque()
        self._completing: set[_Handshake] = set()
        self._under_way = 0
        self._rows = 0.0
        self._late = 0
        self._alone_until = 0.0
        self._arrived = model.env.event()
        model.env.process(self._work())
        model.env.process(self._beat())

    # Members

    def add(self, cohort: Cohort) -> None:
        """Add members."""
        cohort.node, cohort.place = self, len(self.members)
        self.members.append(cohort)
        self.count += cohort.weight

    def remove(self, cohort: Cohort) -> None:
        """Remove members; the last ones get their place in the list."""
        last = self.members.pop()
        if last is not cohort:
            self.members[cohort.place] = last
            last.place = cohort.place
        cohort.node = None
        self.count -= cohort.weight

    def close(self, cohort: Cohort) -> None:
        """Close the connections of members."""
        self.remove(cohort)
        model, costs = self._model, self._model.costs
        use = costs.close.scale(cohort.weight)
        self.core.serve(use.node_us / 1e6)
        self._rows += cohort.weight
        model.spend(use, rows=cohort.weight)
        if cohort.has_slots:
            model.release(cohort)

    def stop(self) -> None:
        """Serve no more; handshakes under way are lost."""
        self.is_serving = False
        for handshake in (*self._unread, *self._waiting, *self._completing):
            handshake.answered.succeed(LOST)
        self._unread.clear()
        self._waiting.clear()
        self._completing.clear()

    # Handshakes

    def begin(self, cohort: Cohort) -> simpy.Event:
        """Begin handshakes; return the event of their answer."""
        handshake = _Handshake(cohort, self._env.event())
        self._unread.append(handshake)
        if not self._arrived.triggered:
            self._arrived.succeed()
        return handshake.answered

    def _work(self) -> Steps:
        refusal_us = self._model.costs.refusal_node_us
        while True:
            if self._unread:
                handshake = self._unread.popleft()
                self._waiting.append(handshake)
                self._under_way += handshake.cohort.weight
                yield self._spend(refusal_us * handshake.cohort.weight)
                self._cut_off()
            elif self._waiting:
                yield from self._complete(self._waiting.popleft())
            else:
                self._arrived = self._env.event()
                yield self._arrived

    def _cut_off(self) -> None:
        """Refuse the oldest handshakes beyond `handshake.max_pending`."""
        while self._under_way > self._model.config.handshake.max_pending:
            if not self._waiting:
                return
            handshake = self._waiting.popleft()
            self._under_way -= handshake.cohort.weight
            self._model.counts.now.refused += handshake.cohort.weight
            handshake.answered.succeed(LOST)

    def _complete(self, handshake: _Handshake) -> Steps:
        model, cohort = self._model, handshake.cohort
        costs, weight = model.costs, cohort.weight
        self._completing.add(handshake)
        is_full = not model.take(cohort)
        # The clients of a cohort come apart, so they share nothing with each other.
        at_once = 1 + self._under_way - weight
        use = costs.full_connect if is_full else costs.get_connect(at_once)
        use = use.scale(weight)
        # What reading the handshake took is spent already.
        yield self._spend(max(0, use.node_us - costs.refusal_node_us * weight))
        rows = 0 if is_full else weight
        self._rows += rows
        delay = self._reach_pool(cohort, lambda: model.spend(use, rows))
        answer = _FULL if is_full else None
        self._env.timeout(delay).callbacks.append(
            lambda _: self._answer(handshake, answer)
        )

    def _reach_pool(self, cohort: Cohort, spend: Any) -> float:
        """Return the seconds until the pool answers, or the node goes on alone."""
        if self._env.now < self._alone_until:
            self._late += cohort.weight
            self._model.counts.now.alone += cohort.weight
            return 0.0
        delay: float = spend()
        if delay <= POOL_TIMEOUT_SECONDS:
            return delay
        self._alone_until = self._env.now + 2 * POOL_TIMEOUT_SECONDS
        return POOL_TIMEOUT_SECONDS

    def _answer(self, handshake: _Handshake, ended: Ended | None) -> None:
        self._under_way -= handshake.cohort.weight
        if handshake not in self._completing:
            return
        self._completing.remove(handshake)
        if ended is None:
            self.add(handshake.cohort)
            self._model.counts.now.accepted += handshake.cohort.weight
        else:
            self._model.counts.now.full += handshake.cohort.weight
        handshake.answered.succeed(ended)

    def _spend(self, microseconds: float) -> simpy.Event:
        return self._env.timeout(self.core.serve(microseconds / 1e6))

    # Beats

    def _beat(self) -> Steps:
        """Renew leases, pass over the connections, and write rows, once a beat."""
        model = self._model
        seconds = model.config.node.beat_seconds
        yield self._env.timeout(model.random.random() * seconds)
        while self.is_serving or self.members:
            costs = model.costs
            for use in (
                costs.node_second.scale(seconds),
                costs.connection_second.scale(seconds * self.count),
            ):
                self.core.serve(use.node_us / 1e6)
                model.spend_evenly(use)
            active = model.assumed.active_share * self.count
            rows = active * seconds * 10 / model.config.idle_timeout_seconds
            model.write(self._rows + rows)
            self._rows = 0
            if self._late and self._env.now >= self._alone_until:
                model.spend_evenly(costs.busy_connect.scale(self._late))
                self._late = 0
            yield self._env.timeout(seconds)
