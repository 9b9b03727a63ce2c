"""Collections stay short, and connections are freed without one."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from connections import close_codes
from connections.connection.channel import ConnectionChannel
from connections.connection.public import ConsumerConnection
from connections.connection.runner import ConnectionRunner
from connections.connection.sender import AsgiSender
from connections.consumers import (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
)
from connections.hub.connection import LiveConnection
from connections.limits import Limits
from connections.node.gc import Freezer
from connections.node.node import Node
from connections.testing import FakeClock
from connections.testing.communicators import Communicator, connect_to, make_node
from connections.testing.waiting import wait_until
from tests.connections.conversations import receive_close


@pytest.fixture
def frozen_before() -> Iterator[int]:
    """
    The number of frozen objects; all are unfrozen after the test.

    Python collects nothing by itself meanwhile: CPython 3.12 freezes immortal objects
    at every full collection, and a test counts those.
    """
    gc.disable()
    yield gc.get_freeze_count()
    gc.unfreeze()
    gc.enable()


class Member(LimitedConsumer):
    """A consumer that also uses its channel."""

    groups = ["all"]


@pytest.mark.parametrize("kind", [Member, LimitedJsonConsumer])
async def test_a_connection_that_ends_needs_no_collection(kind: Any) -> None:
    """Reference counts free its consumer, its record and its scope."""
    node = make_node()
    gc.collect()
    gc.disable()
    try:
        earlier = find_objects(kind)
        communicator = connect_to(kind, node)
        await communicator.connect()
        (connection,) = node.hub
        left = [weakref.ref(connection), *find_objects(kind, besides=earlier)]
        assert len(left) == 2
        await communicator.disconnect()
        del communicator, connection
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


def find_objects(
    *kinds: type, besides: Collection[weakref.ref[Any]] = ()
) -> list[weakref.ref[Any]]:
    """Return the objects of some types; earlier tests may have left some."""
    known = [one() for one in besides]
    return [
        weakref.ref(one)
        for one in gc.get_objects()
        if type(one) in kinds and not any(one is other for other in known)
    ]


def count_parts() -> int:
    """Return the number of objects that belong to single connections."""
    kinds = (ConnectionRunner, ConnectionChannel, AsgiSender, ConsumerConnection)
    return len([one for one in gc.get_objects() if type(one) in kinds])


class Failing(LimitedConsumer):
    """A consumer each of whose methods can fail."""

    groups = ["all"]

    async def connect(self) -> None:
        if self.scope["fails_in"] == "connect":
            raise ValueError("for the test")
        await self.accept()

    def get_limits(self, scope: Any) -> Limits:
        if scope["fails_in"] == "get_limits":
            raise ValueError("for the test")
        return super().get_limits(scope)

    async def fail(self, event: Any) -> None:
        raise ValueError("for the test")

    async def stop(self, event: Any) -> None:
        raise StopConsumer

    async def disconnect(self, code: int) -> None:
        if self.scope["fails_in"] == "disconnect":
            raise ValueError("for the test")


async def leave(node: Node, communicator: Communicator) -> None:
    await communicator.disconnect()


async def receive_failing(node: Node, communicator: Communicator) -> None:
    """A message of the channel layer comes, and its handler fails."""
    await get_channel_layer().group_send("all", {"type": "fail"})
    await wait_until(lambda: all(one.errors for one in node.hub))
    await communicator.disconnect()


async def receive_stop(node: Node, communicator: Communicator) -> None:
    await get_channel_layer().group_send("all", {"type": "stop"})
    await communicator.wait()


async def kick(node: Node, communicator: Communicator) -> None:
    for connection in node.hub:
        connection.end(close_codes.KICKED)
    await communicator.disconnect()


async def abort(node: Node, communicator: Communicator) -> None:
    for connection in node.hub:
        connection.sender.abort()
    await communicator.wait()


async def kill(node: Node, communicator: Communicator) -> None:
    """The server cancels the task of the application."""
    communicator.future.cancel()
    await asyncio.wait([communicator.future])


async def be_refused(node: Node, communicator: Communicator) -> None:
    await receive_close(communicator)
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("end", "fails_in"),
    [
        (leave, ""),
        (leave, "disconnect"),
        (receive_failing, ""),
        (receive_stop, ""),
        (kick, ""),
        (abort, ""),
        (abort, "disconnect"),
        (kill, ""),
        (be_refused, "connect"),
        (be_refused, "get_limits"),
    ],
)
async def test_no_end_of_a_connection_needs_a_collection(
    end: Any, fails_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Tracebacks and cancelled tasks refer to the frames of the consumer."""
    # pytest keeps every record, with its traceback.
    caplog.set_level(logging.CRITICAL, "connections.connection.failures")
    node = make_node()
    gc.collect()
    gc.disable()
    parts = count_parts()
    earlier = find_objects(Failing, LiveConnection)
    try:
        communicator = connect_to(Failing, node, fails_in=fails_in)
        await communicator.send_input({"type": "websocket.connect"})
        await communicator.receive_output()
        left = find_objects(Failing, LiveConnection, besides=earlier)
        assert len(left) == 2
        await end(node, communicator)
        del communicator
        for _ in range(3):
            await asyncio.sleep(0)
        assert [one() for one in left] == [None, None]
        assert count_parts() == parts
    finally:
        gc.enable()


class OwnReference(LimitedConsumer):
    async def connect(self) -> None:
        self.me = self
        await self.accept()


class KeptMethod(LimitedConsumer):
    async def connect(self) -> None:
        self.later = self.send
        await self.accept()


class KeptFunction(LimitedConsumer):
    async def connect(self) -> None:
        self.later = lambda: self.send("x")
        await self.accept()


class KeptInItsScope(LimitedConsumer):
    async def connect(self) -> None:
        self.scope["consumer"] = self
        await self.accept()


class WaitingTask(LimitedConsumer):
    """A task waits for a queue that the consumer alone has; nothing cancels it."""

    async def connect(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.task = asyncio.create_task(self.pump())
        await self.accept()

    async def pump(self) -> None:
        while True:
            await self.send(await self.queue.get())


class FailedTask(LimitedConsumer):
    """A task ended with an exception, whose traceback refers to the consumer."""

    async def connect(self) -> None:
        self.task = asyncio.create_task(self.fail())
        await asyncio.wait([self.task])
        self.error = self.task.exception()
        await self.accept()

    async def fail(self) -> None:
        raise ValueError("for the test")


class Room:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.rooms = {"first": self}


class OwnRoom(LimitedConsumer):
    """The consumer is in no cycle; what it owns is."""

    async def connect(self) -> None:
        self.room = Room()
        await self.accept()


class SyncOwnReference(LimitedSyncConsumer):
    def connect(self) -> None:
        self.me = self
        self.accept()


CYCLES = [
    OwnReference,
    KeptMethod,
    KeptFunction,
    KeptInItsScope,
    WaitingTask,
    FailedTask,
    OwnRoom,
    SyncOwnReference,
]


@pytest.mark.django_db(transaction=True)  # A thread may hold a connection already.
@pytest.mark.parametrize("kind", CYCLES)
async def test_a_short_collection_frees_a_frozen_consumer_in_a_cycle(
    kind: Any, frozen_before: int
) -> None:
    """A full collection stops the process, and none comes while others are open."""
    node = make_node()
    gc.collect()
    communicators = [connect_to(kind, node) for _ in range(5)]
    for communicator in communicators:
        await communicator.connect()
    left = find_objects(kind, Room)
    assert len(left) == (10 if kind is OwnRoom else 5)
    gc.freeze()
    for communicator in communicators:
        await communicator.disconnect()
    del communicators, communicator
    await asyncio.sleep(0.01)
    # The thread has left what it did for a synchronous consumer.
    await sync_to_async(int)()
    gc.collect(1)
    assert [one() for one in left if one() is not None] == []


async def test_a_task_that_ends_later_leaves_its_consumer_to_the_search_for_leaks(
    frozen_before: int,
) -> None:
    """The consumer was frozen once more while the task still referred to it."""
    clock = FakeClock()
    node = make_node(clock)
    may_end = asyncio.Event()

    class Slow(LimitedConsumer):
        async def connect(self) -> None:
            self.task = asyncio.create_task(self.work())
            self.me = self
            await self.accept()

        async def work(self) -> None:
            await may_end.wait()

    other, communicator = connect_to(Member, node), connect_to(Slow, node)
    await other.connect()
    await communicator.connect()
    (left,) = find_objects(Slow)
    consumer: Any = left()
    task = consumer.task
    del consumer
    await communicator.disconnect()
    del communicator
    gc.freeze()
    may_end.set()
    await task
    del task
    full = gc.get_stats()[2]["collections"]
    await node.leaks.poll()
    assert left() is None
    assert gc.get_stats()[2]["collections"] == full
    await other.disconnect()


def collect(
    freezer: Freezer, clock: FakeClock, seconds: float, generation: int
) -> None:
    info = {"generation": generation, "collected": 0, "uncollectable": 0}
    freezer.on_collection("start", info)
    clock.advance(seconds)
    freezer.on_collection("stop", info)


def test_survivors_of_a_long_full_collection_are_frozen(frozen_before: int) -> None:
    clock = FakeClock()
    freezer = Freezer(clock)
    collect(freezer, clock, 0.3, generation=2)
    assert freezer.freezes == 1
    assert gc.get_freeze_count() > frozen_before


@pytest.mark.parametrize(("seconds", "generation"), [(0.005, 2), (0.3, 1)])
def test_a_short_or_young_collection_freezes_nothing(
    frozen_before: int, seconds: float, generation: int
) -> None:
    clock = FakeClock()
    freezer = Freezer(clock)
    collect(freezer, clock, seconds, generation)
    assert freezer.freezes == 0
    assert gc.get_freeze_count() == frozen_before


def test_frozen_objects_are_collected_once_unfrozen(frozen_before: int) -> None:
    freezer = Freezer(FakeClock())
    freezer.is_on = True
    cycle: Any = Member()
    cycle.itself = cycle
    reference = weakref.ref(cycle)
    gc.freeze()
    del cycle
    gc.collect()
    assert reference() is not None
    frozen = gc.get_freeze_count()
    freezer.collect_all()
    assert reference() is None
    # CPython 3.12 freezes immortal objects at every full collection.
    assert 0 < gc.get_freeze_count() < frozen


def test_collections_are_pythons_again_after_the_end() -> None:
    """A test process that froze objects hid them from gc.get_referrers()."""
    callbacks, threshold = [*gc.callbacks], gc.get_threshold()
    held: list[str] = []
    holder = [held]
    freezer = Freezer(FakeClock())
    freezer.begin()
    assert holder not in gc.get_referrers(held)
    freezer.end()
    freezer.end()
    assert holder in gc.get_referrers(held)
    assert (gc.callbacks, gc.get_threshold()) == (callbacks, threshold)
