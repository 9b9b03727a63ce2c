"""The pool in Redis, where it differs from other stores."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from connections.exceptions import PoolUnavailable
from connections.pool.base import Renewal, Slot
from connections.pool.redis import RedisPool
from connections.redis.bus import RedisBus
from connections.testing import FakeClock, wait_until
from tests.connections.pool_nodes import (
    LEASE_SECONDS,
    RedisNodePool,
    jump_in_redis,
    leased_in,
    settle_recovery,
)
from tests.integration.redis_process import RedisProcess

MakePool = Callable[..., RedisNodePool]


@pytest.fixture
async def make_pool(redis_server: RedisProcess) -> AsyncIterator[MakePool]:
    made: list[RedisNodePool] = []

    def make(
        node_id: str = "a", url: str = redis_server.url, **options: Any
    ) -> RedisNodePool:
        made.append(RedisNodePool(url, node_id, **options))
        return made[-1]

    yield make
    redis_server.resume()
    for pool in made:
        await pool.close()


# The limits


async def test_a_renewal_distinguishes_evicted_and_lost(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """A tombstone keeps the reason in case the message does not arrive."""
    one, other = make_pool("a"), make_pool("b")
    slots = await one.take("1", "2", limit=2)
    await other.take("3", start=5, limit=2)
    with redis_server.connect() as client:
        client.zadd("{orchestra:pool}:leases", {"2": 1})
    await other.take("4", start=6, limit=2)
    assert await one.renew(slots) == Renewal(evicted=("1",), lost=("2",))


# Giving back


async def test_close_finishes_pending_releases(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = RedisNodePool(redis_server.url, "a")
    await pool.take("1", "2")
    pool.release("1")
    pool.release("2")
    await pool.close()
    with redis_server.connect() as client:
        assert client.keys("{orchestra:pool}:*") == ["{orchestra:pool}:state"]


# Leases


async def test_an_empty_pool_leaves_no_keys(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """No set, no counter and no tombstone outlives the slots and their leases."""
    one, other = make_pool("a"), make_pool("b")
    await one.take("1", "2", "3", limit=2)
    await other.take("4", start=9, limit=2)
    for name in ("2", "3"):
        one.release(name)
    other.release("4")
    await wait_until(lambda: leased_in(redis_server) == set())
    # A tombstone stays for two leases.
    jump_in_redis(redis_server, 2 * LEASE_SECONDS)
    await one.get_usage()
    with redis_server.connect() as client:
        assert client.keys("{orchestra:pool}:*") == ["{orchestra:pool}:state"]


# Lost replies


# Outages


@pytest.mark.parametrize("key", ["leases", "slots", "ages", "clients", "state"])
async def test_a_lost_key_is_noticed_and_the_limits_hold_again(
    make_pool: MakePool, redis_server: RedisProcess, key: str
) -> None:
    """As a memory limit with allkeys-lru, or somebody's DEL, removes it."""
    jump = partial(jump_in_redis, redis_server)
    one, other = make_pool("a"), make_pool("b")
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", start=5)
    await settle_recovery(jump, one, other, slots=(mine, theirs))
    with redis_server.connect() as client:
        assert client.delete(f"{{orchestra:pool}}:{key}") == 1
    theirs += await other.take("6", start=10)
    await settle_recovery(jump, one, other, slots=(mine, theirs))
    assert leased_in(redis_server) == {"2", "3", "4", "5", "6"}
    given_up = await other.acquire(other.slot("7", 20))
    assert [slot.connection_id for slot in given_up] == ["2"]
    usage = await one.get_usage()
    assert (usage.slots, usage.clients, usage.is_recovering) == (5, 1, False)


async def test_lost_tombstones_change_no_limit(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    one, other = make_pool("a"), make_pool("b")
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", "6", start=5)
    with redis_server.connect() as client:
        assert client.delete("{orchestra:pool}:tombs") == 1
    # The message about the eviction may arrive during the renewal.
    assert await one.renew(mine) in (Renewal(lost=("1",)), Renewal(evicted=("1",)))
    assert await other.renew(theirs) == Renewal()
    assert leased_in(redis_server) == {"2", "3", "4", "5", "6"}


@pytest.mark.parametrize("key", ["suspects", "order"])
async def test_a_key_that_is_lost_in_a_recovery_is_noticed(
    make_pool: MakePool, redis_server: RedisProcess, key: str
) -> None:
    one, other = make_pool("a", max_total=4), make_pool("b", max_total=4)
    mine = await one.take("1", "2", limit=2)
    mine += await one.take("3", start=3, client="d")
    redis_server.flush()
    theirs = await other.take("4", "5", start=5, limit=2)
    await one.renew(mine)
    with redis_server.connect() as client:
        assert client.delete(f"{{orchestra:pool}}:{key}") == 1
    theirs += await other.take("6", start=9, client="e")
    jump = partial(jump_in_redis, redis_server)
    await settle_recovery(jump, one, other, slots=(mine, theirs))
    assert leased_in(redis_server) == {"3", "4", "5", "6"}


class Scripts:
    """Counts the commands of Redis for each script that was run."""

    def __init__(self, server: RedisProcess) -> None:
        self._server = server
        self._began = self._count()

    def _count(self) -> tuple[int, int]:
        with self._server.connect() as client:
            stats: Any = client.info("commandstats")
        scripts = stats.get("cmdstat_evalsha", {"calls": 0})["calls"]
        return scripts, sum(one["calls"] for one in stats.values())

    def commands_per_script(self) -> float:
        scripts, commands = self._count()
        return (commands - self._began[1]) / max(scripts - self._began[0], 1)


MOST_COMMANDS = 800
"""Within a script a command takes about 3 us, so that these take 2.4 ms."""

MANY = 3000


async def fill(pool: RedisNodePool, redis_server: RedisProcess, *, clients: int) -> Any:
    """Let the pool recover with many slots; return them."""
    redis_server.flush()
    slots = [
        pool.slot(f"{n:032d}", n, client=str(n % clients), limit=MANY)
        for n in range(MANY)
    ]
    await pool.renew(slots)
    return slots


def end_recovery(redis_server: RedisProcess, *, is_settled: bool) -> None:
    with redis_server.connect() as client:
        state = "{orchestra:pool}:state"
        if is_settled:
            client.hdel(state, "recovering_until", "ordered", "suspected")
        else:
            client.hset(state, "recovering_until", 1)


async def test_a_lowered_limit_evicts_in_bounded_steps(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(max_total=2 * MANY, lease_seconds=60)
    await fill(pool, redis_server, clients=1)
    end_recovery(redis_server, is_settled=True)
    scripts = Scripts(redis_server)
    given_up = await pool.acquire(pool.slot("new", MANY, client="0", limit=5))
    assert len(given_up) == MANY - 4
    assert [slot.opened_at for slot in given_up] == sorted(
        slot.opened_at for slot in given_up
    )
    assert scripts.commands_per_script() < MOST_COMMANDS
    assert (await pool.get_usage()).slots == 5


async def test_the_slots_of_a_dead_node_are_forgotten_in_bounded_steps(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(max_total=2 * MANY, lease_seconds=60)
    slots = await fill(pool, redis_server, clients=1)
    end_recovery(redis_server, is_settled=True)
    await pool.take("live", client="other")
    with redis_server.connect() as client:
        client.zadd(
            "{orchestra:pool}:leases", {slot.connection_id: 1 for slot in slots}
        )
    scripts = Scripts(redis_server)
    assert await pool.acquire(pool.slot("new", MANY, client="0", limit=5)) == ()
    assert scripts.commands_per_script() < MOST_COMMANDS
    assert (await pool.get_usage()).slots == 2


async def test_an_excess_over_the_total_is_settled_in_bounded_steps(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(max_total=100, lease_seconds=60)
    slots = await fill(pool, redis_server, clients=MANY)
    end_recovery(redis_server, is_settled=False)
    scripts = Scripts(redis_server)
    await pool.get_usage()
    await wait_until(lambda: len(leased_in(redis_server)) == 100, seconds=20)
    assert leased_in(redis_server) == {slot.connection_id for slot in slots[-100:]}
    assert scripts.commands_per_script() < MOST_COMMANDS


async def test_thousands_of_late_slots_are_taken_in_bounded_steps(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(max_total=2 * MANY, lease_seconds=60)
    await fill(pool, redis_server, clients=1)
    end_recovery(redis_server, is_settled=True)
    late = [pool.slot(f"late{n}", MANY + n, client="0", limit=5) for n in range(100)]
    scripts = Scripts(redis_server)
    await pool.take_late(late)
    assert leased_in(redis_server) == {slot.connection_id for slot in late[-5:]}
    assert scripts.commands_per_script() < MOST_COMMANDS


async def test_a_node_that_is_releasing_thousands_admits_within_the_limit(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(max_total=2 * MANY, lease_seconds=60)
    slots = await fill(pool, redis_server, clients=1)
    end_recovery(redis_server, is_settled=True)
    for slot in slots[:-1]:
        pool.release(slot.connection_id)
    scripts = Scripts(redis_server)
    assert await pool.acquire(pool.slot("new", MANY, client="0", limit=2)) == ()
    assert scripts.commands_per_script() < MOST_COMMANDS


async def test_a_client_of_many_connections_costs_no_more_than_many_clients(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """Commands within scripts grow with the slots, not with their square."""
    count, limit = 600, 1000

    def count_commands() -> int:
        with redis_server.connect() as client:
            stats: Any = client.info("commandstats")
            return sum(one["calls"] for one in stats.values())

    async def measure(clients: int) -> int:
        redis_server.flush()
        clock = FakeClock()
        pool = make_pool("a", max_total=count, lease_seconds=60, clock=clock)
        slots = [
            pool.slot(str(number), number, client=str(number % clients), limit=limit)
            for number in range(count)
        ]
        before = count_commands()
        for slot in slots[: count // 2]:
            await pool.acquire(slot)
        redis_server.flush()
        # The node reports its slots, then takes more: in and after the recovery.
        await pool.renew(slots[: count // 2])
        with redis_server.connect() as client:
            client.hdel("{orchestra:pool}:state", "recovering_until")
        clock.advance(20)
        for slot in slots[count // 2 :]:
            await pool.acquire(slot)
        found = count_commands() - before
        assert (await pool.get_usage()).slots == count
        await pool.close()
        return found

    assert await measure(1) < 1.5 * await measure(count)


async def test_a_killed_redis_comes_back_empty_and_no_slot_is_lost(
    make_pool: MakePool,
) -> None:
    process = RedisProcess().start()
    try:
        one, other = make_pool("a", process.url), make_pool("b", process.url)
        mine, theirs = await one.take("1", "2"), await other.take("3", start=5)
        process.kill()
        with pytest.raises(PoolUnavailable):
            await one.renew(mine)
        process.start()
        jump = partial(jump_in_redis, process)
        await settle_recovery(jump, one, other, slots=(mine, theirs))
        assert leased_in(process) == {"1", "2", "3"}
    finally:
        process.remove()


# The rest


async def test_a_pool_of_a_newer_format_is_refused_and_left_alone(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """A node of this release says why it cannot use the pool of a later one."""
    pool = make_pool()
    with redis_server.connect() as client:
        client.hset("{orchestra:pool}:state", "format", 2)
        sentence = "has format 2, written by a newer release; this one reads format 1"
        with pytest.raises(PoolUnavailable, match=sentence):
            await pool.take("1")
        assert client.keys("{orchestra:pool}:*") == ["{orchestra:pool}:state"]


async def test_a_recovered_pool_names_its_format(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    redis_server.flush()
    await make_pool().take("1")
    with redis_server.connect() as client:
        assert client.hget("{orchestra:pool}:state", "format") == "1"


async def test_the_scripts_fit_a_cluster() -> None:
    """Every key lies in one hash slot, or a cluster would refuse the script."""
    process = RedisProcess.clustered().start()
    try:
        with process.connect() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok")
        pool = RedisNodePool(process.url, "a")
        slots = await pool.take("1", "2", "3", limit=2)
        assert await pool.renew(slots) == Renewal(evicted=("1",))
        assert (await pool.get_usage()).slots == 2
        await pool.close()
    finally:
        process.remove()


async def test_a_silent_subscription_is_made_anew(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """A probe finds a connection that is open but delivers nothing."""
    pool = make_pool(probe_seconds=0.3)
    await pool.take("1")
    await wait_until(lambda: pool.bus.is_subscribed)
    returns: list[int] = []
    pool.bus.on_return(lambda: returns.append(1))
    with redis_server.connect() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await wait_until(lambda: returns)


class ReturningBus(RedisBus):
    """A bus that is back from an outage while it is closed."""

    async def close(self) -> None:
        self.report_return()
        await super().close()


async def test_a_bus_that_is_back_while_the_pool_closes_causes_no_renewal(
    redis_server: RedisProcess,
) -> None:
    """It would leave a connection to Redis open."""
    bus = ReturningBus(redis_server.url, node_id="a")
    pool = RedisPool(redis_server.url, bus=bus, max_total=5, lease_seconds=60)
    await pool.acquire(
        Slot(connection_id="1", client_id="c", node_id="a", opened_at=0, limit=5)
    )
    await pool.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
