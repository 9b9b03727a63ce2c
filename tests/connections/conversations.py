"""Consumers and communicators that several test modules use."""

import json
from typing import Any

from channels.testing import WebsocketCommunicator

from connections.config import WebSocketConfig
from connections.consumers import LimitedConsumer, LimitedJsonConsumer
from connections.credentials.identity import Credential
from connections.node import Node
from connections.options import read_section
from connections.testing import FakeClock

PATIENCE_SECONDS = 15


def make_config(**values: Any) -> WebSocketConfig:
    """Return a configuration with some keys changed."""
    problems: list[Any] = []
    config = read_section(WebSocketConfig, values, "websocket", problems)
    assert not problems, problems
    return config


def make_node(clock: FakeClock | None = None, **values: Any) -> Node:
    """Return a node without a database."""
    return Node(make_config(**values), clock=clock or FakeClock())


class Communicator(WebsocketCommunicator):
    """Channels' own, with the patience that a busy machine needs."""

    async def connect(self, timeout: float = PATIENCE_SECONDS) -> Any:
        return await super().connect(timeout)

    async def receive_output(self, timeout: float = PATIENCE_SECONDS) -> Any:
        return await super().receive_output(timeout)

    async def receive_from(self, timeout: float = PATIENCE_SECONDS) -> Any:
        return await super().receive_from(timeout)

    async def receive_json_from(self, timeout: float = PATIENCE_SECONDS) -> Any:
        return await super().receive_json_from(timeout)

    async def wait(self, timeout: float = PATIENCE_SECONDS) -> None:
        await super().wait(timeout)


def connect_to(
    consumer: Any,
    node: Node | None = None,
    client_id: str = "alice",
    path: str = "/ws/test/",
    **scope: Any,
) -> WebsocketCommunicator:
    """Return a communicator whose scope is as our middleware leaves it."""
    communicator = Communicator(consumer.as_asgi(), path)
    if node is not None:
        communicator.scope["node"] = node
        communicator.scope["credential"] = Credential(client_id=client_id)
    communicator.scope.update(scope)
    return communicator


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
