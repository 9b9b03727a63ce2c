"""Test that no message over the rate is lost in silence."""

from typing import Any

import pytest

from connections import close_codes
from connections.consumers import LimitedConsumer, LimitedSyncConsumer
from connections.node.node import Node
from connections.testing.communicators import connect_to, make_config, make_node
from connections.testing.waiting import wait_until
from connections.units import Clock
from tests.connections.conversations import Echo, JsonEcho, receive_close, receive_type
from tests.connections.virtual_loop import VirtualTime


class Document(LimitedConsumer):
    """Keeps all that was typed, as a shared document does."""

    typed: bytes = b""

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        Document.typed += bytes_data or (text_data or "").encode()


class SyncDocument(LimitedSyncConsumer):
    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        Document.typed += bytes_data or (text_data or "").encode()


def make_timed_node(clock: Clock, **rate: float) -> Node:
    return Node(make_config(rate_limit=rate), clock=clock)


async def type_in(consumer: Any, node: Node, kind: str, *, count: int) -> list[Any]:
    """Type as fast as possible, leave, and return what the server sent."""
    Document.typed = b""
    communicator = connect_to(consumer, node)
    assert (await communicator.connect(timeout=60))[0]
    for number in range(count):
        letter = b"%c" % (97 + number % 26)
        payload = letter if kind == "bytes" else letter.decode()
        await communicator.send_input({"type": "websocket.receive", kind: payload})
    await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
    await communicator.wait(timeout=60)
    sent = []
    while not communicator.output_queue.empty():
        sent.append(communicator.output_queue.get_nowait())
    return sent


@pytest.mark.parametrize("kind", ["bytes", "text"])
def test_a_burst_over_the_rate_arrives_whole(kind: str) -> None:
    """A client that is not JSON would learn of no loss."""
    with VirtualTime() as time:
        node = make_timed_node(
            time, messages_per_second=50, burst_messages=100, tolerance_seconds=10
        )
        sent = time.run(type_in(Document, node, kind, count=481))
        assert len(Document.typed) == 481
        assert sent == []
        # 381 messages over the burst took their time.
        assert time() == pytest.approx(381 / 50, abs=0.1)
        assert node.counters.rate_limited > 0


def test_bytes_over_the_rate_arrive_whole() -> None:
    with VirtualTime() as time:
        node = make_timed_node(
            time, bytes_per_second=10, burst_bytes=10, tolerance_seconds=10
        )
        sent = time.run(type_in(Document, node, "bytes", count=60))
        assert (len(Document.typed), sent) == (60, [])
        assert time() == pytest.approx(5, abs=0.1)


def test_an_excess_that_lasts_closes_4129() -> None:
    with VirtualTime() as time:
        node = make_timed_node(
            time, messages_per_second=50, burst_messages=100, tolerance_seconds=5
        )
        [close] = time.run(type_in(Document, node, "bytes", count=481))
        assert (close["code"], close["reason"]) == (4129, "rate_limited")
        assert time() == pytest.approx(5, abs=0.1)
        # Without a hole: the document is the beginning of what was typed.
        expected = bytes(97 + number % 26 for number in range(len(Document.typed)))
        assert Document.typed == expected


async def test_a_message_that_would_wait_too_long_closes_4129() -> None:
    node = make_node(rate_limit={"messages_per_second": 0.01, "burst_messages": 1})
    communicator = connect_to(Echo, node)
    await communicator.connect()
    for _ in range(2):
        await communicator.send_to(bytes_data=b"x")
    assert (await receive_close(communicator))["code"] == 4129
    await communicator.disconnect()


@pytest.mark.django_db
async def test_a_synchronous_consumer_gets_all() -> None:
    node = make_node(rate_limit={"messages_per_second": 100, "burst_messages": 100})
    Document.typed = b""
    communicator = connect_to(SyncDocument, node)
    await communicator.connect()
    for _ in range(103):
        await communicator.send_to(bytes_data=b"x")
    await wait_until(lambda: len(Document.typed) == 103)
    await communicator.disconnect()


async def test_a_message_that_waits_is_dropped_with_its_connection() -> None:
    """The close frame goes out at once, and nothing is handled after it."""
    node = make_node(rate_limit={"messages_per_second": 2, "burst_messages": 1})
    communicator = connect_to(Echo, node)
    await communicator.connect()
    for text in ("1", "2"):
        await communicator.send_to(text_data=text)
    assert await communicator.receive_from() == "1"
    await wait_until(lambda: node.counters.rate_limited > 0)
    next(iter(node.hub)).end(close_codes.KICKED)
    assert (await communicator.receive_output())["code"] == close_codes.KICKED.code
    await communicator.send_input({"type": "websocket.disconnect", "code": 4009})
    await communicator.wait()
    assert communicator.output_queue.empty()


async def test_a_json_client_gets_an_error_instead() -> None:
    node = make_node(rate_limit={"messages_per_second": 2, "burst_messages": 1})
    communicator = connect_to(JsonEcho, node)
    await communicator.connect()
    for _ in range(2):
        await communicator.send_json_to({"type": "echo"})
    error = await receive_type(communicator, "error")
    assert (error["code"], error["retry_after_seconds"]) == ("rate_limited", 0.5)
    await communicator.disconnect()
