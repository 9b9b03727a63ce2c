"""Test what a handler may raise that is no ordinary exception."""

import asyncio
from typing import Any

import pytest
from channels.layers import get_channel_layer

from connections.consumers import LimitedConsumer, LimitedSyncConsumer
from connections.testing.communicators import connect_to, make_node
from connections.testing.waiting import wait_until
from tests.connections.conversations import open_connection, receive_close

KINDS = [asyncio.CancelledError, SystemExit]
"""The first is that of a future that the handler awaited."""


class Raising(LimitedConsumer):
    """Raises what its scope has, once for each mention of it."""

    groups = ["raising"]

    def get_limits(self, scope: Any) -> Any:
        if scope.get("at") == "get_limits":
            raise scope["kind"]
        return super().get_limits(scope)

    async def connect(self) -> None:
        if self.scope.get("at") == "connect":
            raise self.scope["kind"]
        await self.accept()

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        if text_data == "raise":
            raise self.scope["kind"]
        await self.send(text_data=text_data)

    async def fail(self, event: Any) -> None:
        raise self.scope["kind"]

    async def say(self, event: Any) -> None:
        await self.send(text_data="said")


class SyncRaising(LimitedSyncConsumer):
    def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        if text_data == "raise":
            raise self.scope["kind"]
        self.send(text_data=text_data)


@pytest.mark.parametrize("consumer_class", [Raising, SyncRaising])
@pytest.mark.parametrize("kind", KINDS)
async def test_it_costs_an_error_not_the_connection(
    consumer_class: Any, kind: type[BaseException]
) -> None:
    node = make_node()
    communicator = await open_connection(consumer_class, node, kind=kind)
    await communicator.send_to(text_data="raise")
    await communicator.send_to(text_data="still here")
    assert await communicator.receive_from() == "still here"
    assert node.counters.errors == {"internal": 1}
    await communicator.disconnect()


@pytest.mark.parametrize("at", ["get_limits", "connect"])
@pytest.mark.parametrize("kind", KINDS)
async def test_before_the_accept_it_refuses_the_connection(
    at: str, kind: type[BaseException]
) -> None:
    node = make_node()
    communicator = connect_to(Raising, node, at=at, kind=kind)
    assert (await communicator.connect())[0]
    assert (await receive_close(communicator))["code"] == 4500
    assert node.counters.errors == {"internal": 1}
    await communicator.disconnect()


@pytest.mark.parametrize(
    "layer",
    [
        "channels.layers.InMemoryChannelLayer",
        "connections.layers.local.LocalLayer",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_layer_messages_arrive_after_it(
    settings: Any, kind: type[BaseException], layer: str
) -> None:
    """The connection would be deaf to its groups, and nobody would learn it."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": layer}}
    node = make_node()
    communicator = await open_connection(Raising, node, kind=kind)
    group_send = get_channel_layer().group_send
    await group_send("raising", {"type": "fail"})
    await wait_until(lambda: node.counters.errors == {"internal": 1})
    await group_send("raising", {"type": "say"})
    assert await communicator.receive_from() == "said"
    await communicator.disconnect()


async def test_a_cancellation_of_the_connection_is_no_failure() -> None:
    node, began = make_node(), asyncio.Event()

    class Waiting(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            began.set()
            await asyncio.Event().wait()

    communicator = await open_connection(Waiting, node)
    await communicator.send_to(text_data="x")
    await began.wait()
    communicator.future.cancel()
    await wait_until(communicator.future.done)
    assert node.counters.errors == {}
    assert len(node.hub) == 0
