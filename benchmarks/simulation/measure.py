"""Measure the costs of operations on a real node."""

import asyncio
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from benchmarks.processes import StartFailed
from benchmarks.report import describe_machine
from benchmarks.simulation.costs import BUSY_AT_ONCE, Costs, PoolCosts, Use
from benchmarks.simulation.live import POOLS, Cluster, serving
from connections.config.sections import NodeConfig
from tests.integration.redis_process import RedisProcess

WARM_UP = 50
_RENEWALS_PER_LEASE = 3
_REST_SECONDS = 16
_REDIS_REST_SECONDS = 4
_DRAIN_SECONDS = 30
_FULL = 100
_NODES = 2
_NOTHING = Use(node_us=0, redis_us=0, postgres_us=0)
_MACHINE = ("processor", "cores", "load_average", "python")
_OF_SECONDS = {
    "second": statistics.median,
    "connection_second": statistics.median,
}
"""What is a difference of two rests; of all else the least is taken."""

_RENEWED, _RENEWALS = 5000, 10
_YARDSTICK_STEPS = 300_000

_RESTS = 5
"""Rests of two nodes, and of one, for what a cluster does once."""

_CATCH_UP_SECONDS = 2

Progress = Callable[[str], None]


def measure(*, rounds: int, connects: int, progress: Progress) -> Costs:
    """
    Measure all costs in some rounds.

    Of the CPU of an operation the least is taken, because other work of the machine
    can only add to it; of that of a second the median.

    Raises:
        StartFailed: a server did not start.
    """
    yardsticks = [measure_yardstick()]
    pools: dict[str, PoolCosts] = {}
    for pool in POOLS:
        pools[pool] = measure_pool(
            pool,
            rounds=rounds,
            connects=connects,
            # A row costs the same with any pool; with Redis a close is a row alone.
            row_us=pools["redis"].row_postgres_us if "redis" in pools else None,
            progress=progress,
        )
        yardsticks.append(measure_yardstick())
    machine = describe_machine()
    return Costs(
        measured_on=datetime.now(UTC).date().isoformat(),
        machine={name: machine[name] for name in _MACHINE},
        rounds=rounds,
        yardstick_us=statistics.median(yardsticks),
        pools=pools,
    )


def measure_yardstick() -> float:
    """Return the CPU in µs of a fixed loop of Python, the least of three."""
    found = []
    for _ in range(3):
        before = time.process_time()
        sum(number % 7 for number in range(_YARDSTICK_STEPS))
        found.append(time.process_time() - before)
    return min(found) * 1e6


def measure_pool(
    pool: str,
    *,
    rounds: int,
    connects: int,
    row_us: float | None,
    progress: Progress,
) -> PoolCosts:
    """Measure the costs of nodes with one kind of pool."""
    with serving(
        pool,
        WEBSOCKET__MAX_TOTAL_CONNECTIONS=str(get_limit(connects)),
        WEBSOCKET__DRAIN__DELAY_SECONDS="600",
    ) as cluster:
        once = add_second_node(cluster)
        costs = measure_costs(
            cluster, once, rounds=rounds, connects=connects, progress=progress
        )
        refusal = _measure_refusal(
            cluster, connects // 8, _add(costs.cluster_second, costs.node_second, 2)
        )
    return replace(
        costs,
        refusal_node_us=refusal.node_us,
        row_postgres_us=costs.row_postgres_us if row_us is None else row_us,
    )


def get_limit(connects: int) -> int:
    """Return the max_total_connections with which measure_costs() fills the pool."""
    return _NODES * (connects // 8 + connects)


def warm_up(cluster: Cluster) -> None:
    """Open some connections on each node, and close them."""
    cluster.open(WARM_UP, at_once=10, group="warm-up")
    cluster.close("warm-up", WARM_UP)


def add_second_node(cluster: Cluster) -> Use:
    """
    Add a node to a cluster of one, and warm both up.

    Return the part of the rest of both that is done once, for each resource, as a
    number from 0 to 1: what the first takes beyond what the second adds. Rests of both
    take turns with such in which the second stands still (SIGSTOP).
    """
    second = cluster.add_node()
    warm_up(cluster)
    rests: list[tuple[Use, Use]] = []
    for _ in range(_RESTS):
        of_both = _measure_rest(cluster)
        second.signal(signal.SIGSTOP)
        try:
            rests.append((_measure_rest(cluster), of_both))
        finally:
            second.signal(signal.SIGCONT)
        cluster.rest(_CATCH_UP_SECONDS)
    one, both = (_take(found, statistics.median) for found in zip(*rests, strict=True))

    def compare(one: float, both: float) -> float:
        return min(1.0, max(0.0, (2 * one - both) / both)) if both else 0.0

    return Use(
        node_us=compare(one.node_us, both.node_us),
        redis_us=compare(one.redis_us, both.redis_us),
        postgres_us=compare(one.postgres_us, both.postgres_us),
    )


def measure_costs(
    cluster: Cluster, once: Use, *, rounds: int, connects: int, progress: Progress
) -> PoolCosts:
    """
    Measure the costs of a cluster of two nodes, but for those of a refusal.

    `once` is what add_second_node() has returned.
    """
    found = []
    for number in range(rounds):
        found.append(_measure_round(cluster, connects // 8, connects))
        progress(f"costs: round {number + 1} of {rounds}")
    uses = {
        name: _take([one[name] for one in found], _OF_SECONDS.get(name, min))
        for name in found[0]
    }
    second = uses.pop("second")
    cluster_second = Use(
        node_us=second.node_us * once.node_us,
        redis_us=second.redis_us * once.redis_us,
        postgres_us=second.postgres_us * once.postgres_us,
    )
    node_second = _add(second, cluster_second, -1).scale(1 / _NODES)
    redis_second_us = 0.0
    if cluster.redis is not None:
        # Too little to be seen beside the beats of a node.
        redis_second_us, renewed_us = asyncio.run(_measure_redis())
        per_second = renewed_us * _RENEWALS_PER_LEASE / NodeConfig().lease_seconds
        at_rest = replace(uses["connection_second"], redis_us=per_second)
        uses["connection_second"] = at_rest
        of_cluster = max(0.0, cluster_second.redis_us - redis_second_us)
        cluster_second = replace(cluster_second, redis_us=of_cluster)
    return PoolCosts(
        refusal_node_us=0.0,
        redis_second_us=redis_second_us,
        cluster_second=cluster_second,
        node_second=node_second,
        row_postgres_us=uses["close"].postgres_us,
        **uses,
    )


def _measure_rest(cluster: Cluster) -> Use:
    used = _measure(cluster, lambda: cluster.rest(_REST_SECONDS), _NOTHING)
    return used.scale(1 / _REST_SECONDS)


def _add(one: Use, other: Use, times: float) -> Use:
    other = other.scale(times)
    return Use(
        node_us=one.node_us + other.node_us,
        redis_us=one.redis_us + other.redis_us,
        postgres_us=one.postgres_us + other.postgres_us,
    )


def _measure_round(cluster: Cluster, calm: int, connects: int) -> dict[str, Use]:
    """Measure each operation once, with so many connects of each node."""
    second = _measure_rest(cluster)
    full = min(calm, _FULL)
    calm_all, all_open = _NODES * calm, _NODES * (calm + connects)

    def of(work: Callable[[], object], count: float) -> Use:
        return _measure(cluster, work, second).scale(1 / count)

    def fill() -> None:
        for _ in range(full):
            if b"pool_full" not in (answer := cluster.shake_one()):
                raise StartFailed(f"the pool is not full: {answer!r}")

    uses = {
        "second": second,
        "calm_connect": of(
            lambda: cluster.open(calm, at_once=1, group="calm"), calm_all
        ),
        "busy_connect": of(
            lambda: cluster.open(connects, at_once=BUSY_AT_ONCE, group="busy"),
            _NODES * connects,
        ),
        "connection_second": of(
            lambda: cluster.rest(_REST_SECONDS), _REST_SECONDS * all_open
        ),
        "full_connect": of(fill, full),
    }

    def close() -> None:
        cluster.close("calm", calm)
        cluster.close("busy", connects)

    return uses | {"close": of(close, all_open)}


def _measure(cluster: Cluster, work: Callable[[], object], second: Use) -> Use:
    """Return what some work takes beyond the seconds that pass meanwhile."""
    before, started = cluster.read(), time.monotonic()
    work()
    used, seconds = cluster.read().since(before), time.monotonic() - started
    return Use(
        node_us=max(0.0, used.node_seconds * 1e6 - seconds * second.node_us),
        redis_us=max(0.0, used.redis_seconds * 1e6 - seconds * second.redis_us),
        postgres_us=max(
            0.0, used.postgres_seconds * 1e6 - seconds * second.postgres_us
        ),
    )


def _measure_refusal(cluster: Cluster, count: int, second: Use) -> Use:
    """Drain the node, which refuses handshakes until it closes its port."""
    cluster.nodes[0].signal(signal.SIGTERM)
    deadline = time.monotonic() + _DRAIN_SECONDS
    while b" 503 " not in cluster.shake_one():
        if time.monotonic() > deadline:
            raise StartFailed("the node does not drain")

    def be_refused() -> None:
        for _ in range(count):
            cluster.shake_one()

    return _measure(cluster, be_refused, second).scale(1 / count)


async def _measure_redis() -> tuple[float, float]:
    """Return the CPU of Redis in µs for a second alone, and for a slot's renewal."""
    # It sets the environment of a command.
    from benchmarks.redis_cost import Counters, gather_some, make_pool, make_slots

    store = RedisProcess()
    store.start()
    client: Any = Redis.from_url(store.url, decode_responses=True)
    pool = make_pool(store.url, "a" * 32, _RENEWED)
    try:
        before = await Counters.read(client)
        await asyncio.sleep(_REDIS_REST_SECONDS)
        alone = (await Counters.read(client)).since(before)
        (slots,) = make_slots(["a" * 32], _RENEWED)
        await pool.renew([])
        await gather_some([pool.acquire(slot) for slot in slots])
        before = await Counters.read(client)
        for _ in range(_RENEWALS):
            await pool.renew(slots)
        used = (await Counters.read(client)).since(before)
    finally:
        await pool.close()
        await client.aclose()
        store.remove()
    return (
        alone.cpu_seconds / _REDIS_REST_SECONDS * 1e6,
        used.cpu_seconds / _RENEWED / _RENEWALS * 1e6,
    )


def _take(uses: Sequence[Use], choose: Callable[[list[float]], float]) -> Use:
    return Use(
        **{
            one.name: choose([getattr(use, one.name) for use in uses])
            for one in fields(Use)
        }
    )
