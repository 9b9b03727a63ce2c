"""Compare the model with real nodes, in quantities that hold on a shared machine."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.simulation.costs import PoolCosts
from benchmarks.simulation.live import Cluster, Used, serving
from benchmarks.simulation.measure import (
    add_second_node,
    get_limit,
    measure_costs,
    warm_up,
)
from benchmarks.simulation.model import Assumptions, Model
from benchmarks.simulation.node import Cohort, Node, Steps
from benchmarks.simulation.returning import Returns, measure_drain, measure_kill
from benchmarks.simulation.stations import find_quantile

SIZES = (1, 2, 4)
"""Numbers of nodes."""

_AT_ONCE = 8
_REST_SECONDS = 4
_CLIENTS = 100
_MODELLED = 20
"""Runs of the model, with seeds of their own, for what is random."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One quantity, measured and simulated."""

    what: str
    measured: float
    simulated: float
    unit: str

    @property
    def ratio(self) -> float:
        """The simulated part of the measured."""
        return self.simulated / self.measured if self.measured else 0.0

    def agrees(self, tolerance: float) -> bool:
        """Return whether the two differ by no more than this share."""
        return abs(self.ratio - 1) <= tolerance


def check(
    pools: Sequence[str], *, rounds: int, connects: int, seed: int, progress: Progress
) -> list[Compared]:
    """
    Run real nodes and the model, and return what both have used.

    The costs are measured anew on two nodes beside, in turns with what they are
    compared with, so that other work of the machine slows down both alike.

    Raises:
        StartFailed: a server did not start.
    """
    compared = []
    for pool in pools:
        found, costs = _check_work(pool, rounds, connects, seed, progress)
        compared += found
    return compared + _check_returns(pools[-1], costs, seed, progress)


def _check_work(
    pool: str, rounds: int, connects: int, seed: int, progress: Progress
) -> tuple[list[Compared], PoolCosts]:
    compared = []
    limit = {"WEBSOCKET__MAX_TOTAL_CONNECTIONS": str(get_limit(connects))}
    with serving(pool, **limit) as reference, serving(pool) as cluster:
        once = add_second_node(reference)
        progress(f"{pool}: two nodes rest")
        for size in SIZES:
            while len(cluster.nodes) < size:
                cluster.add_node()
            warm_up(cluster)
            found = []
            for number in range(rounds):
                costs = measure_costs(
                    reference, once, rounds=1, connects=connects, progress=progress
                )
                found.append(_compare_work(cluster, costs, connects // 2, seed))
                progress(f"{pool}, nodes: {size}, round {number + 1} of {rounds}")
            compared += _take_medians(f"{pool}, nodes: {size}", found)
    return compared, costs


def _compare_work(
    cluster: Cluster, costs: PoolCosts, count: int, seed: int
) -> list[Compared]:
    """Open, hold and close connections on each node, and simulate the same."""
    size = len(cluster.nodes)
    before, started = cluster.read(), time.monotonic()
    cluster.open(count, at_once=_AT_ONCE, group="checked")
    cluster.rest(_REST_SECONDS)
    cluster.close("checked", count)
    used, seconds = cluster.read().since(before), time.monotonic() - started
    simulated = simulate_work(costs, size, count, seconds, seed)
    connects = size * count
    return [
        Compared(
            what=what,
            measured=getattr(used, name) / connects * factor,
            simulated=getattr(simulated, name) / connects * factor,
            unit=unit,
        )
        for what, name, factor, unit in (
            ("CPU of the nodes for a connect and its end", "node_seconds", 1e6, "µs"),
            ("CPU of Redis for the same", "redis_seconds", 1e6, "µs"),
            ("CPU of PostgreSQL for the same", "postgres_seconds", 1e6, "µs"),
            ("rows for the same", "rows", 1, ""),
        )
        if getattr(used, name) > 0
    ]


def simulate_work(
    costs: PoolCosts, size: int, count: int, seconds: float, seed: int
) -> Used:
    """Return what nodes use that open, hold and close connections."""
    model = Model(
        costs,
        Assumptions(
            connections=size * count,
            nodes=size,
            clients_per_cohort=1,
            active_share=0,
        ),
        seed=seed,
    )
    model.env.process(_open_and_close(model, count))
    model.env.run(until=max(seconds, _REST_SECONDS + 3))
    stations = (node.core for node in model.nodes)
    return Used(
        node_seconds=sum(sum(one.busy_seconds.values()) for one in stations),
        redis_seconds=sum(model.redis[0].busy_seconds.values()),
        postgres_seconds=sum(model.postgres.busy_seconds.values()),
        rows=round(sum(one.rows for one in model.counts.seconds.values())),
    )


def _open_and_close(model: Model, count: int) -> Steps:
    for node in model.nodes:
        left = [Cohort(weight=1) for _ in range(count)]
        openers = [
            model.env.process(_open_all(model, node, left)) for _ in range(_AT_ONCE)
        ]
        yield model.env.all_of(openers)
    yield model.env.timeout(_REST_SECONDS)
    for node in model.nodes:
        for cohort in list(node.members):
            node.close(cohort)


def _open_all(model: Model, node: Node, left: list[Cohort]) -> Steps:
    while left:
        yield from model.arrive(left.pop(), node)


def _take_medians(where: str, rounds: Sequence[Sequence[Compared]]) -> list[Compared]:
    """Return the round with the median ratio, of each quantity."""
    return [
        replace(
            sorted(quantity, key=lambda one: one.ratio)[len(quantity) // 2],
            what=f"{where}: {quantity[0].what}",
        )
        for quantity in zip(*rounds, strict=True)
    ]


def _check_returns(
    pool: str, costs: PoolCosts, seed: int, progress: Progress
) -> list[Compared]:
    """Compare when clients return after a kill and in a drain."""
    with serving(pool) as cluster:
        cluster.add_node()
        killed = asyncio.run(measure_kill(cluster, _CLIENTS, seed))
        progress("a node was killed")
        drained = asyncio.run(measure_drain(cluster, _CLIENTS, seed))
        progress("a node was drained")
    simulated = [
        simulate_returns(costs, killed.down_seconds, seed + number)
        for number in range(_MODELLED)
    ]
    drains = [
        simulate_returns(costs, None, seed + number) for number in range(_MODELLED)
    ]
    return [
        Compared(
            what="a node killed: connects that a client tries",
            measured=killed.attempts / _CLIENTS,
            simulated=statistics.mean(one.attempts for one in simulated) / _CLIENTS,
            unit="",
        ),
        *_compare_quantiles("a node killed", killed, simulated),
        *_compare_quantiles("a node drained", drained, drains),
    ]


def _compare_quantiles(
    what: str, measured: Returns, simulated: Sequence[Returns]
) -> list[Compared]:
    real = [(seconds, 1) for seconds in measured.seconds]
    model = [(seconds, 1) for one in simulated for seconds in one.seconds]
    return [
        Compared(
            what=f"{what}: until {share:.0%} have returned",
            measured=find_quantile(real, share),
            simulated=find_quantile(model, share),
            unit="s",
        )
        for share in (0.25, 0.5, 0.9)
    ]


def simulate_returns(
    costs: PoolCosts, down_seconds: float | None, seed: int
) -> Returns:
    """Return how clients return from a node that is killed, or else drained."""
    model = Model(
        costs,
        Assumptions(connections=_CLIENTS, nodes=1, clients_per_cohort=1),
        seed=seed,
    )
    model.fill()
    (node,) = model.nodes
    if down_seconds is None:
        model.nodes.append(Node(model))
        model.env.process(model.drain(node))
    else:
        model.kill([node])
        model.env.process(_start_later(model, down_seconds))
    while len(model.counts.away) < _CLIENTS:
        model.env.run(until=model.env.now + 1)
    return Returns(
        attempts=sum(one.attempts for one in model.counts.seconds.values()),
        seconds=sorted(at for at, _ in model.counts.returned),
        down_seconds=down_seconds or 0.0,
    )


def _start_later(model: Model, seconds: float) -> Steps:
    yield model.env.timeout(seconds)
    model.nodes.append(Node(model))
