"""The simulated cluster: nodes, the servers that they share, and returning clients."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import simpy

from benchmarks.simulation.costs import PoolCosts, Use
from benchmarks.simulation.node import LOST, Cohort, Node, Steps
from benchmarks.simulation.stations import Counts, Station
from connections.client.reconnect import Ended, decide, read_end
from connections.close_codes import DRAINING
from connections.config.loader import WebSocketConfig
from connections.node.drain import get_window_seconds

_DRAINED = read_end(DRAINING.code, DRAINING.reason, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What no measurement on this machine can tell."""

    connections: int = 1_000_000
    nodes: int = 100
    clients_per_cohort: int = 25
    """Clients that move together, and so wait for the same random times."""

    life_seconds: float = 1800
    """How long a connection lives on average; another client follows it."""

    active_share: float = 0.1
    """The part of the connections that send something."""

    spare_share: float = 0.2
    """By how much max_total_connections is above the connections."""

    redis_shards: int = 1
    postgres_cores: int = 4
    failover_seconds: float = 30
    """From the loss of a region until its clients are led to another one."""

    start_seconds: float = 10
    """From the end of a drained node until its successor serves."""

    drained_at_once: int = 4


class Model:
    """A cluster in simulated time."""

    def __init__(
        self,
        costs: PoolCosts,
        assumed: Assumptions,
        *,
        seed: int,
        config: WebSocketConfig | None = None,
    ) -> None:
        self.env = simpy.Environment()
        self.random = random.Random(seed)
        self.costs = costs
        self.assumed = assumed
        self.config = config or WebSocketConfig()
        self.counts = Counts(self.env)
        self.redis = [Station(self.env) for _ in range(assumed.redis_shards)]
        self.postgres = Station(self.env, assumed.postgres_cores)
        self.nodes = [Node(self) for _ in range(assumed.nodes)]
        self.retired: list[Node] = []
        """Nodes that have stopped."""

        self.env.process(self._rest())
        self.slots = 0
        self.max_slots = round(assumed.connections * (1 + assumed.spare_share))

    # Slots

    def take(self, cohort: Cohort) -> bool:
        """Take slots, or those of the predecessors; return whether there were any."""
        if not cohort.has_slots:
            if self.slots + cohort.weight > self.max_slots:
                return False
            self.slots += cohort.weight
            cohort.has_slots = True
        return True

    def release(self, cohort: Cohort) -> None:
        """Release the slots of a cohort."""
        self.slots -= cohort.weight
        cohort.has_slots = False

    # Shared servers

    def spend(self, use: Use, rows: float) -> float:
        """
        Have Redis and PostgreSQL do their part; return the seconds until it is done.

        The CPU of `rows` is in `use`, and is spent when their beat writes them.
        """
        shard = self.redis[0]
        if len(self.redis) > 1:
            shard = self.random.choice(self.redis)
        delay = shard.serve(use.redis_us / 1e6) if use.redis_us else 0.0
        now_us = use.postgres_us - rows * self.costs.row_postgres_us
        return max(delay, self.postgres.serve(max(0.0, now_us) / 1e6))

    def spend_evenly(self, use: Use) -> None:
        """Have all shards of Redis, and PostgreSQL, do their part."""
        for shard in self.redis:
            shard.serve(use.redis_us / 1e6 / len(self.redis))
        self.postgres.serve(use.postgres_us / 1e6)

    def _rest(self) -> Steps:
        """Do what each shard of Redis does without nodes, and a cluster once."""
        once = self.costs.cluster_second
        while True:
            for shard in self.redis:
                shard.serve(self.costs.redis_second_us / 1e6)
            if self.nodes:
                self.nodes[0].core.serve(once.node_us / 1e6)
                self.spend_evenly(once)
            yield self.env.timeout(1)

    def write(self, rows: float) -> None:
        """Write the rows of a beat."""
        self.counts.now.rows += rows
        self.postgres.serve(rows * self.costs.row_postgres_us / 1e6)

    # Clients

    def make_cohorts(self) -> list[Cohort]:
        """Return all clients, none of them connected."""
        size = self.assumed.clients_per_cohort
        return [Cohort(weight=size) for _ in range(self.assumed.connections // size)]

    def fill(self) -> list[Cohort]:
        """Connect all clients before the time begins; return those without a slot."""
        left = []
        for number, cohort in enumerate(self.make_cohorts()):
            if self.take(cohort):
                self.nodes[number % len(self.nodes)].add(cohort)
            else:
                left.append(cohort)
        return left

    def arrive(self, cohort: Cohort, node: Node | None = None) -> Steps:
        """Connect for the first time, as often as it takes."""
        yield from self._return(cohort, None, 0.0, node)

    def leave(self, cohort: Cohort, ended: Ended, elapsed_seconds: float) -> None:
        """Have clients return whose connections have ended."""
        self.env.process(self._come_back(cohort, ended, elapsed_seconds))

    def _come_back(self, cohort: Cohort, ended: Ended, elapsed: float) -> Steps:
        began_at = self.env.now
        yield from self._return(cohort, ended, elapsed, None)
        self.counts.away.append((self.env.now - began_at, cohort.weight))
        self.counts.returned.append((self.env.now, cohort.weight))

    def _return(
        self, cohort: Cohort, ended: Ended | None, elapsed: float, node: Node | None
    ) -> Steps:
        """Connect as the client's own back-off decides, until it is accepted."""
        failures, drained_at = 0, -math.inf
        while True:
            if ended is not None:
                if ended.code == DRAINING.code:
                    drained_at = self.env.now
                seconds = decide(
                    ended,
                    failures=failures,
                    random=self.random.random,
                    elapsed_seconds=elapsed,
                    since_drain_seconds=self.env.now - drained_at,
                )
                failures += 1
                elapsed = 0.0
                yield self.env.timeout(seconds or 0.0)
            self.counts.now.attempts += cohort.weight
            is_led = self.env.now >= cohort.reaches_at
            chosen = node or (self.choose() if is_led else None)
            if chosen is None or not chosen.is_serving:
                self.counts.now.failed += cohort.weight
                ended = LOST
                continue
            ended = yield chosen.begin(cohort)
            if ended is None:
                return

    def choose(self) -> Node | None:
        """Return any node that serves, as a balancer does that knows them."""
        return self.random.choice(self.nodes) if self.nodes else None

    def churn(self) -> Steps:
        """Have connections end, and others begin, at the rate of their lives."""
        assumed = self.assumed
        size = assumed.clients_per_cohort
        rate = assumed.connections / size / assumed.life_seconds
        while True:
            yield self.env.timeout(self.random.expovariate(rate))
            node = self.random.choice(self.nodes)
            if node.members:
                node.close(self.random.choice(node.members))
                self.env.process(self.arrive(Cohort(weight=size)))

    # Events of nodes

    def kill(self, nodes: Sequence[Node], unreachable_seconds: float = 0) -> None:
        """Kill nodes; their slots stay for a lease, their clients may reach none."""
        for node in nodes:
            self.nodes.remove(node)
            self.retired.append(node)
            node.stop()
            members = list(node.members)
            for cohort in members:
                node.remove(cohort)
                cohort.reaches_at = self.env.now + unreachable_seconds
                self.leave(cohort, LOST, 0.0)
            self.env.process(self._expire(members))

    def _expire(self, cohorts: list[Cohort]) -> Steps:
        """End the slots of those who have not returned within a lease."""
        yield self.env.timeout(self.config.node.lease_seconds)
        for cohort in cohorts:
            if cohort.node is None and cohort.has_slots:
                self.release(cohort)

    def drain(self, node: Node) -> Steps:
        """Drain a node: each client has a moment, and its slot is free at once."""
        self.nodes.remove(node)
        self.retired.append(node)
        node.stop()
        members = list(node.members)
        self.random.shuffle(members)
        for cohort in members:
            self.release(cohort)
        window = get_window_seconds(node.count, self.config.drain.grace_seconds)
        began_at = self.env.now
        for number, cohort in enumerate(members, 1):
            after = window * number / len(members)
            yield self.env.timeout(max(0.0, began_at + after - self.env.now))
            node.close(cohort)
            self.leave(cohort, replace(_DRAINED, after_seconds=after), after)

    def replace(self, node: Node) -> Steps:
        """Drain a node and start its successor."""
        yield self.env.process(self.drain(node))
        yield self.env.timeout(self.assumed.start_seconds)
        self.nodes.append(Node(self))

    def watch(self) -> Steps:
        """Count the open connections in the middle of each second."""
        yield self.env.timeout(0.5)
        while True:
            nodes = (*self.nodes, *self.retired)
            self.counts.now.open = sum(node.count for node in nodes)
            yield self.env.timeout(1)
