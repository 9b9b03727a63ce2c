"""Test the deadline of messages that another server does not take."""

import asyncio

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.connection.send_deadline import SendDeadline
from connections.consumers import LimitedConsumer
from connections.testing.communicators import connect_to, make_node
from connections.testing.waiting import wait_until

HELLO = {"type": "websocket.send", "text": "hello"}


class Gate:
    """A server's send(), which waits while the gate is shut."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.passed: list[Message] = []

    async def __call__(self, message: Message) -> None:
        await self.is_open.wait()
        self.passed.append(message)


async def test_a_message_that_is_not_taken_is_reported_once() -> None:
    gate, stalls = Gate(), list[str]()
    send = SendDeadline(gate, 0.02, lambda: stalls.append("stall"))
    sending = asyncio.create_task(send(HELLO))
    await wait_until(lambda: stalls == ["stall"])
    gate.is_open.set()
    await sending
    assert gate.passed == [HELLO]
    send.stop()


async def test_messages_that_are_taken_are_not_reported() -> None:
    gate, stalls = Gate(), list[str]()
    gate.is_open.set()
    send = SendDeadline(gate, 0.02, lambda: stalls.append("stall"))
    for _ in range(10):
        await send(HELLO)
        await asyncio.sleep(0.005)
    send.stop()
    assert stalls == []


async def test_a_large_message_has_time_to_leave_the_buffer() -> None:
    gate, stalls = Gate(), list[str]()
    gate.is_open.set()
    send = SendDeadline(gate, 0.01, lambda: stalls.append("stall"))
    await send({"type": "websocket.send", "bytes": bytes(10_000_000)})
    gate.is_open.clear()
    sending = asyncio.create_task(send(HELLO))
    await asyncio.sleep(0.05)
    assert stalls == []
    sending.cancel()
    send.stop()


async def test_nothing_is_reported_after_the_end() -> None:
    gate, stalls = Gate(), list[str]()
    send = SendDeadline(gate, 0.01, lambda: stalls.append("stall"))
    sending = asyncio.create_task(send(HELLO))
    await asyncio.sleep(0)
    send.stop()
    await asyncio.sleep(0.03)
    sending.cancel()
    assert stalls == []


class Greeter(LimitedConsumer):
    """Greets, through a server whose client reads nothing."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_but_messages(message: Message) -> None:
            await send(message)
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()

        await super().__call__(scope, receive, send_but_messages)

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.send("hello")


async def test_a_client_that_reads_nothing_gives_its_slot_back() -> None:
    node = make_node(buffers={"send_stall_seconds": 0.1})
    communicator = connect_to(Greeter, node)
    assert (await communicator.connect())[0]
    [connection] = node.hub
    await communicator.send_to("hi")
    await communicator.wait()
    assert connection.close_reason is close_codes.SLOW_CONSUMER
    assert len(node.hub) == 0
