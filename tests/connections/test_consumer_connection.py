"""Test `self.connection` of consumers through Channels' communicator."""

from typing import Any

import pytest
from asgiref.sync import async_to_sync

from connections.consumers import (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
)
from connections.testing import FakeClock
from connections.testing.communicators import make_node
from connections.testing.waiting import wait_until
from tests.connections.conversations import open_connection, receive_close


class Describing(LimitedJsonConsumer):
    async def handle_describe(self, content: Any) -> None:
        connection = self.connection
        await self.send_json(
            {
                "id": connection.id,
                "client_id": connection.client_id,
                "max_message_size": connection.limits.max_message_size,
                "opened_at": connection.opened_at.isoformat(),
            }
        )


class Answering(LimitedConsumer):
    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data == "end":
            self.connection.end(4003, "forbidden")
        else:
            await self.connection.send(text_data, bytes_data)

    def is_activity(self, message: Any) -> bool:
        return False


class SyncAnswering(LimitedSyncConsumer):
    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data == "end":
            self.connection.end(4003, "forbidden")
        else:
            async_to_sync(self.connection.send)(text_data, bytes_data)

    def is_activity(self, message: Any) -> bool:
        return False


both_kinds = pytest.mark.parametrize("consumer_class", [Answering, SyncAnswering])


async def test_a_consumer_reads_its_connection() -> None:
    node = make_node()
    communicator = await open_connection(Describing, node, client_id="alice")
    await communicator.send_json_to({"type": "describe"})
    recorded = next(iter(node.hub))
    assert await communicator.receive_json_from() == {
        "id": recorded.connection_id,
        "client_id": "alice",
        "max_message_size": node.config.max_message_size,
        "opened_at": recorded.opened_at.isoformat(),
    }
    await communicator.disconnect()


@both_kinds
async def test_a_message_of_the_connection_is_no_activity(consumer_class: Any) -> None:
    clock = FakeClock()
    node = make_node(clock, idle_timeout_seconds=100)
    communicator = await open_connection(consumer_class, node)
    clock.advance(100)
    await communicator.send_to(text_data="ping")
    assert await communicator.receive_from() == "ping"
    await communicator.send_to(bytes_data=b"\x00")
    assert await communicator.receive_from() == b"\x00"
    # A thread returns from the handler only after the message has arrived.
    await wait_until(lambda: not next(iter(node.hub)).busy_count)
    await node.activity.check()
    assert (await receive_close(communicator))["reason"] == "idle"
    await communicator.disconnect()


@both_kinds
async def test_a_consumer_ends_its_connection(consumer_class: Any) -> None:
    communicator = await open_connection(consumer_class, make_node())
    await communicator.send_to(text_data="end")
    closed = await receive_close(communicator)
    assert (closed["code"], closed["reason"]) == (4003, "forbidden")
    await communicator.disconnect()


async def test_a_message_after_the_end_is_not_sent() -> None:
    class Late(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.close()
            await self.connection.send("late")

    communicator = await open_connection(Late, make_node())
    await communicator.send_to(text_data="x")
    await receive_close(communicator)
    assert await communicator.receive_nothing()
    await communicator.disconnect()


async def test_a_message_without_payload_is_an_error() -> None:
    class Empty(LimitedJsonConsumer):
        async def handle_empty(self, content: Any) -> None:
            with pytest.raises(ValueError, match="takes text_data or bytes_data"):
                await self.connection.send()
            await self.send_json({"type": "refused"})

    communicator = await open_connection(Empty, make_node())
    await communicator.send_json_to({"type": "empty"})
    assert (await communicator.receive_json_from())["type"] == "refused"
    await communicator.disconnect()


async def test_a_consumer_may_use_the_name_connection_itself() -> None:
    class Assigning(LimitedJsonConsumer):
        def __init__(self) -> None:
            super().__init__()
            self.connection: Any = "a database"

        async def handle_end(self, content: Any) -> None:
            self.end(4003, self.connection)

    communicator = await open_connection(Assigning, make_node())
    await communicator.send_json_to({"type": "end"})
    assert (await receive_close(communicator))["reason"] == "a database"
    await communicator.disconnect()
