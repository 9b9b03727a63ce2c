"""The contract of a pool on each backend, and each backend against a model."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from connections.exceptions import ClientFull, PoolFull
from connections.pool.base import Pool, Renewal, Slot, Usage
from connections.pool.local import LocalPool
from connections.pool.parent import ParentPool, PoolHost
from connections.pool.redis import RedisPool
from connections.pool.sharded import ShardedPool
from connections.redis.bus import RedisBus
from connections.testing.waiting import scale
from tests.connections.parent_lines import WorkerLine
from tests.connections.pool_database import PoolDatabase
from tests.connections.pool_nodes import FEW_SHARDS, let_be_exact
from tests.integration.redis_process import RedisProcess

Result = TypeVar("Result")

MakePool = Callable[..., Pool]


def make_redis_pool(
    url: str, kind: type[RedisPool | ShardedPool] = RedisPool, **options: Any
) -> RedisPool | ShardedPool:
    bus = RedisBus(url, node_id="n1", timeout_seconds=scale(20))
    options["timeout_seconds"] = scale(20)
    if kind is ShardedPool:
        options["shards"] = FEW_SHARDS
    return kind(url, bus=bus, lease_seconds=30, **options)


def make_parent_pool(**options: Any) -> ParentPool:
    line = WorkerLine(PoolHost(**options))
    return ParentPool(line, **options)


@pytest.fixture(params=["local", "parent", "redis", "sharded", "postgres"])
async def make_pool(request: pytest.FixtureRequest) -> AsyncIterator[MakePool]:
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        if request.param == "local":
            made.append(LocalPool(**options))
        elif request.param == "parent":
            made.append(make_parent_pool(**options))
        elif request.param == "postgres":
            made.append(postgres.make_pool("n1", lease_seconds=30, **options))
        else:
            kind = ShardedPool if request.param == "sharded" else RedisPool
            made.append(make_redis_pool(server.url, kind, **options))
        return made[-1]

    if request.param in ("redis", "sharded"):
        server: RedisProcess = request.getfixturevalue("redis_server")
    if request.param == "postgres":
        postgres: PoolDatabase = request.getfixturevalue("pool_database")
    yield make
    for pool in made:
        await pool.close()


def make_slot(
    number: int, client_id: str = "alice", *, limit: int = 2, at: float | None = None
) -> Slot:
    return Slot(
        connection_id=f"c{number:04}",
        client_id=client_id,
        node_id="n1",
        opened_at=number if at is None else at,
        limit=limit,
    )


def ids(slots: tuple[Slot, ...]) -> list[str]:
    return [slot.connection_id for slot in slots]


async def test_the_oldest_is_evicted_at_the_clients_limit(make_pool: MakePool) -> None:
    pool = make_pool(max_total=10)
    assert await pool.acquire(make_slot(1)) == ()
    assert await pool.acquire(make_slot(2)) == ()
    assert ids(await pool.acquire(make_slot(3))) == ["c0001"]
    assert (await pool.get_usage()).slots == 2


async def test_age_decides_and_not_the_order_of_arrival(make_pool: MakePool) -> None:
    pool = make_pool(max_total=10)
    await pool.acquire(make_slot(1, at=50))
    await pool.acquire(make_slot(2, at=40))
    assert ids(await pool.acquire(make_slot(3, at=60))) == ["c0002"]


async def test_acquiring_twice_takes_one_slot(make_pool: MakePool) -> None:
    pool = make_pool(max_total=10)
    await pool.acquire(make_slot(1))
    assert await pool.acquire(make_slot(1)) == ()
    assert (await pool.get_usage()).slots == 1


async def test_a_full_pool_refuses_and_evicts_no_slot(make_pool: MakePool) -> None:
    pool = make_pool(max_total=2)
    await pool.acquire(make_slot(1, "alice"))
    await pool.acquire(make_slot(2, "bob"))
    with pytest.raises(PoolFull) as full:
        await pool.acquire(make_slot(3, "carol"))
    assert full.value.limit == 2
    assert (await pool.renew([make_slot(1), make_slot(2, "bob")])).lost == ()


async def test_a_full_pool_still_replaces_a_clients_own_oldest(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_total=2)
    await pool.acquire(make_slot(1))
    await pool.acquire(make_slot(2))
    assert ids(await pool.acquire(make_slot(3))) == ["c0001"]


async def test_the_policy_refuse_leaves_the_client_as_it_is(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_total=10, evict_oldest=False)
    await pool.acquire(make_slot(1, limit=1))
    with pytest.raises(ClientFull):
        await pool.acquire(make_slot(2, limit=1))
    assert ids(await pool.acquire(make_slot(3, limit=1), replaces="c0001")) == ["c0001"]


async def test_replacing_comes_before_evicting(make_pool: MakePool) -> None:
    pool = make_pool(max_total=10)
    await pool.acquire(make_slot(1))
    await pool.acquire(make_slot(2))
    assert ids(await pool.acquire(make_slot(3), replaces="c0002")) == ["c0002"]


async def test_another_clients_slot_cannot_be_replaced(make_pool: MakePool) -> None:
    pool = make_pool(max_total=10)
    await pool.acquire(make_slot(1, "bob"))
    assert await pool.acquire(make_slot(2, "alice"), replaces="c0001") == ()
    assert (await pool.get_usage()).slots == 2


async def test_a_slot_that_a_local_pool_does_not_have_is_lost() -> None:
    pool = LocalPool(max_total=10)
    await pool.acquire(make_slot(1))
    assert (await pool.renew([make_slot(1), make_slot(2)])).lost == ("c0002",)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never waits, without an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("it waited")


class PoolMachine(RuleBasedStateMachine):
    """A pool against a list of slots, oldest first."""

    MAX_TOTAL = 6
    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.make_pool()
        self.model: list[Slot] = []
        self.count = 0

    def make_pool(self) -> Pool:
        return LocalPool(max_total=self.MAX_TOTAL)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return run(work)

    def read_usage(self) -> Usage:
        return self.run(self.pool.get_usage())

    @rule(client=st.sampled_from("abc"), replaces=st.none() | st.integers(0, 20))
    def acquire(self, client: str, replaces: int | None) -> None:
        self.take(client, replaces)

    def take(self, client: str, replaces: int | None) -> None:
        self.count += 1
        slot = make_slot(self.count, client, limit=self.LIMIT)
        replaced = f"c{replaces:04}" if replaces is not None else None
        own = [held for held in self.model if held.client_id == client]
        expected = [held for held in own if held.connection_id == replaced]
        kept = [held for held in own if held not in expected]
        expected += kept[: max(0, len(kept) + 1 - self.LIMIT)]
        if len(self.model) - len(expected) >= self.MAX_TOTAL:
            with pytest.raises(PoolFull):
                self.run(self.pool.acquire(slot, replaces=replaced))
            return
        assert self.run(self.pool.acquire(slot, replaces=replaced)) == tuple(expected)
        self.model = [held for held in self.model if held not in expected] + [slot]

    @rule(number=st.integers(0, 20))
    def release(self, number: int) -> None:
        connection_id = f"c{number:04}"
        self.pool.release(connection_id)
        self.model = [one for one in self.model if one.connection_id != connection_id]

    @invariant()
    def has_the_slots_of_the_model(self) -> None:
        assert self.run(self.pool.renew(self.model)) == Renewal()
        usage = self.read_usage()
        assert usage.slots == len(self.model) <= self.MAX_TOTAL
        assert usage.clients == len({slot.client_id for slot in self.model})


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestLocalPoolAgainstModel = PoolMachine.TestCase


class ParentPoolMachine(PoolMachine):
    """The same model for the pool in the parent of the workers."""

    def make_pool(self) -> Pool:
        return make_parent_pool(max_total=self.MAX_TOTAL)


ParentPoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestParentPoolAgainstModel = ParentPoolMachine.TestCase


class RedisPoolMachine(PoolMachine):
    """The same model for the pool in Redis, which is flushed now and then."""

    server: RedisProcess
    kind: type[RedisPool | ShardedPool] = RedisPool

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        super().__init__()

    def make_pool(self) -> Pool:
        self.server.flush()
        let_be_exact(self.server)
        return make_redis_pool(self.server.url, self.kind, max_total=self.MAX_TOTAL)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def read_usage(self) -> Usage:
        """Return the usage once all releases have reached the store."""
        deadline = time.monotonic() + scale(20)
        while True:
            usage = super().read_usage()
            if usage.slots == len(self.model) or time.monotonic() > deadline:
                return usage

    @rule(reporter=st.none() | st.sampled_from("abc"))
    def flush(self, reporter: str | None) -> None:
        """Lose all slots, which an acquire or the next renewal reports."""
        self.server.flush()
        if reporter is not None:
            self.take(reporter, None)

    def teardown(self) -> None:
        self.run(self.pool.close())
        self.runner.close()


class ShardedPoolMachine(RedisPoolMachine):
    """
    The same model for the pool in a cluster.

    A shard that recovers lends nothing: it may not know all its slots yet. So what was
    released since a flush may be of no use to clients of other shards.
    """

    kind = ShardedPool

    def __init__(self) -> None:
        super().__init__()
        self.has_lost_keys = False
        self.unused = 0

    def take(self, client: str, replaces: int | None) -> None:
        try:
            super().take(client, replaces)
        except PoolFull:
            assert len(self.model) + self.unused >= self.MAX_TOTAL

    @rule(number=st.integers(0, 20))
    def release(self, number: int) -> None:
        before = len(self.model)
        super().release(number)
        if self.has_lost_keys:
            self.unused += before - len(self.model)

    @rule(reporter=st.none() | st.sampled_from("abc"))
    def flush(self, reporter: str | None) -> None:
        self.has_lost_keys = True
        super().flush(reporter)


@pytest.mark.parametrize("kind", [RedisPoolMachine, ShardedPoolMachine])
def test_redis_pool_against_model(
    redis_server: RedisProcess, kind: type[RedisPoolMachine]
) -> None:
    machine = type("Machine", (kind,), {"server": redis_server})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=20, stateful_step_count=20, deadline=None),
    )


class PostgresPoolMachine(RedisPoolMachine):
    """The same model for the pool in PostgreSQL, whose rows are lost now and then."""

    database: PoolDatabase

    def make_pool(self) -> Pool:
        self.database.empty()
        return self.database.make_pool("n1", lease_seconds=30, max_total=self.MAX_TOTAL)

    @rule(reporter=st.none() | st.sampled_from("abc"), is_whole=st.booleans())
    def flush(self, reporter: str | None, is_whole: bool = True) -> None:
        """Lose all slots, which an acquire or the next renewal reports."""
        self.database.lose_slots(is_whole=is_whole)
        if reporter is not None and is_whole:
            self.take(reporter, None)


def test_postgres_pool_against_model(pool_database: PoolDatabase) -> None:
    machine = type("Machine", (PostgresPoolMachine,), {"database": pool_database})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=20, stateful_step_count=20, deadline=None),
    )


async def test_fifty_at_once_keep_to_the_limit(make_pool: MakePool) -> None:
    pool = make_pool(max_total=100)
    slots = [make_slot(number, limit=5) for number in range(50)]
    given_up = await asyncio.gather(*(pool.acquire(slot) for slot in slots))
    assert (await pool.get_usage()).slots == 5
    assert sum(map(len, given_up)) == 45
