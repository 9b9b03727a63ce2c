"""Test the life cycle of a connection, and its diagram."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from connections.connection.stage import MOVES
from connections.consumers import LimitedConsumer
from connections.testing.communicators import make_node
from tests.connections.conversations import Echo, open_connection, receive_close

PAGE = Path(__file__).parents[2] / "docs" / "topics" / "architecture.md"
MOVE = re.compile(r"^ +([a-z]+) --> ([a-z]+): .+$", re.MULTILINE)


def test_the_diagram_shows_the_moves_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    diagram = text.partition("stateDiagram-v2")[2].partition("```")[0]
    assert sorted(MOVE.findall(diagram)) == sorted(
        (stage.value, next_stage.value)
        for stage, next_stages in MOVES.items()
        for next_stage in next_stages
    )


async def test_an_end_during_the_handshake_waits_for_the_accept() -> None:
    class Hasty(LimitedConsumer):
        async def connect(self) -> None:
            self.end(4003, "forbidden")
            await asyncio.sleep(0)
            await self.accept()

    node = make_node()
    communicator = await open_connection(Hasty, node)
    closed = await receive_close(communicator)
    assert (closed["code"], closed["reason"]) == (4003, "forbidden")
    await communicator.disconnect()
    assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


@pytest.mark.parametrize("is_closed_before", [True, False])
async def test_a_consumer_that_stops_over_the_layer_is_closed_once(
    settings: Any, is_closed_before: bool
) -> None:
    backend = "channels.layers.InMemoryChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}

    class Stopping(LimitedConsumer):
        groups = ["everyone"]

        async def stop_now(self, event: dict[str, Any]) -> None:
            if is_closed_before:
                await self.close()
            raise StopConsumer()

    node = make_node()
    communicator = await open_connection(Stopping, node)
    await get_channel_layer().group_send("everyone", {"type": "stop.now"})
    assert (await communicator.receive_output())["type"] == "websocket.close"
    await communicator.wait()
    assert communicator.output_queue.empty()
    assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


async def test_a_second_abort_does_nothing() -> None:
    codes = []

    class Recording(Echo):
        async def disconnect(self, code: int) -> None:
            codes.append(code)

    node = make_node()
    communicator = await open_connection(Recording, node)
    connection = next(iter(node.hub))
    for _ in range(2):
        connection.sender.abort()
    await communicator.wait()
    connection.sender.abort()
    assert codes == [1006]
    assert len(node.hub) == 0
