"""Connections are admitted by policy while the shared pool is out of reach."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.pool.base import Renewal, SharedPool, Slot, Usage
from connections.pool.local import LocalPool
from connections.pool.outage import OutagePool
from connections.pool.redis import RedisPool
from connections.pool.sharded import ShardedPool
from connections.redis.bus import RedisBus
from connections.testing import wait_until
from connections.testing.waiting import scale
from tests.integration.redis_process import RedisProcess


class FakeShared(SharedPool):
    """A shared pool in memory that can be taken away."""

    def __init__(self, max_total: int = 100) -> None:
        self.is_away = False
        self.trouble: Exception | None = None
        """What the next renewal raises."""
        self.refuses_late: set[str] = set()
        self.released: list[str] = []
        self.renewed: list[str] = []
        self.late: list[str] = []
        self.asked_late = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._pool = LocalPool(max_total=max_total)

    def _check(self) -> None:
        if self.is_away:
            raise PoolUnavailable("gone")

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        await asyncio.sleep(0)
        self._check()
        return await self._pool.acquire(slot, replaces=replaces)

    async def renew(self, slots: Sequence[Slot]) -> Renewal:
        self._check()
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
        self.renewed = [slot.connection_id for slot in slots]
        return Renewal()

    async def take_late(self, slots: Sequence[Slot]) -> Renewal:
        self._check()
        self.late += [slot.connection_id for slot in slots]
        self.asked_late.set()
        await self.may_answer.wait()
        ids = {slot.connection_id for slot in slots}
        return Renewal(evicted=tuple(sorted(ids & self.refuses_late)))

    def get_held_ids(self) -> list[str]:
        return []

    def release(self, connection_id: str) -> None:
        self.released.append(connection_id)

    async def get_usage(self) -> Usage:
        self._check()
        return await self._pool.get_usage()

    async def close(self) -> None:
        pass


def make_slot(name: str, age: float, *, client: str = "c", limit: int = 2) -> Slot:
    return Slot(
        connection_id=name, client_id=client, node_id="a", opened_at=age, limit=limit
    )


class Case:
    """A pool under test, its shared pool, and the slots reported taken."""

    def __init__(self, **options: Any) -> None:
        self.shared = FakeShared(options.get("max_total", 100))
        self.taken: list[Renewal] = []
        settings = {"policy": "local", "max_total": 100, **options}
        self.pool = OutagePool(
            self.shared, on_taken=self.taken.append, probe_seconds=0.02, **settings
        )

    async def take(self, *names: str, start: float = 0, **options: Any) -> None:
        for index, name in enumerate(names):
            await self.pool.acquire(make_slot(name, start + index, **options))

    async def begin_restore(self) -> None:
        """Bring the shared pool back, and block it while it takes late slots."""
        self.shared.may_answer.clear()
        self.shared.is_away = False
        await asyncio.wait_for(self.shared.asked_late.wait(), scale(15))

    async def restore_shared(self) -> None:
        self.shared.is_away = False
        self.shared.may_answer.set()
        await wait_until(lambda: not self.pool.is_degraded)


MakeCase = Callable[..., Case]


@pytest.fixture
async def make_case() -> AsyncIterator[MakeCase]:
    made: list[Case] = []

    def make(**options: Any) -> Case:
        made.append(Case(**options))
        return made[-1]

    yield make
    for case in made:
        await case.pool.close()


async def test_the_shared_pool_is_used_while_it_answers(make_case: MakeCase) -> None:
    case = make_case()
    await case.take("1", "2")
    assert await case.pool.acquire(make_slot("3", 5)) == (make_slot("1", 0),)
    assert (await case.pool.get_usage()).slots == 2
    assert not case.pool.is_degraded


async def test_local_limits_the_nodes_own_connections(make_case: MakeCase) -> None:
    """Slots from before the outage count, and the oldest is evicted."""
    case = make_case()
    await case.take("1", "2")
    case.shared.is_away = True
    assert await case.pool.acquire(make_slot("3", 5)) == (make_slot("1", 0),)
    assert await case.pool.acquire(make_slot("4", 6)) == (make_slot("2", 1),)
    assert case.pool.degraded_reason == "gone"
    assert case.shared.released == ["1", "2"]


async def test_local_holds_the_total_of_the_node(make_case: MakeCase) -> None:
    case = make_case(max_total=2)
    case.shared.is_away = True
    await case.take("1", client="a")
    await case.take("2", client="b")
    with pytest.raises(PoolFull):
        await case.take("3", client="c")
    case.pool.release("1")
    await case.take("4", client="c")


async def test_local_refuses_a_client_where_that_is_the_policy(
    make_case: MakeCase,
) -> None:
    case = make_case(evict_oldest=False)
    case.shared.is_away = True
    await case.take("1", "2")
    with pytest.raises(ClientFull):
        await case.take("3")


async def test_refuse_admits_none_and_keeps_the_rest(make_case: MakeCase) -> None:
    case = make_case(policy="refuse")
    await case.take("1")
    case.shared.is_away = True
    with pytest.raises(PoolUnavailable):
        await case.take("2")
    assert await case.pool.renew([make_slot("1", 0)]) == Renewal()
    assert (await case.pool.get_usage()).slots == 1


async def test_allow_admits_every_connection(make_case: MakeCase) -> None:
    case = make_case(policy="allow", max_total=2)
    case.shared.is_away = True
    await case.take("1", "2", "3", "4")
    assert (await case.pool.get_usage()).slots == 4


async def test_renews_and_takes_late_slots_on_return(make_case: MakeCase) -> None:
    """Slots that the shared pool had are renewed; the others are taken as new."""
    case = make_case()
    await case.take("1")
    case.shared.is_away = True
    await case.take("2", start=5)
    case.shared.refuses_late = {"2"}
    await case.restore_shared()
    assert case.shared.renewed == ["1"]
    assert case.shared.late == ["2"]
    assert case.taken == [Renewal(evicted=("2",))]
    assert case.pool.degraded_reason is None


async def test_slots_acquired_during_the_return_are_taken(
    make_case: MakeCase,
) -> None:
    case = make_case(policy="allow")
    case.shared.is_away = True
    await case.take("1")
    await case.begin_restore()
    await case.take("2")
    await case.restore_shared()
    assert case.shared.late == ["1", "2"]


async def test_a_slot_released_during_the_return_stays_free(
    make_case: MakeCase,
) -> None:
    case = make_case()
    case.shared.is_away = True
    await case.take("1")
    await case.begin_restore()
    case.pool.release("1")
    case.shared.released.clear()
    await case.restore_shared()
    assert case.shared.released == ["1"]


async def test_a_renewal_that_fails_loses_no_slot(make_case: MakeCase) -> None:
    case = make_case()
    await case.take("1")
    case.shared.is_away = True
    assert await case.pool.renew([make_slot("1", 0)]) == Renewal()
    assert case.pool.is_degraded


async def test_an_unexpected_error_ends_no_probes(make_case: MakeCase) -> None:
    case = make_case()
    case.shared.is_away = True
    await case.take("a1")
    assert case.pool.is_degraded
    case.shared.trouble = KeyError("a reply that nobody expected")
    await case.restore_shared()
    assert case.shared.late == ["a1"] and case.shared.trouble is None


@pytest.mark.parametrize("kind", [RedisPool, ShardedPool])
async def test_redis_away_and_back(
    redis_server: RedisProcess, kind: type[RedisPool | ShardedPool]
) -> None:
    """Two nodes, Redis paused for longer than a lease: exact within a lease."""
    lease_seconds = scale(1.5)
    taken: dict[str, list[Renewal]] = {"a": [], "b": []}
    pools = {}
    for node_id in "ab":
        shared = kind(
            redis_server.url,
            bus=RedisBus(redis_server.url, node_id=node_id, probe_seconds=0.3),
            max_total=100,
            lease_seconds=lease_seconds,
            timeout_seconds=scale(0.3),
        )
        pools[node_id] = OutagePool(
            shared,
            policy="local",
            max_total=100,
            on_taken=taken[node_id].append,
            probe_seconds=0.1,
        )
    held: dict[str, dict[str, Slot]] = {"a": {}, "b": {}}
    counts = {"a": 0, "b": 0}

    async def take(node_id: str, name: str, age: float) -> None:
        slot = Slot(
            connection_id=name,
            client_id="c",
            node_id=node_id,
            opened_at=age,
            limit=4,
        )
        held[node_id][name] = slot
        for one in await pools[node_id].acquire(slot):
            counts[one.node_id] += 1
            held[one.node_id].pop(one.connection_id, None)

    async def beat() -> None:
        while True:
            for node_id, pool in pools.items():
                renewal = await pool.renew(list(held[node_id].values()))
                for one in (renewal, *taken[node_id]):
                    for name in one.evicted + one.lost:
                        held[node_id].pop(name, None)
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    for name, node_id in (("1", "a"), ("2", "b"), ("3", "a"), ("4", "b")):
        await take(node_id, name, float(name))
    redis_server.pause()
    started = time.monotonic()
    await take("a", "5", 5)
    assert pools["a"].is_degraded
    await take("b", "6", 6)
    await asyncio.sleep(1.3 * lease_seconds - (time.monotonic() - started))
    assert set(held["a"]) | set(held["b"]) == {"1", "2", "3", "4", "5", "6"}
    redis_server.resume()
    newest = {"3", "4", "5", "6"}
    await wait_until(lambda: set(held["a"]) | set(held["b"]) == newest)
    await wait_until(lambda: not any(pool.is_degraded for pool in pools.values()))
    await asyncio.sleep(lease_seconds)
    assert set(held["a"]) | set(held["b"]) == newest
    beating.cancel()
    for pool in pools.values():
        await pool.close()
