"""The pool of several workers in the memory of their parent."""

from typing import Any

import pytest

from connections.exceptions import ClientFull, PoolFull, PoolUnavailable
from connections.node.node import Node
from connections.pool.base import Renewal, Slot
from connections.pool.choice import choose_pool
from connections.pool.parent import ParentPool, PoolHost
from connections.testing.communicators import make_config
from tests.connections.parent_lines import WorkerLine


def make_slot(number: int, client_id: str = "alice", limit: int = 2) -> Slot:
    return Slot(
        connection_id=f"c{number}",
        client_id=client_id,
        node_id="n1",
        opened_at=number,
        limit=limit,
    )


class Worker:
    """A worker with its pool, and what was taken away from it."""

    def __init__(self, host: PoolHost) -> None:
        self.line = WorkerLine(host)
        self.pool = ParentPool(self.line, max_total=4)
        self.taken: list[Renewal] = []
        self.pool.on_taken = self.taken.append


@pytest.fixture
def host() -> PoolHost:
    return PoolHost(max_total=4)


@pytest.fixture
def two(host: PoolHost) -> tuple[Worker, Worker]:
    return Worker(host), Worker(host)


async def test_a_slot_that_another_worker_evicts_is_reported_at_once(
    two: tuple[Worker, Worker],
) -> None:
    first, second = two
    await first.pool.acquire(make_slot(1))
    await first.pool.acquire(make_slot(2))
    (evicted,) = await second.pool.acquire(make_slot(3))
    assert evicted == make_slot(1)
    (replaced,) = await second.pool.acquire(make_slot(4), replaces="c2")
    assert replaced == make_slot(2)
    assert first.taken == [Renewal(evicted=("c1",)), Renewal(replaced=("c2",))]
    assert second.taken == []
    assert first.pool.get_held_ids() == []
    assert sorted(second.pool.get_held_ids()) == ["c3", "c4"]


async def test_the_limit_in_total_counts_all_workers(
    two: tuple[Worker, Worker],
) -> None:
    for number in range(4):
        await two[number % 2].pool.acquire(make_slot(number, f"client {number}"))
    for worker in two:
        with pytest.raises(PoolFull):
            await worker.pool.acquire(make_slot(9, "another"))
        assert (await worker.pool.get_usage()).slots == 4
    two[0].pool.release("c0")
    await two[1].pool.acquire(make_slot(9, "another"))


async def test_the_slots_of_a_worker_end_with_it(two: tuple[Worker, Worker]) -> None:
    first, second = two
    await first.pool.acquire(make_slot(1))
    await second.pool.acquire(make_slot(2))
    first.line.end()
    assert (await second.pool.get_usage()).slots == 1


async def test_a_missing_slot_is_taken_again_where_there_is_room(
    two: tuple[Worker, Worker],
) -> None:
    first, second = two
    await second.pool.acquire(make_slot(3))
    renewal = await first.pool.renew([make_slot(1), make_slot(2)])
    assert renewal == Renewal(lost=("c1",)), "the newest has the place that is left"
    assert (await second.pool.get_usage()).slots == 2


async def test_late_slots_evict_the_oldest(two: tuple[Worker, Worker]) -> None:
    first, second = two
    await second.pool.acquire(make_slot(1))
    renewal = await first.pool.take_late([make_slot(2), make_slot(3), make_slot(4)])
    assert second.taken == [Renewal(evicted=("c1",))]
    assert renewal == Renewal(evicted=("c2",))
    assert await first.pool.renew([make_slot(3), make_slot(4)]) == Renewal()


async def test_a_late_slot_evicts_one_of_its_own_worker_that_is_not_late(
    two: tuple[Worker, Worker],
) -> None:
    first, _ = two
    await first.pool.acquire(make_slot(1))
    renewal = await first.pool.take_late([make_slot(2), make_slot(3)])
    assert renewal == Renewal(evicted=("c1",))
    assert first.pool.get_held_ids() == []


async def test_the_limits_are_those_of_the_worker_that_asks(host: PoolHost) -> None:
    """Workers that SIGHUP has started may have another configuration."""
    before = ParentPool(WorkerLine(host), max_total=4)
    after = ParentPool(WorkerLine(host), max_total=2, evict_oldest=False)
    await before.acquire(make_slot(1, limit=1))
    with pytest.raises(ClientFull):
        await after.acquire(make_slot(2, limit=1))
    await after.acquire(make_slot(3, "bob"))
    with pytest.raises(PoolFull):
        await after.acquire(make_slot(4, "carol"))
    assert [(await one.get_usage()).limit for one in (before, after)] == [4, 2]
    assert await before.acquire(make_slot(5, limit=1)) == (make_slot(1, limit=1),)


class NewerLine(WorkerLine):
    """A line between two versions: each end knows a field more than the other."""

    async def ask(self, subject: str, content: dict[str, Any] | None = None) -> Any:
        content = content or {}
        content["slots"] = [{**one, "new": 1} for one in content["slots"]]
        answer = {"new": [], **await super().ask(subject, content)}
        if "given_up" in answer:
            answer["given_up"] = [{**one, "new": 1} for one in answer["given_up"]]
        return answer


async def test_a_worker_and_a_parent_may_be_of_two_versions(host: PoolHost) -> None:
    pool = ParentPool(NewerLine(host), max_total=4)
    await pool.acquire(make_slot(1, limit=1))
    assert await pool.acquire(make_slot(2, limit=1)) == (make_slot(1, limit=1),)
    assert await pool.renew([make_slot(2, limit=1)]) == Renewal()
    assert (await pool.get_usage()).slots == 1


async def test_a_parent_that_does_not_answer_makes_the_pool_unavailable(
    two: tuple[Worker, Worker],
) -> None:
    first, _ = two
    first.line.is_broken = True
    with pytest.raises(PoolUnavailable):
        await first.pool.acquire(make_slot(1))
    first.line.is_broken = False
    assert (await first.pool.get_usage()).slots == 0
    assert first.pool.get_held_ids() == []


def test_only_a_worker_has_its_slots_in_a_parent() -> None:
    config: Any = make_config()
    assert choose_pool(config, None) == "memory"
    assert Node(config).pool_kind == "memory"
