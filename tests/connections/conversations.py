"""Consumers, and what they are asked, that several test modules use."""

import json
from typing import Any

from channels.testing import WebsocketCommunicator

from connections.consumers import LimitedConsumer, LimitedJsonConsumer


async def receive_close(communicator: WebsocketCommunicator) -> dict[str, Any]:
    """Return the next close event, messages before it passed over."""
    while True:
        event: dict[str, Any] = await communicator.receive_output()
        if event["type"] == "websocket.close":
            return event


async def receive_type(communicator: WebsocketCommunicator, kind: str) -> Any:
    """Return the next JSON message of a type, others passed over."""
    while True:
        content = json.loads((await communicator.receive_output())["text"])
        if content["type"] == kind:
            return content


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
