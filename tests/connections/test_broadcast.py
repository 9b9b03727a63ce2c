"""Test messages that go to all members of a group without their consumers."""

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import InvalidChannelLayerError
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.core.serializers.json import DjangoJSONEncoder

from connections.asgi import TRANSPORT
from connections.consumers import (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
    LimitedSyncJsonConsumer,
)
from connections.layers.broadcast import BROADCAST, broadcast
from connections.layers.deliveries import Deliveries
from connections.layers.local import LocalLayer
from connections.layers.mailbox import Mailbox
from connections.layers.prepared_message import PreparedMessage
from connections.layers.redis import RedisLayer
from connections.testing.communicators import Communicator, connect_to, make_node
from connections.testing.waiting import wait_until
from tests.connections.conversations import open_connection
from tests.integration.redis_process import RedisProcess
from tests.pages import BROADCAST as BROADCAST_PAGE
from tests.pages import README, read_blocks

LOCAL = "connections.layers.local.LocalLayer"
FOREIGN = "channels.layers.InMemoryChannelLayer"
OTHERS = {"type": "others"}


@pytest.fixture(params=[LOCAL, FOREIGN])
def layer(request: pytest.FixtureRequest, settings: Any) -> Any:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": request.param}}
    return get_channel_layer()


@pytest.fixture
def local(settings: Any) -> Any:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LOCAL}}
    return get_channel_layer()


class Member(LimitedConsumer):
    """Broadcasts what its client sends."""

    groups = ["room"]

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        await self.broadcast("room", text_data if bytes_data is None else bytes_data)

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class JsonMember(LimitedJsonConsumer):
    groups = ["room"]

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.broadcast(
            "room", content, exclude_self=content == {"type": "others"}
        )


class SyncMember(LimitedSyncConsumer):
    groups = ["room"]

    def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        self.broadcast("room", text_data, exclude_self=text_data == "others")


class SyncJsonMember(LimitedSyncJsonConsumer):
    groups = ["room"]

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.broadcast("room", content, exclude_self=content == OTHERS)


class Transport:
    """A transport that keeps what it sent, and has room or not."""

    close_reason = None
    has_left = False
    rtt_seconds = None
    unsent_bytes = 0

    def __init__(self) -> None:
        self.sent: list[PreparedMessage] = []
        self.has_room = True

    def send_prepared(self, message: PreparedMessage) -> bool:
        if self.has_room:
            self.sent.append(message)
        return self.has_room

    def abort(self) -> None: ...


def below(transport: Transport) -> dict[str, Any]:
    """Return the extensions of a scope with a transport below its consumer."""
    return {TRANSPORT: transport}


async def send_group(layer: Any, text: str) -> None:
    await layer.group_send("room", {"type": "said", "text": text})


@pytest.mark.django_db
@pytest.mark.usefixtures("layer")
async def test_text_bytes_and_json_reach_consumers_of_each_kind() -> None:
    node = make_node()
    consumers = (Member, JsonMember, SyncMember, SyncJsonMember)
    members = [await open_connection(one, node) for one in consumers]
    for content, received in (
        ("héllo", "héllo"),
        (b"\x00\xff", b"\x00\xff"),
        ({"type": "said", "n": 1}, '{"type": "said", "n": 1}'),
        ([1], "[1]"),
    ):
        await broadcast("room", content)
        for member in members:
            assert await member.receive_from() == received
    counted = [(one.messages_out, one.bytes_out, one.errors) for one in node.hub]
    assert counted == [(4, 6 + 2 + 24 + 3, 0)] * 4
    for member in members:
        await member.disconnect()


@pytest.mark.django_db
@pytest.mark.usefixtures("layer")
@pytest.mark.parametrize(
    ("consumer", "text"),
    [
        (JsonMember, '{"type": "others"}'),
        (SyncMember, "others"),
        (SyncJsonMember, '{"type": "others"}'),
    ],
)
async def test_the_sender_may_be_excluded(consumer: Any, text: str) -> None:
    sender, other = [await open_connection(consumer, make_node()) for _ in range(2)]
    await sender.send_to(text_data=text)
    assert await other.receive_from() == text
    assert await sender.receive_nothing()
    for member in (sender, other):
        await member.disconnect()


async def test_a_broadcast_is_activity_and_keeps_the_order_of_the_sender(
    layer: Any,
) -> None:
    node = make_node(idle_timeout_seconds=300)
    member = await open_connection(Member, node)
    for number in range(0, 20, 2):
        await send_group(layer, str(number))
        await broadcast("room", str(number + 1))
    assert [await member.receive_from() for _ in range(20)] == [*map(str, range(20))]
    await node.advance(299)
    await broadcast("room", "awake")
    assert await member.receive_from() == "awake"
    await node.advance(299)
    assert not next(iter(node.hub)).close_reason
    await member.disconnect()


@pytest.mark.usefixtures("local")
async def test_members_share_one_frame_and_no_method_runs() -> None:
    """The order with group messages, which do run one, holds."""
    node, transports = make_node(), [Transport() for _ in range(3)]
    members = [
        await open_connection(Member, node, extensions=below(one)) for one in transports
    ]
    await asyncio.sleep(0)
    await broadcast("room", "to all")
    first = transports[0].sent[0]
    assert all(one.sent == [first] for one in transports)
    assert [(one.messages_out, one.bytes_out) for one in node.hub] == [(1, 6)] * 3
    for member in members:
        await member.disconnect()
    await broadcast("room", "to nobody")
    assert all(one.sent == [first] for one in transports)


@pytest.mark.usefixtures("layer")
@pytest.mark.parametrize("has_room", [True, False])
async def test_a_broadcast_may_be_kept_from_compression(has_room: bool) -> None:
    transport = Transport()
    transport.has_room = has_room
    member = await open_connection(Member, make_node(), extensions=below(transport))
    await asyncio.sleep(0)
    await broadcast("room", "a secret", compress=False)
    if transport.sent:
        assert not transport.sent[0].may_compress
    else:
        event = await member.receive_output()
        assert (event["text"], event["compress"]) == ("a secret", False)
    await member.disconnect()


async def test_group_messages_before_a_broadcast_arrive_first(local: Any) -> None:
    transport = Transport()
    member = await open_connection(Member, make_node(), extensions=below(transport))
    await send_group(local, "first")
    await broadcast("room", "second")
    assert [await member.receive_from() for _ in "ab"] == ["first", "second"]
    assert not transport.sent
    await member.disconnect()


async def test_a_member_without_room_waits_and_costs_no_other(local: Any) -> None:
    """The bound of its mailbox applies; then it gets a gap."""
    node, slow, fast = make_node(), Transport(), Transport()
    members = [
        await open_connection(Member, node, extensions=below(one))
        for one in (slow, fast)
    ]
    await asyncio.sleep(0)
    slow.has_room = False
    count = 0
    # On a busy machine the reader takes some of them meanwhile, or all of 250.
    while count < 250 or not local.dropped:
        await broadcast("room", str(count))
        count += 1
    assert len(fast.sent) == count
    assert not slow.sent
    kept = count - local.dropped
    assert 100 <= kept < count
    texts = [await members[0].receive_from() for _ in range(kept)]
    assert texts[:100] == [*map(str, range(100))]
    await members[0].send_to(text_data="again")
    assert await members[0].receive_from() == "again"
    for member in members:
        await member.disconnect()


@pytest.mark.usefixtures("layer")
async def test_a_broadcast_during_connect_arrives_after_the_accept() -> None:
    class Hesitant(Member):
        async def connect(self) -> None:
            await broadcast("room", "early")
            await asyncio.sleep(0.01)
            await self.accept()

    node = make_node()
    communicator = await open_connection(Hesitant, node)
    assert await communicator.receive_from() == "early"
    assert next(iter(node.hub)).errors == 0
    await communicator.disconnect()


@pytest.mark.usefixtures("layer")
async def test_a_connection_that_never_accepts_gets_none() -> None:
    class Undecided(Member):
        async def connect(self) -> None: ...

    node = make_node()
    communicator = connect_to(Undecided, node)
    await communicator.send_input({"type": "websocket.connect"})
    assert await communicator.receive_nothing()
    await broadcast("room", "early")
    assert await communicator.receive_nothing()
    await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
    await communicator.wait()


@pytest.mark.usefixtures("layer")
async def test_a_long_handler_does_not_delay_a_broadcast() -> None:
    class Busy(Member):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.send("begun")
            await asyncio.sleep(3600)

    communicator = await open_connection(Busy, make_node())
    await communicator.send_to(text_data="x")
    assert await communicator.receive_from() == "begun"
    await broadcast("room", "now")
    assert await communicator.receive_from() == "now"
    communicator.future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await communicator.future


@pytest.mark.usefixtures("layer")
async def test_a_consumer_may_have_a_broadcast_method_of_its_own() -> None:
    """It is a frequent name of the method for a group's messages."""

    class Own(LimitedConsumer):
        groups = ["room"]

        async def broadcast(self, event: Any) -> None:  # type: ignore[override]
            await self.send(event["text"])

    layer: Any = get_channel_layer()
    communicator = await open_connection(Own, make_node())
    await layer.group_send("room", {"type": "broadcast", "text": "own"})
    assert await communicator.receive_from() == "own"
    await broadcast("room", "ours")
    assert await communicator.receive_from() == "ours"
    await communicator.disconnect()


async def test_a_group_message_cannot_call_the_method_of_every_consumer(
    layer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = make_node()
    communicator = await open_connection(Member, node)
    await layer.group_send("room", {"type": "broadcast", "text": "x"})
    await wait_until(lambda: "was ignored" in caplog.text)
    assert next(iter(node.hub)).errors == 0
    await communicator.disconnect()


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"version": None},
        {"text": 5},
        {"text": None},
        {"text": "\ud800"},
        {"prepared": "a text"},
    ],
    ids=str,
)
async def test_a_broadcast_of_another_release_is_ignored_with_a_sentence(
    layer: Any, caplog: pytest.LogCaptureFixture, changed: dict[str, Any]
) -> None:
    node = make_node()
    communicator = await open_connection(Member, node)
    message = {"type": BROADCAST, "version": 1, "exclude": None, "text": "x"}
    await layer.group_send("room", {**message, **changed})
    if "prepared" in changed:
        assert await communicator.receive_from() == "x"
    else:
        await wait_until(lambda: "this node reads version 1" in caplog.text)
    await send_group(layer, "still here")
    assert await communicator.receive_from() == "still here"
    assert next(iter(node.hub)).errors == 0
    await communicator.disconnect()


class StockMember(AsyncWebsocketConsumer):
    groups = ["room"]

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


async def test_a_consumer_of_channels_outlives_gaps_and_broadcasts(
    settings: Any,
) -> None:
    """It has no method for them, and would end with ValueError."""
    config = {"BACKEND": LOCAL, "CONFIG": {"capacity": 2}}
    settings.CHANNEL_LAYERS = {"default": config}
    layer: Any = get_channel_layer()
    communicator = Communicator(StockMember.as_asgi(), "/")
    assert (await communicator.connect())[0]
    for text in ("one", "two", "lost"):
        await send_group(layer, text)
    assert layer.dropped == 1
    assert [await communicator.receive_from() for _ in range(2)] == ["one", "two"]
    await broadcast("room", "not for it")
    await send_group(layer, "three")
    assert await communicator.receive_from() == "three"
    await communicator.disconnect()


@pytest.mark.usefixtures("layer")
@pytest.mark.parametrize(
    ("group", "content", "error"),
    [
        ("room", {"at": object()}, TypeError),
        ("room", {1, 2}, TypeError),
        ("room", None, None),
        ("room", "\ud800", ValueError),
        ("room", {"value": [float("inf")]}, ValueError),
        ("room", float("nan"), ValueError),
        ("with space", "x", TypeError),
        ("", "x", TypeError),
        ("x" * 101, "x", TypeError),
        (5, "x", TypeError),
    ],
)
async def test_a_mistake_fails_at_the_caller(
    group: Any, content: Any, error: Any
) -> None:
    member = await open_connection(Member, make_node())
    if error is None:
        await broadcast(group, content)
        assert await member.receive_from() == "null"
    else:
        with pytest.raises(error):
            await broadcast(group, content)
    await member.disconnect()


async def test_without_a_layer_the_caller_is_told(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    with pytest.raises(InvalidChannelLayerError, match="'default' is not configured"):
        await broadcast("room", "x")


@pytest.mark.usefixtures("layer")
async def test_a_json_consumer_encodes_with_its_own_encoder() -> None:
    class Decimal(JsonMember):
        @classmethod
        async def encode_json(cls, content: Any) -> str:
            return json.dumps(content, cls=DjangoJSONEncoder)

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.broadcast("room", {"at": date(2026, 1, 2)})

    member = await open_connection(Decimal, make_node())
    await member.send_json_to({})
    assert await member.receive_json_from() == {"at": "2026-01-02"}
    await member.disconnect()


@pytest.mark.usefixtures("layer")
async def test_the_consumer_and_the_functions_of_the_page_broadcast() -> None:
    names: dict[str, Any] = {}
    consumer, functions = read_blocks(BROADCAST_PAGE.read_text(), "python")
    exec(consumer, names)
    exec(functions.replace('"prices"', '"room"'), names)
    members = [
        await open_connection(names["RoomConsumer"], make_node()) for _ in range(2)
    ]
    await members[0].send_json_to({"type": "say", "text": "hello"})
    for member in members:
        received = await member.receive_json_from()
        assert received == {"type": "said", "text": "hello"}
    await names["publish"](1)
    await asyncio.to_thread(names["publish_from_synchronous_code"], 2)
    for member in members:
        for value in (1, 2):
            received = await member.receive_json_from()
            assert received == {"type": "price", "value": value}
        await member.disconnect()


@pytest.mark.usefixtures("layer")
async def test_the_consumer_of_readme_chats() -> None:
    names: dict[str, Any] = {"__name__": "chat"}
    exec(read_blocks(README.read_text(), "python")[0], names)
    members = [
        await open_connection(names["ChatConsumer"], make_node()) for _ in range(2)
    ]
    await members[0].send_json_to({"type": "say", "text": "hello"})
    for member in members:
        received = await member.receive_json_from()
        assert received == {"type": "said", "text": "hello"}
    for member in members:
        await member.disconnect()


@pytest.mark.usefixtures("layer")
async def test_a_thread_of_a_project_may_broadcast() -> None:
    transport = Transport()
    transport.has_room = False
    member = await open_connection(Member, make_node(), extensions=below(transport))
    await asyncio.to_thread(async_to_sync(broadcast), "room", "from a thread")
    assert await member.receive_from() == "from a thread"
    await member.disconnect()


# The slices


def make_member(send_prepared: Callable[[PreparedMessage], bool]) -> Mailbox:
    """Return the mailbox of a reader that waits."""
    mailbox = Mailbox(100, 60)
    mailbox.send_prepared = send_prepared
    mailbox.expect()
    return mailbox


def burn(seconds: float) -> None:
    """Use the processor for some time."""
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


async def test_a_large_group_does_not_stop_the_loop_and_keeps_the_order() -> None:
    sent: list[tuple[int, bytes]] = []
    others = 0

    def make(number: int) -> Mailbox:
        def send(message: PreparedMessage) -> bool:
            burn(0.0005)
            sent.append((number, message.payload))
            return True

        return make_member(send)

    async def run_other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(run_other())
    await asyncio.sleep(0)
    members = [make(number) for number in range(40)]
    deliveries = Deliveries(lambda *values: None)
    messages = [{"type": BROADCAST, "version": 1, "text": text} for text in ("a", "b")]
    waits = [deliveries.add(message, members) for message in messages]
    assert len(sent) < 10
    for wait in waits:
        assert wait is not None
        await wait
    assert sent == [(number, text) for text in (b"a", b"b") for number in range(40)]
    assert others > 5
    other.cancel()


async def test_a_sender_that_ends_meanwhile_leaves_nobody_out(local: Any) -> None:
    """A broadcast reaches all members or, of a connection that ends, none."""
    sent = 0

    def send(message: PreparedMessage) -> bool:
        nonlocal sent
        burn(0.0005)
        sent += 1
        return True

    for _ in range(40):
        channel = await local.new_channel()
        await local.group_add("room", channel)
        mailbox = local.open_mailbox(channel)
        mailbox.send_prepared = send
        mailbox.expect()
    sending = asyncio.create_task(broadcast("room", "x"))
    await asyncio.sleep(0)
    assert 0 < sent < 40
    sending.cancel()
    await wait_until(lambda: sent == 40)


async def test_a_member_that_raises_costs_no_other() -> None:
    sent = 0

    def send(message: PreparedMessage) -> bool:
        nonlocal sent
        sent += 1
        if sent == 2:
            raise ArithmeticError("planted")
        return True

    members = [make_member(send) for _ in range(4)]
    deliveries = Deliveries(lambda *values: None)
    with pytest.raises(ArithmeticError):
        deliveries.add({"type": BROADCAST, "version": 1, "text": "x"}, members)
    await wait_until(lambda: sent == 4)


# Over Redis


@pytest.fixture
def redis_settings(redis_server: RedisProcess, settings: Any) -> RedisProcess:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "connections.layers.redis.RedisLayer",
            "CONFIG": {"hosts": [redis_server.url]},
        }
    }
    return redis_server


async def test_a_broadcast_of_another_node_is_read_once_for_all_members(
    redis_settings: RedisProcess,
) -> None:
    transports = [Transport() for _ in range(3)]
    node = make_node()
    members = [
        await open_connection(Member, node, extensions=below(one)) for one in transports
    ]
    elsewhere = RedisLayer([redis_settings.url])
    for number in range(20):
        content = {"type": BROADCAST, "version": 1, "text": str(number)}
        await elsewhere.group_send("room", content)
    await wait_until(lambda: all(len(one.sent) == 20 for one in transports))
    assert all(one.sent == transports[0].sent for one in transports)
    texts = [message.payload.decode() for message in transports[0].sent]
    assert texts == [*map(str, range(20))]
    for member in members:
        await member.disconnect()
    await elsewhere.flush()


@pytest.mark.usefixtures("redis_settings")
async def test_a_broadcast_over_redis_keeps_the_order_with_group_messages() -> None:
    layer: Any = get_channel_layer()
    member = await open_connection(Member, make_node())
    for number in range(0, 20, 2):
        await send_group(layer, str(number))
        await broadcast("room", str(number + 1), exclude="nobody")
    assert [await member.receive_from() for _ in range(20)] == [*map(str, range(20))]
    await member.disconnect()
    await layer.flush()


def test_a_local_layer_has_no_reference_to_an_ended_loop() -> None:
    """async_to_sync() makes a loop for each call."""
    layer = LocalLayer()
    loops: list[Any] = []

    async def send() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await layer.group_add("room", await layer.new_channel())
        await layer.group_send("room", {"type": "x"})

    async_to_sync(send)()
    gc.collect()
    assert loops[0]() is None
