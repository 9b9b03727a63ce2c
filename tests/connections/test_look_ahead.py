"""Test what is known before the accept of a client that has left."""

import asyncio
from typing import Any

import pytest

from connections.asgi import CARRIER, Message, Receive, Send
from connections.connection.look_ahead import LookAhead
from connections.http_connection import HttpConnection
from connections.node.node import Node
from connections.testing import wait_until
from connections.testing.communicators import connect_to, make_node
from tests.connections.conversations import Echo

TEXT: Message = {"type": "websocket.receive", "text": "early"}
LEFT: Message = {"type": "websocket.disconnect", "code": 1006}


class SlowToAccept(Echo):
    """Accepts when the test allows it."""

    async def connect(self) -> None:
        await self.scope["may_accept"].wait()
        await self.accept()


class StuckQueue(asyncio.Queue[Message]):
    """Counts those who wait for an event."""

    waiting = 0

    async def get(self) -> Message:
        self.waiting += 1
        try:
            return await super().get()
        finally:
            self.waiting -= 1


def queue_up(*messages: Message) -> StuckQueue:
    queue = StuckQueue()
    for one in messages:
        queue.put_nowait(one)
    return queue


async def open_back(node: Node) -> Any:
    """Return the connection with which the client is back."""
    back = connect_to(Echo, node)
    assert (await back.connect())[0]
    return back


async def require_only(node: Node, back: Any) -> None:
    """Check that the connection is open, and has the only slot."""
    await back.send_to(text_data="still here")
    assert await back.receive_from() == "still here"
    assert [one.close_reason for one in node.hub] == [None]
    assert (await node.get_usage()).slots == 1
    await back.disconnect()


@pytest.mark.parametrize("events", [(LEFT,), (TEXT, TEXT, LEFT)])
async def test_a_client_that_gave_up_evicts_nobody_under_any_server(
    events: tuple[Message, ...],
) -> None:
    """Its disconnect waits behind what it sent before."""
    node, may_accept = make_node(max_connections_per_client=1), asyncio.Event()
    given_up = connect_to(SlowToAccept, node, may_accept=may_accept)
    await given_up.send_input({"type": "websocket.connect"})
    back = await open_back(node)
    for one in events:
        await given_up.send_input(one)
    may_accept.set()
    await given_up.wait()
    assert await given_up.receive_nothing()
    await require_only(node, back)


async def test_messages_before_the_accept_are_handled_in_order() -> None:
    node, may_accept = make_node(), asyncio.Event()
    eager = connect_to(SlowToAccept, node, may_accept=may_accept)
    await eager.send_input({"type": "websocket.connect"})
    for number in range(3):
        await eager.send_to(text_data=str(number))
    may_accept.set()
    assert (await eager.receive_output())["type"] == "websocket.accept"
    for number in range(3, 6):
        await eager.send_to(text_data=str(number))
    received = [await eager.receive_from() for _ in range(6)]
    assert received == list("012345")
    await eager.disconnect()


async def test_a_client_that_sends_on_and_on_is_accepted() -> None:
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += 1
        return {"type": "websocket.receive", "text": str(sent)}

    ahead = LookAhead(receive)
    assert not await ahead.has_left()
    assert sent == 100
    assert [(await ahead())["text"] for _ in range(101)] == [
        str(number) for number in range(1, 102)
    ]


async def test_an_error_of_the_server_is_raised_where_an_event_is_awaited() -> None:
    async def receive() -> Message:
        raise OSError("gone")

    ahead = LookAhead(receive)
    assert not await ahead.has_left()
    with pytest.raises(OSError, match="gone"):
        await ahead()


async def test_who_looked_waits_no_longer() -> None:
    """The next event comes as soon as without a look."""
    queue = queue_up()
    ahead = LookAhead(queue.get)
    assert not await ahead.has_left()
    assert queue.waiting == 0
    reading = asyncio.create_task(ahead())
    await asyncio.sleep(0)
    queue.put_nowait(TEXT)
    assert (await reading, queue.qsize()) == (TEXT, 0)


def follow(
    node: Node, queue: asyncio.Queue[Message], live: str, may_accept: asyncio.Event
) -> tuple[asyncio.Task[None], list[Message]]:
    """Start a live request of a slow consumer; return its task, and the answer."""
    answered: list[Message] = []

    async def send(message: Message) -> None:
        answered.append(message)

    async def consume(scope: Message, receive: Receive, send: Send) -> None:
        inner = connect_to(SlowToAccept, node, may_accept=may_accept)
        inner.scope["extensions"] = {CARRIER: live}
        await SlowToAccept.as_asgi()(inner.scope, receive, send)

    scope = {"type": "http", "query_string": b"", "headers": [], "node": node}
    connection = HttpConnection(scope, queue.get, send, live)
    return asyncio.create_task(connection.run(consume)), answered


@pytest.mark.parametrize("live", ["sse", "long_poll"])
async def test_a_live_request_that_was_given_up_evicts_nobody(live: str) -> None:
    node, may_accept = make_node(max_connections_per_client=1), asyncio.Event()
    queue = queue_up({"type": "http.request", "body": b""})
    running, answered = follow(node, queue, live, may_accept)
    back = await open_back(node)
    queue.put_nowait({"type": "http.disconnect"})
    await wait_until(queue.empty)
    may_accept.set()
    await running
    assert not any(one.get("status") == 200 for one in answered)
    await require_only(node, back)


async def test_a_live_request_of_a_client_that_waits_is_served() -> None:
    node, may_accept = make_node(), asyncio.Event()
    queue = queue_up({"type": "http.request", "body": b""})
    running, _ = follow(node, queue, "sse", may_accept)
    may_accept.set()
    await wait_until(lambda: len(node.hub) == 1)
    queue.put_nowait({"type": "http.disconnect"})
    await running
    assert (len(node.hub), queue.waiting) == (0, 0)
