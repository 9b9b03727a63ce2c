"""Consumers and conversations for several test modules."""

import json
from typing import Any

from channels.layers import InMemoryChannelLayer
from channels.testing import WebsocketCommunicator

from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.node.node import Node
from connections.testing.communicators import Communicator, connect_to


async def receive_close(communicator: WebsocketCommunicator) -> dict[str, Any]:
    """Return the next close event; skip messages before it."""
    while True:
        event: dict[str, Any] = await communicator.receive_output()
        if event["type"] == "websocket.close":
            return event


async def receive_type(communicator: WebsocketCommunicator, kind: str) -> Any:
    """Return the next JSON message of a type; skip others."""
    while True:
        content = json.loads((await communicator.receive_output())["text"])
        if content["type"] == kind:
            return content


async def open_connection(consumer: Any, node: Node, **scope: Any) -> Communicator:
    """Return a communicator whose connection is open."""
    communicator = connect_to(consumer, node, **scope)
    assert (await communicator.connect())[0]
    return communicator


class Echo(LimitedConsumer):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data == "fail":
            raise KeyError("planted")
        await self.send(text_data=text_data, bytes_data=bytes_data)


class JsonEcho(LimitedJsonConsumer):
    async def handle_echo(self, content: Any) -> None:
        await self.send_json(content)

    async def handle_fail(self, content: Any) -> None:
        raise KeyError("planted")


class UnreachableLayer(InMemoryChannelLayer):
    """A channel layer whose server cannot be reached."""

    async def group_add(self, group: str, channel: str) -> None:
        raise ConnectionRefusedError("planted")
