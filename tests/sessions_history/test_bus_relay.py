"""Test when nodes send hints about sessions over the bus."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from connections.testing.waiting import scale, wait_until
from sessions_history.bus_relay import BusRelay
from tests.sessions_history.appends import make_append, make_session
from tests.sessions_history.sites import SharedBus, Site, make_sites

pytestmark = pytest.mark.django_db(transaction=True)


class Relay:
    """The relay of one node, and how often it was told to compare its positions."""

    def __init__(self, name: str, buses: list[SharedBus]) -> None:
        self.bus = SharedBus(buses)
        self.comparisons = 0
        self.relay = BusRelay(
            self.bus,
            node_id=name,
            on_message=lambda session_id, hint: None,
            on_return=self._count,
        )

    @property
    def is_alone(self) -> bool:
        return self.relay.is_alone

    async def join(self) -> None:
        await self.relay.join("s")

    def _count(self) -> None:
        self.comparisons += 1


MakeRelay = Callable[[str], Relay]


@pytest.fixture
async def make_relay() -> AsyncIterator[MakeRelay]:
    """Make relays on one bus, and close them in the end."""
    buses: list[SharedBus] = []
    async with AsyncExitStack() as stack:

        def make(name: str) -> Relay:
            made = Relay(name, buses)
            stack.push_async_callback(made.relay.close)
            return made

        yield make


async def append(site: Site, session_id: str) -> None:
    await site.append(await sync_to_async(make_append)(session_id))


async def test_a_node_alone_makes_no_hints_until_another_one_listens() -> None:
    session_id = await sync_to_async(make_session)("alice")
    async with make_sites(2) as (first, second):
        hints: list[Any] = []
        second.bus.on_message("session", hints.append)
        began_at = time.monotonic()
        own = await first.attach(session_id)
        before = -1
        async with asyncio.timeout(scale(20)):
            while len(hints) > before:
                before = len(hints)
                await asyncio.sleep(0.5)
                await append(first, session_id)
                # Until others have had the time to answer, it counts as one of many.
                assert len(hints) > before or time.monotonic() > began_at + 2
        other = await second.attach(session_id)
        async with asyncio.timeout(scale(20)):
            for site in (first, second):
                # They have met, so their positions are due.
                await site.fan_out.wait(3600)
        await append(first, session_id)
        assert len(hints) == before + 1
        last = own.subscriber.tail.last_offset
        await wait_until(lambda: own.position == other.position == last)


async def test_a_node_is_not_alone_while_its_question_is_under_way(
    make_relay: MakeRelay,
) -> None:
    one = make_relay("one")
    one.bus.may_send.clear()
    await one.join()
    await wait_until(lambda: one.bus.waiting == 1)
    assert not one.is_alone
    one.bus.may_send.set()
    await wait_until(lambda: one.is_alone)


async def test_a_node_that_asks_is_answered_though_it_is_known(
    make_relay: MakeRelay,
) -> None:
    """Its subscription came back: it may have missed the first answer."""
    first, second = make_relay("one"), make_relay("two")
    await first.join()
    await second.join()
    await wait_until(lambda: first.comparisons > 0 and second.comparisons > 0)
    await wait_for_silence(first, second)
    before = second.comparisons
    second.bus.report_return()
    # At once, and once more when the other one has answered.
    await wait_until(lambda: second.comparisons == before + 2)
    await wait_for_silence(first, second)
    assert second.comparisons == before + 2
    assert not first.is_alone
    assert not second.is_alone


async def wait_for_silence(*relays: Relay) -> None:
    """Wait until answers of answers would have come."""
    counts: list[int] = []
    while counts != [one.comparisons for one in relays]:
        counts = [one.comparisons for one in relays]
        await asyncio.sleep(0.3)


async def test_nodes_that_took_themselves_for_alone_meet_and_both_compare(
    make_relay: MakeRelay,
) -> None:
    first, second = make_relay("one"), make_relay("two")
    for one in (first, second):
        one.bus.is_cut = True
        await one.join()
    await wait_until(lambda: first.is_alone and second.is_alone)
    for one in (first, second):
        one.bus.is_cut = False
    second.bus.report_return()
    await wait_until(lambda: first.comparisons > 0 and second.comparisons > 1)
    await wait_until(lambda: not first.is_alone and not second.is_alone)


async def test_a_late_answer_makes_both_compare(make_relay: MakeRelay) -> None:
    first, second = make_relay("one"), make_relay("two")
    await first.join()
    await wait_until(lambda: first.is_alone)
    first.bus.is_cut = True
    await second.join()
    await wait_until(lambda: second.is_alone and first.comparisons == 1)
    first.bus.is_cut = False
    # It had answered in time, but what it sent arrives only now.
    await first.bus.publish(
        "session_listener", {"node": "one", "asks": False, "answers": "two"}
    )
    await wait_until(lambda: (first.comparisons, second.comparisons) == (2, 1))
    await wait_for_silence(first, second)
    assert (first.comparisons, second.comparisons) == (2, 1)


@pytest.mark.parametrize("reason", ["not joined", "not subscribed", "not published"])
async def test_a_node_that_cannot_know_counts_as_one_of_many(
    reason: str, make_relay: MakeRelay
) -> None:
    one, beside = make_relay("one"), make_relay("beside")
    one.bus.is_subscribed = reason != "not subscribed"
    one.bus.refuses = reason == "not published"
    if reason != "not joined":
        await one.join()
    # Another one that asked at the same time has had the time for answers.
    beside.bus.is_cut = True
    await beside.join()
    await wait_until(lambda: beside.is_alone)
    assert not one.is_alone
    one.bus.is_subscribed, one.bus.refuses = True, False
    await one.join()
    await wait_until(lambda: one.is_alone)
