"""Test limited consumers through Channels' communicator."""

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.contrib.auth.models import User

from connections import close_codes
from connections.asgi import TRANSPORT
from connections.connection.scope import read_replaces
from connections.consumers import (
    LimitedConsumer,
    LimitedJsonConsumer,
    LimitedSyncConsumer,
    LimitedSyncJsonConsumer,
)
from connections.hub.connection import LiveConnection
from connections.node.node import Node
from connections.node.slots import NodeSlots
from connections.pool.base import Slot
from connections.pool.local import LocalPool
from connections.testing import FakeClock, wait_until
from connections.testing.communicators import Communicator, connect_to, make_node
from tests.connections.conversations import Echo, JsonEcho, receive_close, receive_type
from tests.logged import find_records


async def open_connection(consumer: Any, *args: Any, **kwargs: Any) -> Any:
    communicator = connect_to(consumer, *args, **kwargs)
    is_accepted, _ = await communicator.connect()
    assert is_accepted
    return communicator


async def test_text_and_bytes_come_back_as_they_are() -> None:
    communicator = await open_connection(Echo, make_node())
    await communicator.send_to(text_data="héllo")
    assert await communicator.receive_from() == "héllo"
    await communicator.send_to(bytes_data=b"\x00\xff")
    assert await communicator.receive_from() == b"\x00\xff"
    await communicator.disconnect()


async def test_the_oldest_of_a_client_is_evicted() -> None:
    node = make_node(max_connections_per_client=2)
    first = await open_connection(Echo, node)
    second = await open_connection(Echo, node)
    third = await open_connection(Echo, node)
    closed = await receive_close(first)
    assert (closed["code"], closed["reason"]) == (4005, "evicted")
    for kept in (second, third):
        await kept.send_to(text_data="still here")
        assert await kept.receive_from() == "still here"
        await kept.disconnect()
    await first.disconnect()
    assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


async def test_another_client_is_left_alone() -> None:
    node = make_node(max_connections_per_client=1)
    alice = await open_connection(Echo, node, client_id="alice")
    bob = await open_connection(Echo, node, client_id="bob")
    await alice.send_to(text_data="1")
    assert await alice.receive_from() == "1"
    await alice.disconnect()
    await bob.disconnect()


async def test_a_reconnect_takes_the_slot_of_the_one_it_replaces() -> None:
    node = make_node(max_connections_per_client=2)
    oldest = await open_connection(Echo, node)
    newer = await open_connection(Echo, node)
    replaced_id = [one.connection_id for one in node.hub][1]
    again = connect_to(Echo, node, path=f"/ws/test/?replaces={replaced_id}")
    assert (await again.connect())[0]
    closed = await receive_close(newer)
    assert (closed["code"], closed["reason"]) == (4005, "replaced")
    await oldest.send_to(text_data="untouched")
    assert await oldest.receive_from() == "untouched"
    for communicator in (oldest, newer, again):
        await communicator.disconnect()


async def test_a_strangers_connection_cannot_be_replaced() -> None:
    node = make_node(max_connections_per_client=1)
    alice = await open_connection(Echo, node, client_id="alice")
    alice_id = next(iter(node.hub)).connection_id
    path = f"/ws/test/?replaces={alice_id}"
    mallory = await open_connection(Echo, node, client_id="mallory", path=path)
    await alice.send_to(text_data="untouched")
    assert await alice.receive_from() == "untouched"
    await alice.disconnect()
    await mallory.disconnect()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"replaces={'0a' * 16}", "0a" * 16),
        (f"epoch=1&replaces={'0a' * 16}&replaces=x", "0a" * 16),
        ("replaces=", None),
        ("replaces=%00", None),
        ("replaces=-", None),
        (f"replaces={'0A' * 16}", None),
        (f"replaces={'0a' * 16}%0A", None),
        (f"replaces={'0' * 5000}", None),
        (f"replaces={'%ED%A0%80' * 32}", None),
        ("x=replaces", None),
    ],
)
def test_a_text_that_is_no_id_replaces_nothing(
    query: str, expected: str | None
) -> None:
    assert read_replaces({"query_string": query.encode()}) == expected


async def test_a_full_pool_accepts_sends_bye_and_closes() -> None:
    node = make_node(max_total_connections=1, max_connections_per_client=1)
    first = await open_connection(JsonEcho, node, client_id="alice")
    second = await open_connection(JsonEcho, node, client_id="bob")
    bye = await receive_type(second, "bye")
    assert (bye["code"], bye["reason"], bye["reconnect"]) == (
        4103,
        "pool_full",
        "later",
    )
    assert bye["after_ms"] >= 5000
    assert (await receive_close(second))["code"] == 4103
    await first.disconnect()
    await second.disconnect()


async def test_the_policy_refuse_keeps_the_oldest() -> None:
    node = make_node(max_connections_per_client=1, on_client_limit="refuse")
    first = await open_connection(Echo, node)
    second = await open_connection(Echo, node)
    closed = await receive_close(second)
    assert (closed["code"], closed["reason"]) == (4103, "client_full")
    await first.send_to(text_data="here")
    assert await first.receive_from() == "here"
    await first.disconnect()
    await second.disconnect()


async def test_a_consumer_that_denies_evicts_nobody() -> None:
    class Denying(LimitedConsumer):
        async def connect(self) -> None:
            await self.close()

    node = make_node(max_connections_per_client=1)
    first = await open_connection(Echo, node)
    denied = connect_to(Denying, node)
    assert (await denied.connect())[0] is False
    await first.send_to(text_data="here")
    assert await first.receive_from() == "here"
    await first.disconnect()
    await denied.disconnect()


def list_open(node: Node) -> list[LiveConnection]:
    return [one for one in node.hub if one.close_reason is None]


class SlowToAccept(Echo):
    """Accepts when the test allows it."""

    async def connect(self) -> None:
        await self.scope["may_accept"].wait()
        await self.accept()


class Leaving:
    """A transport whose client gives up."""

    close_reason = None
    has_left = False
    rtt_seconds = None
    unsent_bytes = 0

    def abort(self) -> None: ...


async def test_a_client_that_gave_up_evicts_no_connection() -> None:
    """It is back on another one by the time its first handshake is answered."""
    node, transport = make_node(max_connections_per_client=1), Leaving()
    may_accept = asyncio.Event()
    given_up = connect_to(
        *(SlowToAccept, node),
        extensions={TRANSPORT: transport},
        may_accept=may_accept,
    )
    await given_up.send_input({"type": "websocket.connect"})
    back = await open_connection(Echo, node)
    transport.has_left = True
    await given_up.send_input({"type": "websocket.disconnect", "code": 1006})
    may_accept.set()
    await given_up.wait()
    await back.send_to(text_data="still here")
    assert await back.receive_from() == "still here"
    assert (len(list_open(node)), (await node.get_usage()).slots) == (1, 1)
    await back.disconnect()


async def test_fifty_at_once_leave_exactly_the_limit() -> None:
    for _ in range(5):
        node = make_node(max_connections_per_client=5)
        communicators = [connect_to(Echo, node) for _ in range(50)]
        await asyncio.gather(*(one.connect() for one in communicators))
        await wait_until(lambda node=node: len(list_open(node)) <= 5)
        assert len(list_open(node)) == (await node.get_usage()).slots == 5
        await asyncio.gather(*(one.disconnect() for one in communicators))
        assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


class LatePool(LocalPool):
    """Answers the first request for a slot when the test allows it."""

    def __init__(self) -> None:
        super().__init__(max_total=10, evict_oldest=True)
        self.has_given = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def acquire(
        self, slot: Slot, *, replaces: str | None = None
    ) -> tuple[Slot, ...]:
        taken = await super().acquire(slot, replaces=replaces)
        if not self.has_given.is_set():
            self.has_given.set()
            await self.may_answer.wait()
        return taken


async def test_a_drain_ends_a_connection_that_waited_for_its_slot() -> None:
    node, pool = make_node(drain={"grace_seconds": 30}), LatePool()
    node.slots = NodeSlots(
        node_id=node.node_id, hub=node.hub, pool=pool, observer=node.observer
    )
    waiting = connect_to(JsonEcho, node)
    await waiting.send_input({"type": "websocket.connect"})
    await pool.has_given.wait()
    node.begin_drain()
    pool.may_answer.set()
    assert (await waiting.receive_output())["type"] == "websocket.accept"
    assert (await receive_type(waiting, "bye"))["reason"] == "draining"
    assert (await receive_close(waiting))["code"] == 4200
    await waiting.disconnect()
    assert len(node.hub) == 0


async def test_a_slot_that_is_taken_before_its_answer_comes_ends_its_connection() -> (
    None
):
    node, pool = make_node(max_connections_per_client=1), LatePool()
    node.slots = NodeSlots(
        node_id=node.node_id, hub=node.hub, pool=pool, observer=node.observer
    )
    first = connect_to(Echo, node)
    await first.send_input({"type": "websocket.connect"})
    await pool.has_given.wait()
    second = await open_connection(Echo, node)
    pool.may_answer.set()
    assert (await receive_close(first))["code"] == 4005
    await second.send_to(text_data="still here")
    assert await second.receive_from() == "still here"
    await second.disconnect()


async def test_a_message_over_the_size_closes_4013() -> None:
    node = make_node(max_message_size=10)
    communicator = await open_connection(Echo, node)
    await communicator.send_to(text_data="é" * 5)
    assert await communicator.receive_from() == "é" * 5
    await communicator.send_to(text_data="é" * 5 + "x")
    closed = await receive_close(communicator)
    assert (closed["code"], closed["reason"]) == (4013, "message_too_big")
    await communicator.disconnect()


RATE = {"messages_per_second": 1, "burst_messages": 2, "tolerance_seconds": 5}


async def test_an_excess_message_is_dropped_and_answered() -> None:
    node = make_node(rate_limit=RATE)
    communicator = await open_connection(JsonEcho, node)
    for number in range(3):
        await communicator.send_json_to({"type": "echo", "n": number})
    assert [(await communicator.receive_json_from())["n"] for _ in range(2)] == [0, 1]
    error = await communicator.receive_json_from()
    assert (error["code"], error["retry_after_seconds"]) == ("rate_limited", 1)
    await communicator.disconnect()


async def test_a_flood_that_goes_on_closes_4129() -> None:
    clock = FakeClock()
    node = make_node(clock, rate_limit=RATE)
    communicator = await open_connection(Echo, node)
    for _ in range(70):
        await communicator.send_to(text_data="x")
        await asyncio.sleep(0)
        clock.advance(0.1)
    assert (await receive_close(communicator))["reason"] == "rate_limited"
    await communicator.disconnect()


async def test_a_handler_that_raises_costs_an_error_not_the_connection() -> None:
    node = make_node()
    communicator = await open_connection(JsonEcho, node)
    await communicator.send_json_to({"type": "fail"})
    error = await communicator.receive_json_from()
    assert error["code"] == "internal"
    assert len(error["ref"]) == 16
    assert "planted" not in json.dumps(error)
    await communicator.send_json_to({"type": "echo", "n": 1})
    assert (await communicator.receive_json_from())["n"] == 1
    assert next(iter(node.hub)).errors == 1
    await communicator.disconnect()


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({"text_data": '{"type": "fail"}'}, 4500, "internal_error"),
        ({"text_data": "{nonsense"}, 4002, "protocol_error"),
    ],
)
async def test_a_spent_error_budget_closes(
    message: dict[str, Any], code: int, reason: str
) -> None:
    node = make_node(errors={"budget": 3, "window_seconds": 60})
    communicator = await open_connection(JsonEcho, node)
    for _ in range(3):
        await communicator.send_to(**message)
    closed = await receive_close(communicator)
    assert (closed["code"], closed["reason"]) == (code, reason)
    await communicator.disconnect()


@pytest.mark.parametrize("consumer_class", [JsonEcho, None])
@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"text": "{"}, "invalid_json"),
        ({"text": ""}, "invalid_json"),
        ({"text": "[" * 100_000}, "invalid_json"),
        ({"bytes": b"{}"}, "invalid_message"),
        ({"text": "[]"}, "invalid_message"),
        ({"text": '{"type": "nobody"}'}, "unknown_type"),
        ({"text": '{"type": "__init__"}'}, "unknown_type"),
    ],
)
async def test_an_invalid_json_message_gets_an_error(
    consumer_class: Any, message: dict[str, Any], code: str
) -> None:
    """The asynchronous and the synchronous consumer answer alike."""
    consumer_class = consumer_class or LimitedSyncJsonConsumer
    communicator = await open_connection(consumer_class, make_node())
    await communicator.send_input({"type": "websocket.receive", **message})
    assert (await communicator.receive_json_from())["code"] == code
    await communicator.disconnect()


async def test_connect_that_raises_is_refused_with_a_reference() -> None:
    class Broken(LimitedJsonConsumer):
        async def connect(self) -> None:
            raise RuntimeError("planted")

    node = make_node()
    communicator = await open_connection(Broken, node)
    bye = await receive_type(communicator, "bye")
    assert (bye["reason"], len(bye["ref"])) == ("internal_error", 16)
    assert (await receive_close(communicator))["code"] == 4500
    assert (await node.get_usage()).slots == 0
    await communicator.disconnect()


async def test_the_slot_is_free_when_disconnect_raises() -> None:
    class Clumsy(LimitedConsumer):
        async def disconnect(self, code: int) -> None:
            raise RuntimeError("planted")

    node = make_node()
    communicator = await open_connection(Clumsy, node)
    await communicator.disconnect()
    assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


async def test_the_slot_is_free_when_the_task_is_cancelled() -> None:
    node = make_node()
    communicator = await open_connection(Echo, node)
    communicator.stop(exceptions=False)
    await wait_until(communicator.future.done)
    assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


async def test_a_stuck_handler_is_aborted_and_disconnect_runs() -> None:
    ended_with = []

    class Stuck(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await asyncio.Event().wait()

        async def disconnect(self, code: int) -> None:
            ended_with.append(code)

    node = make_node(evict_grace_seconds=0.02)
    communicator = await open_connection(Stuck, node)
    await communicator.send_to(text_data="x")
    await asyncio.sleep(0.01)
    next(iter(node.hub)).end(close_codes.KICKED)
    await communicator.wait()
    assert ended_with == [4009]
    assert len(node.hub) == 0


async def test_a_consumer_ends_itself_with_a_reason() -> None:
    class CloseReason(LimitedJsonConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            self.end(4003, "forbidden")

    communicator = await open_connection(CloseReason, make_node())
    await communicator.send_json_to({})
    assert (await receive_type(communicator, "bye"))["reconnect"] == "never"
    assert (await receive_close(communicator))["code"] == 4003
    await communicator.disconnect()


async def test_sending_after_the_end_is_ignored() -> None:
    class Late(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.close(code=4999, reason="mine")
            await self.send(text_data="too late")

    communicator = await open_connection(Late, make_node())
    await communicator.send_to(text_data="x")
    assert (await communicator.receive_output())["code"] == 4999
    assert await communicator.receive_nothing()
    await communicator.disconnect()


async def test_sending_in_a_loop_after_the_end_does_not_block_the_event_loop() -> None:
    """Other tasks run, among them one that stops the handler."""

    class Unaware(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.close()
            while not is_noticed.is_set():
                await self.send(text_data="too late")

    is_noticed = asyncio.Event()
    communicator = await open_connection(Unaware, make_node())
    await communicator.send_to(text_data="x")
    assert (await communicator.receive_output())["type"] == "websocket.close"
    is_noticed.set()
    await communicator.disconnect()


async def test_a_handled_message_is_freed() -> None:
    """A client that sent a large message and is silent costs no memory for it."""

    class Text(str):
        """A text that supports weak references."""

    class Measuring(LimitedConsumer):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=str(len(text_data)))

    communicator = await open_connection(Measuring, make_node())
    text = Text("hello")
    is_there = weakref.ref(text)
    await communicator.send_input({"type": "websocket.receive", "text": text})
    del text
    assert await communicator.receive_from() == "5"
    await asyncio.sleep(0)
    gc.collect()
    assert is_there() is None
    await communicator.disconnect()


async def test_idle_counts_from_the_last_application_data() -> None:
    clock = FakeClock()
    node = make_node(clock, idle_timeout_seconds=100)
    communicator = await open_connection(Echo, node)
    clock.advance(99)
    await communicator.send_to(text_data="x")
    await communicator.receive_from()
    clock.advance(99)
    await node.activity.check()
    assert next(iter(node.hub)).close_reason is None
    clock.advance(1)
    await node.activity.check()
    assert (await receive_close(communicator))["reason"] == "idle"
    await communicator.disconnect()


async def test_a_message_that_is_no_activity_does_not_restart_the_idle_timeout() -> (
    None
):
    class Heartbeating(LimitedConsumer):
        def is_activity(self, message: dict[str, Any]) -> bool:
            return message.get("text") != "heartbeat"

    clock = FakeClock()
    node = make_node(clock, idle_timeout_seconds=100)
    communicator = await open_connection(Heartbeating, node)
    clock.advance(100)
    await communicator.send_to(text_data="heartbeat")
    await asyncio.sleep(0)
    await node.activity.check()
    assert (await receive_close(communicator))["reason"] == "idle"
    await communicator.disconnect()


async def test_an_exception_in_is_activity_costs_an_error() -> None:
    class Failing(JsonEcho):
        def is_activity(self, message: dict[str, Any]) -> bool:
            raise LookupError("planted")

    node = make_node()
    communicator = await open_connection(Failing, node)
    await communicator.send_json_to({"type": "echo", "n": 1})
    assert (await communicator.receive_json_from())["code"] == "internal"
    assert next(iter(node.hub)).errors == 1
    await communicator.disconnect()


@pytest.fixture
def memory_layer(settings: Any) -> Any:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    }


class Member(LimitedConsumer):
    groups = ["everyone"]

    async def shout(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class SyncMember(LimitedSyncConsumer):
    groups = ["everyone"]

    def shout(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"])


@pytest.mark.usefixtures("memory_layer")
@pytest.mark.parametrize("consumer_class", [Member, SyncMember])
async def test_groups_reach_a_consumer(consumer_class: Any) -> None:
    communicator = await open_connection(consumer_class, make_node())
    layer = get_channel_layer()
    await layer.group_send("everyone", {"type": "shout", "text": "hello"})
    assert await communicator.receive_from() == "hello"
    await communicator.disconnect()


@pytest.mark.usefixtures("memory_layer")
@pytest.mark.parametrize(
    "kind",
    [
        *("nobody.home", "_private", "", 7, "__class__", "shout.__call__"),
        *("websocket.connect", "websocket.receive", "websocket.disconnect"),
        *("websocket_receive", "websocket.send", "websocket.close", "lifespan.startup"),
        *("http.request", "http.disconnect", "handle.echo.own", "groups", "scope"),
        *("close", "end", "send", "send.json", "accept", "connect", "disconnect"),
        *("receive", "dispatch", "base.send", "channel.layer", "get.client.id"),
        *("is.activity", "get.limits", "as.asgi", "group", "permission.required"),
    ],
)
async def test_an_unknown_layer_message_is_ignored(kind: Any) -> None:
    communicator = await open_connection(Member, make_node())
    layer = get_channel_layer()
    await layer.group_send("everyone", {"type": kind})
    await layer.group_send("everyone", {"type": "shout", "text": "alive"})
    assert await communicator.receive_from() == "alive"
    await communicator.disconnect()


class Guest(LimitedJsonConsumer):
    """Overrides methods of the library, and has one of each kind of its own."""

    groups = ["everyone"]

    async def http_request(self, event: dict[str, Any]) -> None:
        await self.send_json({"taken": event["type"]})

    async def disconnect(self, code: int) -> None:
        await self.send_json({"taken": "disconnect"})

    async def websocket_note(self, event: dict[str, Any]) -> None:
        await self.send_json({"taken": event["type"]})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"taken": content["type"]})

    async def note_arrived(self, event: dict[str, Any]) -> None:
        await self.send_json({"note": event["type"]})


@pytest.mark.usefixtures("memory_layer")
async def test_the_layer_speaks_neither_for_the_client_nor_for_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = make_node()
    communicator = await open_connection(Guest, node)
    layer = get_channel_layer()
    taken = ["websocket.receive", "websocket.note", "http.request", "disconnect"]
    for kind in [*taken, "receive.json"]:
        event = {"type": kind, "text": '{"type": "forged"}', "code": 1000}
        await layer.group_send("everyone", event)
    await layer.group_send("everyone", {"type": "note.arrived"})
    assert await communicator.receive_json_from() == {"note": "note.arrived"}
    live = next(iter(node.hub))
    assert (live.messages_in, live.errors) == (0, 0)
    said = find_records(caplog, "connections.connection.runner")
    assert sum("was ignored" in one.getMessage() for one in said) == 5
    await communicator.disconnect()


async def test_an_unreachable_layer_is_counted_and_ends_nothing(settings: Any) -> None:
    backend = "tests.connections.conversations.UnreachableLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}

    class EchoMember(Echo):
        groups = ["everyone"]

    node = make_node()
    communicator = await open_connection(EchoMember, node)
    await communicator.send_to(text_data="here")
    assert await communicator.receive_from() == "here"
    assert node.counters.failures["The channel layer"] == 1
    await communicator.disconnect()


async def test_without_middleware_a_consumer_counts_alone() -> None:
    """A bare scope, as in a project's own unit tests, has no headers or client."""
    communicators = [Communicator(Echo.as_asgi(), "/") for _ in range(7)]
    for communicator in communicators:
        assert await communicator.connect() == (True, None)
    for communicator in communicators:
        await communicator.send_to(text_data="x")
        assert await communicator.receive_from() == "x"
        await communicator.disconnect()


async def test_without_middleware_the_user_is_the_client() -> None:
    communicators = [Communicator(Echo.as_asgi(), "/") for _ in range(6)]
    for communicator in communicators:
        communicator.scope["user"] = User(pk=7)
        assert (await communicator.connect())[0]
    assert (await receive_close(communicators[0]))["code"] == 4005
    for communicator in communicators:
        await communicator.disconnect()


async def test_the_first_subprotocol_is_accepted_where_none_is_named() -> None:
    communicator = connect_to(Echo, make_node(), subprotocols=["chat.v1", "chat.v0"])
    assert await communicator.connect() == (True, "chat.v1")
    await communicator.disconnect()
