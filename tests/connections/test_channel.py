"""Test the channel of a connection in the channel layer."""

import asyncio
from typing import Any

from connections.connection.channel import ConnectionChannel
from connections.layers.local import LocalLayer
from connections.metrics.counters import Counters
from connections.testing.waiting import wait_until


async def test_a_message_that_cannot_be_delivered_ends_no_channel() -> None:
    layer, failures = LocalLayer(), Counters().failures
    names: list[str] = []
    arrived: list[int] = []

    async def deliver(message: dict[str, Any], lets_pass: bool) -> None:
        arrived.append(message["n"])
        if message["n"] < 2:
            raise KeyError("an error that nobody expected")

    channel = ConnectionChannel(
        layer,
        on_name=lambda name, mailbox: names.append(name or ""),
        deliver=deliver,
        failures=failures,
    )
    await channel.open()
    for n in range(3):
        await layer.send(names[0], {"type": "news", "n": n})
        await asyncio.sleep(0)
    await wait_until(lambda: arrived == [0, 1, 2])
    assert dict(failures) == {"The delivery of a layer message": 2}
    channel.close()
