"""What every pool promises, and the local one against a plain model."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from connections.exceptions import ClientFull, PoolFull
from connections.pool.base import Slot
from connections.pool.local import LocalPool

Result = TypeVar("Result")


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


async def test_the_oldest_is_given_up_at_the_clients_limit() -> None:
    pool = LocalPool(max_total=10)
    assert await pool.acquire(make_slot(1)) == ()
    assert await pool.acquire(make_slot(2)) == ()
    assert ids(await pool.acquire(make_slot(3))) == ["c0001"]
    assert (await pool.get_usage()).slots == 2


async def test_age_decides_and_not_the_order_of_arrival() -> None:
    pool = LocalPool(max_total=10)
    await pool.acquire(make_slot(1, at=50))
    await pool.acquire(make_slot(2, at=40))
    assert ids(await pool.acquire(make_slot(3, at=60))) == ["c0002"]


async def test_acquiring_twice_takes_one_slot() -> None:
    pool = LocalPool(max_total=10)
    await pool.acquire(make_slot(1))
    assert await pool.acquire(make_slot(1)) == ()
    assert (await pool.get_usage()).slots == 1


async def test_a_full_pool_refuses_and_evicts_nobody() -> None:
    pool = LocalPool(max_total=2)
    await pool.acquire(make_slot(1, "alice"))
    await pool.acquire(make_slot(2, "bob"))
    with pytest.raises(PoolFull) as full:
        await pool.acquire(make_slot(3, "carol"))
    assert full.value.limit == 2
    assert (await pool.renew([make_slot(1), make_slot(2, "bob")])).lost == ()


async def test_a_full_pool_still_replaces_a_clients_own_oldest() -> None:
    pool = LocalPool(max_total=2)
    await pool.acquire(make_slot(1))
    await pool.acquire(make_slot(2))
    assert ids(await pool.acquire(make_slot(3))) == ["c0001"]


async def test_the_policy_refuse_leaves_the_client_as_it_is() -> None:
    pool = LocalPool(max_total=10, evict_oldest=False)
    await pool.acquire(make_slot(1, limit=1))
    with pytest.raises(ClientFull):
        await pool.acquire(make_slot(2, limit=1))
    assert ids(await pool.acquire(make_slot(3, limit=1), replaces="c0001")) == ["c0001"]


async def test_replacing_comes_before_evicting() -> None:
    pool = LocalPool(max_total=10)
    await pool.acquire(make_slot(1))
    await pool.acquire(make_slot(2))
    assert ids(await pool.acquire(make_slot(3), replaces="c0002")) == ["c0002"]


async def test_another_clients_slot_cannot_be_replaced() -> None:
    pool = LocalPool(max_total=10)
    await pool.acquire(make_slot(1, "bob"))
    assert await pool.acquire(make_slot(2, "alice"), replaces="c0001") == ()
    assert (await pool.get_usage()).slots == 2


async def test_what_is_not_held_is_reported_lost() -> None:
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
    """The local pool against a list of who holds what, from oldest to newest."""

    MAX_TOTAL = 6
    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.pool = LocalPool(max_total=self.MAX_TOTAL)
        self.model: list[Slot] = []
        self.count = 0

    @rule(client=st.sampled_from("abc"), replaces=st.none() | st.integers(0, 20))
    def acquire(self, client: str, replaces: int | None) -> None:
        self.count += 1
        slot = make_slot(self.count, client, limit=self.LIMIT)
        replaced = f"c{replaces:04}" if replaces is not None else None
        own = [held for held in self.model if held.client_id == client]
        expected = [held for held in own if held.connection_id == replaced]
        kept = [held for held in own if held not in expected]
        expected += kept[: max(0, len(kept) + 1 - self.LIMIT)]
        if len(self.model) - len(expected) >= self.MAX_TOTAL:
            with pytest.raises(PoolFull):
                run(self.pool.acquire(slot, replaces=replaced))
            return
        assert run(self.pool.acquire(slot, replaces=replaced)) == tuple(expected)
        self.model = [held for held in self.model if held not in expected] + [slot]

    @rule(number=st.integers(0, 20))
    def release(self, number: int) -> None:
        connection_id = f"c{number:04}"
        self.pool.release(connection_id)
        self.model = [one for one in self.model if one.connection_id != connection_id]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        usage = run(self.pool.get_usage())
        assert usage.slots == len(self.model) <= self.MAX_TOTAL
        assert usage.clients == len({slot.client_id for slot in self.model})
        assert run(self.pool.renew(self.model)).lost == ()


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestLocalPoolAgainstModel = PoolMachine.TestCase


async def test_fifty_at_once_leave_the_limit() -> None:
    pool = LocalPool(max_total=100)
    slots = [make_slot(number, limit=5) for number in range(50)]
    given_up = await asyncio.gather(*(pool.acquire(slot) for slot in slots))
    assert (await pool.get_usage()).slots == 5
    assert sum(map(len, given_up)) == 45
