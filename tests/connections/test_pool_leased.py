"""A leased pool whose slots change while one of its renewals is under way."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import pytest

from connections.bus import Bus
from connections.pool.base import Slot
from connections.pool.leased import LeasedPool
from connections.pool.steps import Answer, PoolSteps, Request
from connections.testing import wait_until


class SilentBus(Bus):
    """A bus without a store."""

    is_subscribed = True

    async def start(self) -> None:
        """Do nothing: a test hands the messages on."""

    async def publish(self, kind: str, message: Mapping[str, Any]) -> bool:
        return True

    async def close(self) -> None:
        """Do nothing."""


class HeldBackSteps(PoolSteps):
    """
    Steps in memory; an answer named in `held_back` waits until it is let go.

    A client has one slot, and the pool is recovering: it takes all that it is told.
    """

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.held_back = ""
        self.waits = asyncio.Event()
        self.let_go = asyncio.Event()

    async def _hold_back(self, name: str) -> None:
        if name == self.held_back:
            self.held_back = ""
            self.waits.set()
            await self.let_go.wait()

    async def acquire(self, request: Request) -> Answer:
        own = [one for one in self.slots if one != request.slot.connection_id]
        given_up = tuple(self.slots.pop(one) for one in own)
        self.slots[request.slot.connection_id] = request.slot
        return Answer(status="ok", given_up=given_up)

    async def renew(
        self, slots: Sequence[Slot], known: Collection[str]
    ) -> dict[str, str]:
        ids = [slot.connection_id for slot in slots]
        missing = {one: "missing" for one in ids if one not in self.slots}
        await self._hold_back("renew")
        return missing

    async def retake(self, mode: str, slots: Sequence[Slot]) -> dict[str, str]:
        await self._hold_back("retake")
        self.slots |= {one.connection_id: one for one in slots}
        return {}

    async def release(self, slots: Sequence[Slot]) -> None:
        for one in slots:
            self.slots.pop(one.connection_id, None)

    async def get_usage(self) -> tuple[int, int, str]:
        return len(self.slots), len(self.slots), "recovering"

    async def check_store(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


def make_slot(name: str) -> Slot:
    return Slot(connection_id=name, client_id="c", node_id="n", opened_at=1, limit=1)


@pytest.fixture
def steps() -> HeldBackSteps:
    return HeldBackSteps()


@pytest.fixture
def bus() -> SilentBus:
    return SilentBus()


@pytest.fixture
async def pool(steps: HeldBackSteps, bus: SilentBus) -> AsyncIterator[LeasedPool]:
    pool = LeasedPool(steps, bus=bus, max_total=10, lease_seconds=30)
    await pool.acquire(make_slot("old"))
    yield pool
    await pool.close()


@pytest.mark.parametrize("held_back", ["renew", "retake"])
@pytest.mark.parametrize("gone_by", ["evicted here", "evicted elsewhere", "released"])
async def test_a_slot_that_goes_during_a_renewal_does_not_come_back(
    pool: LeasedPool, steps: HeldBackSteps, bus: SilentBus, gone_by: str, held_back: str
) -> None:
    if held_back == "retake":
        # The store has lost the slot, and the renewal is about to report it.
        steps.slots.clear()
    steps.held_back = held_back
    renewal = asyncio.create_task(pool.renew([make_slot("old")]))
    await steps.waits.wait()
    # A renewal that takes a slot again finds it lost in between, with its tombstone.
    if gone_by == "evicted here":
        steps.slots["old"] = make_slot("old")
        await pool.acquire(make_slot("new"))
    elif gone_by == "evicted elsewhere":
        steps.slots.pop("old", None)
        bus.hand_on("node:n", '{"kind": "taken", "reason": "evicted", "ids": ["old"]}')
        await asyncio.sleep(0)
    else:
        pool.release("old")
    steps.let_go.set()
    await renewal
    left = {"new"} if gone_by == "evicted here" else set()
    assert set(pool.get_held_ids()) == left
    await wait_until(lambda: set(steps.slots) == left)


async def test_a_slot_taken_once_more_during_a_renewal_stays(
    pool: LeasedPool, steps: HeldBackSteps
) -> None:
    steps.slots.clear()
    steps.held_back = "retake"
    renewal = asyncio.create_task(pool.renew([make_slot("old")]))
    await steps.waits.wait()
    pool.release("old")
    await pool.acquire(make_slot("old"))
    steps.let_go.set()
    await renewal
    await pool.close()
    assert pool.get_held_ids() == ["old"]
    assert set(steps.slots) == {"old"}
