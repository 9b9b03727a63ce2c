"""Test when nodes send hints about sessions over the bus."""

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from connections.testing.waiting import scale, wait_until
from sessions_history.bus_relay import BusRelay
from tests.sessions_history.appends import make_append, make_session
from tests.sessions_history.sites import SharedBus, Site, make_sites

pytestmark = pytest.mark.django_db(transaction=True)


class Relay:
    """The relay of one node, and what it reported."""

    def __init__(self, name: str, buses: list[SharedBus]) -> None:
        self.bus = SharedBus(buses)
        self.heard: list[Any] = []
        self.returns = 0
        self.relay = BusRelay(
            self.bus,
            node_id=name,
            on_message=lambda session_id, hint: self.heard.append(hint),
            on_return=self._count_return,
        )

    def _count_return(self) -> None:
        self.returns += 1


async def append(site: Site, session_id: str) -> None:
    await site.append(await sync_to_async(make_append)(session_id))


async def test_a_node_alone_makes_no_hints_until_another_one_listens() -> None:
    session_id = await sync_to_async(make_session)("alice")
    async with make_sites(2) as (first, second):
        hints: list[Any] = []
        second.bus.on_message("session", hints.append)
        own = await first.attach(session_id)
        before = -1
        async with asyncio.timeout(scale(20)):
            while len(hints) > before:
                # Until others have had the time to answer, it counts as one of many.
                before = len(hints)
                await asyncio.sleep(0.5)
                await append(first, session_id)
        assert before > 0
        await wait_until(lambda: own.position > before)
        before = len(hints)
        other = await second.attach(session_id)
        await wait_until(lambda: other.position == own.position)
        async with asyncio.timeout(scale(20)):
            # The first one has answered, so the positions are due.
            await second.fan_out.wait(3600)
        await append(first, session_id)
        await wait_until(lambda: other.position == own.position)
        assert len(hints) == before + 1


async def test_a_node_that_is_answered_compares_its_positions_once() -> None:
    buses: list[SharedBus] = []
    first, second = Relay("one", buses), Relay("two", buses)
    await first.relay.join("s")
    await second.relay.join("s")
    await wait_until(lambda: second.returns == 1)
    await second.relay.join("t")
    second.bus.report_return()
    await wait_until(lambda: second.returns == 2)
    assert not first.relay.is_alone
    assert not second.relay.is_alone
    for one in (first, second):
        await one.relay.close()


async def test_a_node_that_is_not_heard_any_more_is_met_again() -> None:
    """Its messages were lost for so long that the other one took itself for alone."""
    buses: list[SharedBus] = []
    second = Relay("two", buses)
    await second.relay.join("s")
    second.bus.is_cut = True
    first = Relay("one", buses)
    await first.relay.join("s")
    await wait_until(lambda: first.relay.is_alone)
    second.bus.is_cut = False
    second.bus.report_return()
    await wait_until(lambda: not first.relay.is_alone)
    await wait_until(lambda: second.returns >= 2)
    for one in (first, second):
        await one.relay.close()


@pytest.mark.parametrize("reason", ["never joined", "not subscribed"])
async def test_a_node_that_cannot_know_counts_as_one_of_many(reason: str) -> None:
    buses: list[SharedBus] = []
    one = Relay("one", buses)
    if reason == "not subscribed":
        await one.relay.join("s")
        await wait_until(lambda: one.relay.is_alone)
        one.bus.is_subscribed = False
    assert not one.relay.is_alone
    await one.relay.close()
