"""Test the deadline of messages that another server does not take."""

import asyncio
from collections.abc import Iterator

import pytest

from connections import close_codes
from connections.asgi import Message, Receive, Send
from connections.connection.send_deadline import SendDeadline
from connections.consumers import LimitedConsumer
from connections.testing.communicators import connect_to, make_node
from tests.connections.virtual_loop import VirtualTime

HELLO = {"type": "websocket.send", "text": "hello"}
STALL_SECONDS = 20


class Gate:
    """A server's send(), which waits while the gate is shut."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.passed: list[Message] = []

    async def __call__(self, message: Message) -> None:
        await self.is_open.wait()
        self.passed.append(message)


class Case:
    """A deadline on a loop whose time the test moves."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.gate = Gate()
        self.stalls: list[float] = []
        self.deadline = SendDeadline(
            self.gate, STALL_SECONDS, lambda: self.stalls.append(time())
        )

    def begin(self, message: Message = HELLO) -> None:
        """Send a message, without waiting until it is taken."""
        self.time.run(self._begin(message))
        self.time.settle()

    async def _begin(self, message: Message) -> None:
        self.sending = asyncio.create_task(self.deadline(message))


@pytest.fixture
def case() -> Iterator[Case]:
    with VirtualTime() as time:
        case = Case(time)
        yield case
        case.deadline.stop()


def test_a_message_that_is_not_taken_is_reported_once(case: Case) -> None:
    case.begin()
    case.time.advance(STALL_SECONDS - 1)
    assert case.stalls == []
    case.time.advance(10 * STALL_SECONDS)
    assert case.stalls == [STALL_SECONDS]
    case.gate.is_open.set()
    case.time.settle()
    assert case.gate.passed == [HELLO]


def test_messages_that_are_taken_are_not_reported(case: Case) -> None:
    case.gate.is_open.set()
    for _ in range(10):
        case.begin()
        case.time.advance(STALL_SECONDS / 4)
    case.time.advance(10 * STALL_SECONDS)
    assert len(case.gate.passed) == 10
    assert case.stalls == []


def test_each_message_that_is_taken_gives_the_next_its_time(case: Case) -> None:
    for _ in range(5):
        case.gate.is_open.clear()
        case.begin()
        case.time.advance(STALL_SECONDS - 1)
        case.gate.is_open.set()
        case.time.settle()
    assert case.stalls == []


def test_a_large_message_has_time_to_leave_the_buffer(case: Case) -> None:
    """A million bytes get 100 seconds more."""
    case.gate.is_open.set()
    case.begin({"type": "websocket.send", "bytes": bytes(1_000_000)})
    case.gate.is_open.clear()
    case.begin()
    case.time.advance(STALL_SECONDS + 99)
    assert case.stalls == []
    case.time.advance(2)
    assert case.stalls == [STALL_SECONDS + 100]


def test_nothing_is_reported_after_the_end(case: Case) -> None:
    case.begin()
    case.deadline.stop()
    case.time.advance(10 * STALL_SECONDS)
    assert case.stalls == []


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
