"""Test the channel of a connection in the channel layer."""

import asyncio
from typing import Any

from connections.connection.channel import ConnectionChannel
from connections.layers.local import LocalLayer
from connections.layers.mailbox import Mailbox
from connections.metrics.counters import Counters
from connections.testing.waiting import wait_until


class Owner:
    """The connection of a channel, which fails for the first messages."""

    def __init__(self, failing: int = 0) -> None:
        self.channel_name = ""
        self.arrived: list[int] = []
        self.failing = failing

    def name_channel(self, channel_name: str | None, mailbox: Mailbox | None) -> None:
        self.channel_name = channel_name or ""

    async def deliver(self, message: dict[str, Any], lets_pass: bool) -> None:
        self.arrived.append(message["n"])
        if len(self.arrived) <= self.failing:
            raise KeyError("an error that nobody expected")


async def test_no_task_is_made_before_the_first_message() -> None:
    """A waiting channel is its mailbox's listener, with neither task nor future."""
    layer, owner = LocalLayer(), Owner()
    channel = ConnectionChannel(layer, owner=owner, failures=Counters().failures)
    before = len(asyncio.all_tasks())
    await channel.open()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    await layer.send(owner.channel_name, {"type": "news", "n": 7})
    await wait_until(lambda: owner.arrived == [7])
    assert len(asyncio.all_tasks()) == before + 1
    channel.close()


async def test_a_message_that_comes_with_the_end_is_dropped() -> None:
    layer, owner = LocalLayer(), Owner()
    channel = ConnectionChannel(layer, owner=owner, failures=Counters().failures)
    await channel.open()
    await layer.send(owner.channel_name, {"type": "news", "n": 7})
    channel.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert owner.arrived == []


async def test_a_message_that_cannot_be_delivered_ends_no_channel() -> None:
    layer, failures = LocalLayer(), Counters().failures
    owner = Owner(failing=2)
    channel = ConnectionChannel(layer, owner=owner, failures=failures)
    await channel.open()
    for n in range(3):
        await layer.send(owner.channel_name, {"type": "news", "n": n})
        await asyncio.sleep(0)
    await wait_until(lambda: owner.arrived == [0, 1, 2])
    assert dict(failures) == {"The delivery of a layer message": 2}
    channel.close()
