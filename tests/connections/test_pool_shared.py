"""The contract of a pool that nodes share, on each store."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

import pytest

from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal
from connections.testing import Proxy, wait_until
from connections.testing.waiting import scale
from tests.connections.pool_nodes import (
    LEASE_SECONDS,
    NodePool,
    RedisNodePool,
    ShardedNodePool,
    is_recovering,
    jump_in_redis,
    leased_in,
    outlast_lease,
    settle_recovery,
)
from tests.integration.redis_process import RedisProcess

MakePool = Callable[..., NodePool]


class Store(Protocol):
    """The server with the slots."""

    has_shards: bool

    @property
    def port(self) -> int: ...

    def make_pool(self, node_id: str, **options: Any) -> NodePool: ...

    def leased(self) -> set[str]: ...

    def lose_slots(self) -> None: ...

    def jump(self, seconds: float) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class RedisStore:
    """A Redis with the slots."""

    def __init__(
        self,
        server: RedisProcess,
        kind: type[RedisNodePool | ShardedNodePool] = RedisNodePool,
    ) -> None:
        self._server = server
        self._kind = kind
        self.has_shards = kind is ShardedNodePool
        self.port = server.port
        self.lose_slots = server.flush
        self.jump = partial(jump_in_redis, server)
        self.pause = server.pause
        self.resume = server.resume

    def make_pool(self, node_id: str, *, port: int = 0, **options: Any) -> NodePool:
        url = f"redis://127.0.0.1:{port}/0" if port else self._server.url
        return self._kind(url, node_id, **options)

    def leased(self) -> set[str]:
        return leased_in(self._server)


@pytest.fixture(params=["redis", "sharded", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store
    if request.param == "redis":
        found = RedisStore(request.getfixturevalue("redis_server"))
    elif request.param == "sharded":
        found = RedisStore(request.getfixturevalue("redis_server"), ShardedNodePool)
    else:
        found = request.getfixturevalue("pool_database")
    return found


@pytest.fixture
async def make_pool(store: Store) -> AsyncIterator[MakePool]:
    made: list[NodePool] = []

    def make(node_id: str = "a", **options: Any) -> NodePool:
        made.append(store.make_pool(node_id, **options))
        return made[-1]

    yield make
    store.resume()
    for pool in made:
        await pool.close()


async def open_connections(pool: NodePool) -> None:
    """Let the pool open all connections that it will use."""
    await asyncio.gather(*(pool.get_usage() for _ in range(20)))


async def test_evicts_the_oldest_wherever_it_is(make_pool: MakePool) -> None:
    """The client's oldest slot is evicted, even from another node."""
    one, other = make_pool("a"), make_pool("b")
    slots = await one.take("1", "2", limit=2)
    assert await other.acquire(other.slot("3", 9, limit=2)) == (slots[0],)


async def test_the_other_node_is_notified_at_once(make_pool: MakePool) -> None:
    one, other = make_pool("a"), make_pool("b")
    await one.take("1", limit=1)
    await wait_until(lambda: one.bus.is_subscribed)
    await other.take("2", start=5, limit=1)
    await wait_until(lambda: one.taken == [Renewal(evicted=("1",))])


async def test_a_replaced_connection_is_reported(make_pool: MakePool) -> None:
    one, other = make_pool("a"), make_pool("b")
    slots = await one.take("1", "2", limit=2)
    given_up = await other.acquire(other.slot("3", 9, limit=2), replaces="2")
    assert given_up == (slots[1],)
    assert await one.renew(slots) == Renewal(replaced=("2",))


async def test_another_clients_connection_is_not_replaced(make_pool: MakePool) -> None:
    pool = make_pool()
    (mine,) = await pool.take("1", client="mine")
    assert await pool.acquire(pool.slot("2", 5, client="x"), replaces="1") == ()
    assert await pool.renew([mine]) == Renewal()


async def test_refuses_without_evicting_when_the_pool_is_full(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_total=2)
    slots = await pool.take("1", client="c") + await pool.take("2", client="d")
    with pytest.raises(PoolFull):
        await pool.acquire(pool.slot("3", 9, client="e"))
    assert await pool.renew(slots) == Renewal()


async def test_a_full_pool_admits_a_connection_that_evicts(make_pool: MakePool) -> None:
    pool = make_pool(max_total=2)
    await pool.take("1", "2", limit=2)
    assert len(await pool.acquire(pool.slot("3", 9, limit=2))) == 1


async def test_refuses_a_client_by_policy(make_pool: MakePool) -> None:
    pool = make_pool(evict_oldest=False)
    await pool.take("1", limit=1)
    with pytest.raises(ClientFull):
        await pool.acquire(pool.slot("2", 5, limit=1))


@pytest.mark.parametrize(
    "client", ["a b", "a", "a!", "ü ☃", "\ud800", "", "a%20b", "\n"]
)
async def test_clients_with_odd_names_are_distinct(
    make_pool: MakePool, client: str
) -> None:
    """No name of a client reaches into another client's slots."""
    pool = make_pool()
    await pool.take("1", client="a ", limit=1)
    await pool.take("2", client="a b c", limit=1)
    assert await pool.acquire(pool.slot("3", 5, client=client, limit=1)) == ()
    given_up = await pool.acquire(pool.slot("4", 6, client=client, limit=1))
    assert [one.connection_id for one in given_up] == ["3"]
    assert (await pool.get_usage()).clients == 3


@pytest.mark.parametrize("age", [-1e10, -0.5, 0.0, 0.1, 3.3e9])
async def test_ages_come_back_exactly(make_pool: MakePool, age: float) -> None:
    pool = make_pool()
    slot = pool.slot("1", age, limit=1)
    await pool.acquire(slot)
    assert await pool.acquire(pool.slot("2", 4e9, limit=1)) == (slot,)


async def test_the_order_is_age_then_id(make_pool: MakePool) -> None:
    pool = make_pool()
    for name, age in (("b", 1.0), ("a", 1.0), ("z", -2e10), ("c", 0.5)):
        await pool.acquire(pool.slot(name, age, limit=4))
    given_up = await pool.acquire(pool.slot("new", 2, limit=1))
    assert [one.connection_id for one in given_up] == ["z", "c", "a", "b"]


@pytest.mark.parametrize("attempt", range(5))
async def test_fifty_at_once_from_two_nodes_keep_to_five(
    make_pool: MakePool, store: Store, attempt: int
) -> None:
    """However many connect at the same instant, the limit holds."""
    one, other = make_pool("a"), make_pool("b")
    slots = [(one, other)[index % 2].slot(f"{index:02}", index) for index in range(50)]
    random.Random(attempt).shuffle(slots)
    given_up = await asyncio.gather(
        *((one if slot.node_id == "a" else other).acquire(slot) for slot in slots)
    )
    held = store.leased()
    evicted = [slot.connection_id for slots in given_up for slot in slots]
    assert len(held) == 5
    assert sorted(evicted) == sorted({slot.connection_id for slot in slots} - held)


async def test_a_released_slot_can_be_taken_at_once(make_pool: MakePool) -> None:
    """A client that comes back never loses another of its connections."""
    pool = make_pool()
    await pool.take("1", "2", limit=2)
    for index in range(20):
        pool.release(f"{index + 2}")
        assert await pool.acquire(pool.slot(f"{index + 3}", index + 9, limit=2)) == ()


async def test_a_release_reaches_the_store(make_pool: MakePool, store: Store) -> None:
    pool = make_pool()
    await pool.take("1", "2")
    pool.release("1")
    pool.release("unknown")
    await wait_until(lambda: store.leased() == {"2"})


async def test_a_release_during_an_outage_is_repeated(
    make_pool: MakePool, store: Store
) -> None:
    timeout_seconds = scale(0.5)
    pool = make_pool(timeout_seconds=timeout_seconds, lease_seconds=30)
    await pool.take("1", "2")
    store.pause()
    pool.release("1")
    await asyncio.sleep(2 * timeout_seconds)
    store.resume()
    await wait_until(lambda: store.leased() == {"2"})


class FailingClock:
    """A clock that raises once, when that is asked for."""

    def __init__(self) -> None:
        self.is_broken = False

    def __call__(self) -> float:
        if self.is_broken:
            self.is_broken = False
            raise ValueError("an error that nobody expected")
        return time.monotonic()


async def test_slots_are_released_after_an_unexpected_error(
    make_pool: MakePool, store: Store
) -> None:
    clock = FailingClock()
    pool = make_pool(clock=clock, lease_seconds=30)
    await pool.take("1", "2")
    pool.release("1")
    clock.is_broken = True
    await wait_until(lambda: store.leased() == {"2"})
    assert not clock.is_broken


async def test_the_slots_of_a_dead_node_expire(
    make_pool: MakePool, store: Store
) -> None:
    gone, other = make_pool("a"), make_pool("b", max_total=3)
    await gone.take("1", "2", limit=2)
    kept = await other.take("9", client="d")
    await gone.bus.close()
    await outlast_lease(store.jump, other, kept)
    assert (await other.get_usage()).slots == 1
    assert await other.acquire(other.slot("3", 9, limit=1)) == ()


async def test_a_paused_node_retakes_slots_where_there_is_room(
    make_pool: MakePool, store: Store
) -> None:
    """The newest slots are taken again; the oldest is lost."""
    paused, other = make_pool("a"), make_pool("b")
    slots = await paused.take("1", "2", "3", limit=3)
    kept = await other.take("9", client="d")
    await paused.bus.close()
    await outlast_lease(store.jump, other, kept)
    assert (await other.get_usage()).slots == 1
    await other.take("4", start=9, limit=3)
    assert await paused.renew(slots) == Renewal(lost=("1",))
    assert await paused.renew(slots[1:]) == Renewal()


async def test_renewed_slots_do_not_expire(make_pool: MakePool, store: Store) -> None:
    pool = make_pool()
    slots = await pool.take(*(f"{index}" for index in range(5)))
    for _ in range(3):
        await outlast_lease(store.jump, pool, slots)
        assert not await is_recovering(pool)
    assert len(store.leased()) == 5


async def test_a_repeated_call_changes_nothing(
    make_pool: MakePool, store: Store
) -> None:
    """The slot was taken and the reply lost: the next call finds it."""
    async with Proxy(store.port) as proxy:
        pool = make_pool("a", port=proxy.port, timeout_seconds=scale(0.6))
        await pool.take("1", "2", limit=2)
        await open_connections(pool)
        proxy.loses_replies = True
        with pytest.raises(PoolUnavailable):
            await pool.acquire(pool.slot("3", 5, limit=2))
        assert store.leased() == {"2", "3"}
        proxy.loses_replies = False
        proxy.reset()
        assert await pool.acquire(pool.slot("3", 5, limit=2)) == ()
        assert store.leased() == {"2", "3"}
        await pool.close()


async def test_an_eviction_whose_reply_was_lost_is_reported(
    make_pool: MakePool, store: Store
) -> None:
    async with Proxy(store.port) as proxy:
        pool = make_pool("a", port=proxy.port, timeout_seconds=scale(0.6))
        slots = await pool.take("1", "2", limit=2)
        await open_connections(pool)
        proxy.loses_replies = True
        with pytest.raises(PoolUnavailable):
            await pool.acquire(pool.slot("3", 5, limit=2))
        proxy.loses_replies = False
        proxy.reset()
        renewal = await pool.renew(slots)
        assert "1" in {*renewal.evicted, *pool.evicted}
        await pool.close()


async def test_a_slot_whose_reply_was_lost_is_released(
    make_pool: MakePool, store: Store
) -> None:
    async with Proxy(store.port) as proxy:
        pool = make_pool(
            "a", port=proxy.port, timeout_seconds=scale(0.6), lease_seconds=60
        )
        await pool.take("1")
        await open_connections(pool)
        proxy.loses_replies = True
        with pytest.raises(PoolUnavailable):
            await pool.acquire(pool.slot("2", 5))
        proxy.loses_replies = False
        proxy.reset()
        await wait_until(lambda: store.leased() == {"1"})
        await pool.close()


async def test_a_cancelled_acquire_leaves_no_slot_and_no_broken_connection(
    make_pool: MakePool, store: Store
) -> None:
    pool = make_pool()
    for index in range(30):
        task = asyncio.create_task(pool.acquire(pool.slot(f"x{index}", index)))
        for _ in range(index % 6):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            pool.release(f"x{index}")
    await wait_until(lambda: store.leased() == set())
    assert (await pool.get_usage()).slots == 0


async def test_callers_of_a_paused_store_fail_together(
    make_pool: MakePool, store: Store
) -> None:
    """
    The event loop goes on meanwhile; one after another would take 50 seconds.

    Turns of the loop are counted: a machine that stands still has none.
    """
    pool = make_pool(timeout_seconds=scale(0.5))
    await pool.take("0")
    store.pause()
    slots = [pool.slot(f"{index}", index, client=f"{index}") for index in range(1, 100)]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count_turns())
    results = await asyncio.gather(
        *(pool.acquire(slot) for slot in slots), return_exceptions=True
    )
    counting.cancel()
    assert all(isinstance(one, PoolUnavailable) for one in results)
    assert 5 < turns < scale(10) / 0.01


async def test_a_reply_that_came_while_the_loop_stood_still_counts(
    make_pool: MakePool, store: Store
) -> None:
    timeout_seconds = scale(0.8)
    pool = make_pool(timeout_seconds=timeout_seconds, lease_seconds=30)
    await pool.take("first")
    store.pause()
    waiting = asyncio.create_task(pool.take("second"))
    await asyncio.sleep(0.01)

    def stall() -> None:
        store.resume()
        time.sleep(1.2 * timeout_seconds)

    stall()
    assert [slot.connection_id for slot in await waiting] == ["second"]


async def test_a_pause_of_the_store_loses_no_slot_within_the_limits(
    make_pool: MakePool, store: Store
) -> None:
    """After more than a lease, all slots are taken again in order of age."""
    one, other = make_pool("a"), make_pool("b")
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", start=5)
    store.jump(1.3 * LEASE_SECONDS)
    await settle_recovery(store.jump, one, other, slots=(mine, theirs))
    assert store.leased() == {"1", "2", "3", "4", "5"}
    given_up = await other.acquire(other.slot("6", 9))
    assert given_up == (mine[0],)
    await wait_until(lambda: one.evicted == {"1"})
    assert other.evicted == set()


async def test_a_flushed_pool_is_exact_again_and_evicts_the_oldest(
    make_pool: MakePool, store: Store
) -> None:
    """A recovering pool admits connections; then it evicts the excess."""
    one, other = make_pool("a"), make_pool("b")
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", start=5)
    for pool in (one, other):
        await wait_until(lambda pool=pool: pool.bus.is_subscribed)
    store.lose_slots()
    theirs += await other.take("6", "7", start=10)
    await settle_recovery(store.jump, one, other, slots=(mine, theirs))
    assert store.leased() == {"3", "4", "5", "6", "7"}

    async def is_told() -> bool:
        one.taken.append(await one.renew(mine))
        return one.evicted == {"1", "2"}

    await wait_until(is_told)
    assert other.evicted == set()


async def test_no_two_nodes_evict_each_other_in_turns(
    make_pool: MakePool, store: Store
) -> None:
    """Once the excess is evicted, further renewals change nothing."""
    one, other = make_pool("a"), make_pool("b")
    mine, theirs = await one.take("1", "3", limit=2), []
    store.lose_slots()
    theirs += await other.take("2", "4", start=5, limit=2)
    await settle_recovery(store.jump, one, other, slots=(mine, theirs))
    held = store.leased()
    assert held == {"2", "4"}
    for _ in range(5):
        assert set((await one.renew(mine)).evicted) == {"1", "3"}
        assert await other.renew(theirs) == Renewal()
    assert store.leased() == held


async def test_a_recovering_pool_counts_the_slots_of_the_node(
    make_pool: MakePool, store: Store
) -> None:
    """The limits hold on one node even while the pool is empty."""
    pool = make_pool(max_total=3)
    slots = await pool.take("1", "2", limit=2) + await pool.take("3", client="d")
    store.lose_slots()
    with pytest.raises(PoolFull):
        await pool.acquire(pool.slot("4", 9, client="e"))
    assert await pool.acquire(pool.slot("5", 9, limit=2)) == (slots[0],)


async def test_the_excess_over_the_total_is_evicted_oldest_first(
    make_pool: MakePool, store: Store
) -> None:
    one, other = make_pool("a", max_total=3), make_pool("b", max_total=3)
    mine = [
        *await one.take("1", client="c"),
        *await one.take("2", start=1, client="d"),
    ]
    # Otherwise it may report its slots before the others are taken.
    await one.bus.close()
    store.lose_slots()
    theirs = [
        *await other.take("3", start=2, client="e"),
        *await other.take("4", start=3, client="f"),
    ]
    await settle_recovery(store.jump, one, other, slots=(mine, theirs))
    await wait_until(lambda: len(store.leased()) == 3)
    # Of the slots of several shards the oldest of one shard goes.
    assert store.has_shards or store.leased() == {"2", "3", "4"}


async def test_late_slots_count_by_age(make_pool: MakePool, store: Store) -> None:
    """The client's oldest is evicted, be it a late one."""
    one, other = make_pool("a"), make_pool("b")
    await one.take("3", "4", start=10, limit=2)
    late = [other.slot("1", 0, limit=2), other.slot("5", 20, limit=2)]
    assert await other.take_late(late) == Renewal(evicted=("1",))
    assert store.leased() == {"4", "5"}
    assert await other.take_late(late) == Renewal(evicted=("1",))


async def test_the_largest_limit_is_held(make_pool: MakePool) -> None:
    """get_limits() may return it for a client that has no limit."""
    pool = make_pool()
    slots = await pool.take("1", "2", limit=2**53)
    assert await pool.renew(slots) == Renewal()
    late = [pool.slot("3", 5, limit=2**53)]
    assert await pool.take_late(late) == Renewal()
    assert (await pool.get_usage()).slots == 3
