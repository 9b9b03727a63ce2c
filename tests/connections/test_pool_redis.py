"""The pool that nodes share, on a real Redis."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal, Slot
from connections.pool.redis import RedisPool
from connections.redis.bus import RedisBus
from connections.testing import FakeClock, Proxy, wait_until
from tests.integration.redis_process import RedisProcess

LEASE_SECONDS = 1.5


class NodePool(RedisPool):
    """The pool of one node, with the slots that were reported taken."""

    def __init__(self, url: str, node_id: str, **options: Any) -> None:
        self.node_id = node_id
        self.taken: list[Renewal] = []
        settings = {"max_total": 1000, "lease_seconds": LEASE_SECONDS, **options}
        bus = RedisBus(url, node_id=node_id, probe_seconds=0.3)
        super().__init__(url, bus=bus, **settings)
        self.on_taken = self.taken.append
        self.bus = bus

    def slot(self, name: str, age: float, *, client: str = "c", limit: int = 5) -> Slot:
        return Slot(
            connection_id=name,
            client_id=client,
            node_id=self.node_id,
            opened_at=1_700_000_000 + age,
            limit=limit,
        )

    async def take(self, *names: str, start: float = 0, **options: Any) -> list[Slot]:
        slots = [
            self.slot(name, start + index, **options)
            for index, name in enumerate(names)
        ]
        for slot in slots:
            await self.acquire(slot)
        return slots

    @property
    def evicted(self) -> set[str]:
        return {one for renewal in self.taken for one in renewal.evicted}


MakePool = Callable[..., NodePool]


@pytest.fixture
async def make_pool(redis_server: RedisProcess) -> AsyncIterator[MakePool]:
    made: list[NodePool] = []

    def make(
        node_id: str = "a", url: str = redis_server.url, **options: Any
    ) -> NodePool:
        made.append(NodePool(url, node_id, **options))
        return made[-1]

    yield make
    redis_server.resume()
    for pool in made:
        await pool.close()


def leased_in(redis_server: RedisProcess) -> set[str]:
    """Return the connections with a lease, by the clock of Redis."""
    with redis_server.connect() as client:
        seconds, microseconds = client.time()
        now_ms = seconds * 1000 + microseconds // 1000
        return set(
            client.zrangebyscore("{orchestra:pool}:leases", f"({now_ms}", "+inf")
        )


async def settle_recovery(*pools: NodePool, slots: Sequence[Sequence[Slot]]) -> None:
    """Renew on every node, as beats do, until the pool is done recovering."""
    deadline = time.monotonic() + 2 * LEASE_SECONDS
    while time.monotonic() < deadline:
        for pool, own in zip(pools, slots, strict=True):
            pool.taken.append(await pool.renew(own))
        if not await is_recovering(pools[0]):
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("the pool goes on recovering")


async def is_recovering(pool: NodePool) -> bool:
    return (await pool.get_usage()).is_recovering


# The limits


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
    await wait_until(lambda: one.taken == [Renewal(evicted=("1",))], 2)


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
    make_pool: MakePool, redis_server: RedisProcess, attempt: int
) -> None:
    """However many connect at the same instant, the limit holds."""
    one, other = make_pool("a"), make_pool("b")
    slots = [(one, other)[index % 2].slot(f"{index:02}", index) for index in range(50)]
    random.Random(attempt).shuffle(slots)
    given_up = await asyncio.gather(
        *((one if slot.node_id == "a" else other).acquire(slot) for slot in slots)
    )
    held = leased_in(redis_server)
    evicted = [slot.connection_id for slots in given_up for slot in slots]
    assert len(held) == 5
    assert sorted(evicted) == sorted({slot.connection_id for slot in slots} - held)


# Giving back


async def test_a_released_slot_can_be_taken_at_once(make_pool: MakePool) -> None:
    """A client that comes back never loses another of its connections."""
    pool = make_pool()
    await pool.take("1", "2", limit=2)
    for index in range(20):
        pool.release(f"{index + 2}")
        assert await pool.acquire(pool.slot(f"{index + 3}", index + 9, limit=2)) == ()


async def test_release_reaches_redis(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool()
    await pool.take("1", "2")
    pool.release("1")
    pool.release("unknown")
    await wait_until(lambda: leased_in(redis_server) == {"2"})


async def test_close_finishes_pending_releases(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = NodePool(redis_server.url, "a")
    await pool.take("1", "2")
    pool.release("1")
    pool.release("2")
    await pool.close()
    with redis_server.connect() as client:
        assert client.keys("{orchestra:pool}:*") == ["{orchestra:pool}:state"]


async def test_a_release_during_an_outage_is_repeated(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(timeout_seconds=0.2, lease_seconds=30)
    await pool.take("1", "2")
    redis_server.pause()
    pool.release("1")
    await asyncio.sleep(0.4)
    redis_server.resume()
    await wait_until(lambda: leased_in(redis_server) == {"2"})


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
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    clock = FailingClock()
    pool = make_pool(clock=clock, lease_seconds=30)
    await pool.take("1", "2")
    pool.release("1")
    clock.is_broken = True
    await wait_until(lambda: leased_in(redis_server) == {"2"})
    assert not clock.is_broken


# Leases


async def test_the_slots_of_a_dead_node_expire(make_pool: MakePool) -> None:
    gone, other = make_pool("a"), make_pool("b", max_total=3)
    await gone.take("1", "2", limit=2)
    kept = await other.take("9", client="d")

    async def is_free() -> bool:
        await other.renew(kept)
        return (await other.get_usage()).slots == 1

    await wait_until(is_free, 2 * LEASE_SECONDS)
    assert await other.acquire(other.slot("3", 9, limit=1)) == ()


async def test_a_paused_node_retakes_slots_where_there_is_room(
    make_pool: MakePool,
) -> None:
    """The newest slots are taken again; the oldest is lost."""
    paused, other = make_pool("a"), make_pool("b")
    slots = await paused.take("1", "2", "3", limit=3)
    kept = await other.take("9", client="d")

    async def is_expired() -> bool:
        await other.renew(kept)
        return (await other.get_usage()).slots == 1

    await wait_until(is_expired, 2 * LEASE_SECONDS)
    await other.take("4", start=9, limit=3)
    assert await paused.renew(slots) == Renewal(lost=("1",))
    assert await paused.renew(slots[1:]) == Renewal()


async def test_renewed_slots_do_not_expire(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool()
    slots = await pool.take(*(f"{index}" for index in range(5)))
    deadline = time.monotonic() + 2 * LEASE_SECONDS
    while time.monotonic() < deadline:
        assert await pool.renew(slots) == Renewal()
        await asyncio.sleep(LEASE_SECONDS / 3)
    assert len(leased_in(redis_server)) == 5


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

    async def is_empty() -> bool:
        await one.get_usage()
        with redis_server.connect() as client:
            return bool(client.keys("{orchestra:pool}:*") == ["{orchestra:pool}:state"])

    await wait_until(is_empty, 4 * LEASE_SECONDS)


# Lost replies


async def test_a_repeated_call_changes_nothing(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """The slot was taken and the reply lost: the next call finds it."""
    async with Proxy(redis_server.port) as proxy:
        pool = make_pool("a", proxy.url, timeout_seconds=0.3)
        await pool.take("1", "2", limit=2)
        proxy.loses_replies = True
        with pytest.raises(PoolUnavailable):
            await pool.acquire(pool.slot("3", 5, limit=2))
        assert leased_in(redis_server) == {"2", "3"}
        proxy.loses_replies = False
        proxy.reset()
        assert await pool.acquire(pool.slot("3", 5, limit=2)) == ()
        assert leased_in(redis_server) == {"2", "3"}
        await pool.close()


async def test_an_eviction_whose_reply_was_lost_is_reported(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    async with Proxy(redis_server.port) as proxy:
        pool = make_pool("a", proxy.url, timeout_seconds=0.3)
        slots = await pool.take("1", "2", limit=2)
        proxy.loses_replies = True
        with pytest.raises(PoolUnavailable):
            await pool.acquire(pool.slot("3", 5, limit=2))
        proxy.loses_replies = False
        proxy.reset()
        renewal = await pool.renew(slots)
        assert "1" in {*renewal.evicted, *pool.evicted}
        await pool.close()


async def test_a_slot_whose_reply_was_lost_is_released(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    async with Proxy(redis_server.port) as proxy:
        pool = make_pool("a", proxy.url, timeout_seconds=0.3, lease_seconds=60)
        await pool.take("1")
        proxy.loses_replies = True
        with pytest.raises(PoolUnavailable):
            await pool.acquire(pool.slot("2", 5))
        proxy.loses_replies = False
        proxy.reset()
        await wait_until(lambda: leased_in(redis_server) == {"1"})
        await pool.close()


async def test_a_cancelled_acquire_leaves_no_slot_and_no_broken_connection(
    make_pool: MakePool, redis_server: RedisProcess
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
    await wait_until(lambda: leased_in(redis_server) == set())
    assert (await pool.get_usage()).slots == 0


# Outages


async def test_a_paused_redis_costs_a_second_and_no_more(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """Many callers fail together, and the event loop is not blocked."""
    pool = make_pool(timeout_seconds=0.5)
    await pool.take("0")
    redis_server.pause()
    slots = [pool.slot(f"{index}", index, client=f"{index}") for index in range(1, 100)]
    longest, last, started = 0.0, time.monotonic(), time.monotonic()

    async def watch() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    watching = asyncio.create_task(watch())
    results = await asyncio.gather(
        *(pool.acquire(slot) for slot in slots), return_exceptions=True
    )
    watching.cancel()
    assert all(isinstance(one, PoolUnavailable) for one in results)
    assert time.monotonic() - started < 5
    assert longest < 0.4


async def test_a_reply_that_came_while_the_loop_stood_still_counts(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    pool = make_pool(timeout_seconds=0.1, lease_seconds=30)
    await pool.take("first")
    redis_server.pause()
    waiting = asyncio.create_task(pool.take("second"))
    await asyncio.sleep(0.01)

    def stall() -> None:
        redis_server.resume()
        time.sleep(0.12)

    stall()
    assert [slot.connection_id for slot in await waiting] == ["second"]


async def test_a_pause_of_redis_loses_no_slot_within_the_limits(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """After more than a lease, all slots are taken again in order of age."""
    one, other = (
        make_pool("a", timeout_seconds=0.3),
        make_pool("b", timeout_seconds=0.3),
    )
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", start=5)
    redis_server.pause()
    await asyncio.sleep(1.3 * LEASE_SECONDS)
    redis_server.resume()
    await settle_recovery(one, other, slots=(mine, theirs))
    assert leased_in(redis_server) == {"1", "2", "3", "4", "5"}
    given_up = await other.acquire(other.slot("6", 9))
    assert given_up == (mine[0],)
    await wait_until(lambda: one.evicted == {"1"})
    assert other.evicted == set()


async def test_a_flushed_pool_is_exact_again_and_evicts_the_oldest(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """A recovering pool admits connections; then it evicts the excess."""
    one, other = make_pool("a"), make_pool("b")
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", start=5)
    for pool in (one, other):
        await wait_until(lambda pool=pool: pool.bus.is_subscribed)
    redis_server.flush()
    theirs += await other.take("6", "7", start=10)
    await settle_recovery(one, other, slots=(mine, theirs))
    assert leased_in(redis_server) == {"3", "4", "5", "6", "7"}
    await wait_until(lambda: one.evicted == {"1", "2"})
    assert other.evicted == set()


@pytest.mark.parametrize("key", ["leases", "slots", "ages", "clients", "state"])
async def test_a_lost_key_is_noticed_and_the_limits_hold_again(
    make_pool: MakePool, redis_server: RedisProcess, key: str
) -> None:
    """As a memory limit with allkeys-lru, or somebody's DEL, removes it."""
    one, other = make_pool("a"), make_pool("b")
    mine = await one.take("1", "2", "3")
    theirs = await other.take("4", "5", start=5)
    await settle_recovery(one, other, slots=(mine, theirs))
    with redis_server.connect() as client:
        assert client.delete(f"{{orchestra:pool}}:{key}") == 1
    theirs += await other.take("6", start=10)
    await settle_recovery(one, other, slots=(mine, theirs))
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
    assert (await one.renew(mine)).lost == ("1",)
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
    await settle_recovery(one, other, slots=(mine, theirs))
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


async def fill(pool: NodePool, redis_server: RedisProcess, *, clients: int) -> Any:
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


async def test_no_two_nodes_evict_each_other_in_turns(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """Once the excess is evicted, further renewals change nothing."""
    one, other = make_pool("a"), make_pool("b")
    mine, theirs = await one.take("1", "3", limit=2), []
    redis_server.flush()
    theirs += await other.take("2", "4", start=5, limit=2)
    await settle_recovery(one, other, slots=(mine, theirs))
    held = leased_in(redis_server)
    assert held == {"2", "4"}
    for _ in range(5):
        assert set((await one.renew(mine)).evicted) == {"1", "3"}
        assert await other.renew(theirs) == Renewal()
    assert leased_in(redis_server) == held


async def test_a_recovering_pool_counts_the_slots_of_the_node(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """The limits hold on one node even while the pool is empty."""
    pool = make_pool(max_total=3)
    slots = await pool.take("1", "2", limit=2) + await pool.take("3", client="d")
    redis_server.flush()
    with pytest.raises(PoolFull):
        await pool.acquire(pool.slot("4", 9, client="e"))
    assert await pool.acquire(pool.slot("5", 9, limit=2)) == (slots[0],)


async def test_the_excess_over_the_total_is_evicted_oldest_first(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    one, other = make_pool("a", max_total=3), make_pool("b", max_total=3)
    mine = [
        *await one.take("1", client="c"),
        *await one.take("2", start=1, client="d"),
    ]
    redis_server.flush()
    theirs = [
        *await other.take("3", start=2, client="e"),
        *await other.take("4", start=3, client="f"),
    ]
    await settle_recovery(one, other, slots=(mine, theirs))
    assert leased_in(redis_server) == {"2", "3", "4"}


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
        await settle_recovery(one, other, slots=(mine, theirs))
        assert leased_in(process) == {"1", "2", "3"}
    finally:
        process.remove()


async def test_late_slots_count_by_age(
    make_pool: MakePool, redis_server: RedisProcess
) -> None:
    """The client's oldest is evicted, be it a late one."""
    one, other = make_pool("a"), make_pool("b")
    await one.take("3", "4", start=10, limit=2)
    late = [other.slot("1", 0, limit=2), other.slot("5", 20, limit=2)]
    assert await other.take_late(late) == Renewal(evicted=("1",))
    assert leased_in(redis_server) == {"4", "5"}
    assert await other.take_late(late) == Renewal(evicted=("1",))


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
        pool = NodePool(process.url, "a")
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
    pool = make_pool()
    await pool.take("1")
    await wait_until(lambda: pool.bus.is_subscribed)
    returns: list[int] = []
    pool.bus.on_return(lambda: returns.append(1))
    with redis_server.connect() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await wait_until(lambda: returns, 5)
