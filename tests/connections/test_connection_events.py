"""Test wrong events of a consumer: they change nothing, or end the connection."""

import asyncio
from array import array
from typing import Any

import pytest

from connections.connection.events import cut_reason
from connections.consumers import LimitedConsumer, LimitedSyncConsumer
from connections.node.node import Node
from connections.testing.communicators import connect_to, make_node
from connections.testing.waiting import wait_until
from tests.connections.conversations import Echo, open_connection, receive_close

WRONG_CLOSES: list[dict[str, Any]] = [
    *({"code": code} for code in (401, 403, 1006, 1005, 1015, 2000, 5000, -1, 70000)),
    *({"code": code} for code in ("4000", 4000.0, False, b"4000", [4000])),
    *({"reason": reason} for reason in (b"bytes", 5, ["a"])),
]


OF_THE_HANDSHAKE = (
    *(b"Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade"),
    *(b"Sec-WebSocket-Accept", b"Sec-WebSocket-Extensions", b"sec-websocket-protocol"),
)
"""Headers with which a client fails a connection that the server counts as open."""


class Closing(LimitedConsumer):
    """Closes with the arguments in its scope."""

    async def receive(self, *args: Any, **kwargs: Any) -> None:
        await self.close(**self.scope["close"])


class SyncClosing(LimitedSyncConsumer):
    def receive(self, *args: Any, **kwargs: Any) -> None:
        self.close(**self.scope["close"])


class Ending(LimitedConsumer):
    async def receive(self, *args: Any, **kwargs: Any) -> None:
        arguments = {"code": 4000, "reason": "x", **self.scope["close"]}
        self.end(arguments["code"], arguments["reason"])


class Hanging(LimitedConsumer):
    """Closes, and then goes on until it is released."""

    async def receive(self, *args: Any, **kwargs: Any) -> None:
        await self.close(4000)
        await self.scope["released"].wait()
        self.scope["finished"].set()


class Accepting(LimitedConsumer):
    async def connect(self) -> None:
        await self.accept(**self.scope["accept"])


async def assert_nothing_held(node: Node) -> None:
    assert (len(node.hub), (await node.get_usage()).slots) == (0, 0)


@pytest.mark.parametrize("consumer_class", [Closing, SyncClosing, Ending])
@pytest.mark.parametrize("close", WRONG_CLOSES, ids=repr)
async def test_a_close_that_may_not_be_sent_ends_with_4500(
    consumer_class: Any, close: dict[str, Any]
) -> None:
    node = make_node()
    communicator = await open_connection(consumer_class, node, close=close)
    await communicator.send_to(text_data="x")
    assert (await receive_close(communicator))["code"] == 4500
    await wait_until(lambda: node.counters.errors == {"internal": 1})
    await communicator.disconnect()
    await assert_nothing_held(node)


@pytest.mark.parametrize("reason", ["r" * 500, "ü" * 62, "a\ud800b", "\U0001f600" * 31])
async def test_a_long_reason_is_cut(reason: str) -> None:
    node = make_node()
    communicator = await open_connection(Closing, node, close={"reason": reason})
    await communicator.send_to(text_data="x")
    closed = await receive_close(communicator)
    assert 0 < len(closed["reason"].encode()) <= 123
    assert closed["reason"] == cut_reason(reason)
    await communicator.disconnect()


async def test_a_second_close_and_what_follows_are_ignored() -> None:
    class Repeating(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.close(4000)
            await self.close(401)
            await self.send(text_data="late")
            self.end(4001, "unauthenticated")

    node = make_node()
    communicator = await open_connection(Repeating, node)
    await communicator.send_to(text_data="x")
    assert (await receive_close(communicator))["code"] == 4000
    assert await communicator.receive_nothing()
    assert node.counters.errors == {}
    await communicator.disconnect()
    await assert_nothing_held(node)


@pytest.mark.parametrize("close", WRONG_CLOSES, ids=repr)
async def test_before_the_accept_every_close_denies(close: dict[str, Any]) -> None:
    """The client gets HTTP 403, which has no close code."""

    class Denying(LimitedConsumer):
        async def connect(self) -> None:
            await self.close(**close)

    node = make_node()
    communicator = connect_to(Denying, node)
    assert not (await communicator.connect())[0]
    assert node.counters.errors == {}
    await communicator.disconnect()


@pytest.mark.parametrize("kind", ["websocket.close", "websocket.send"])
async def test_an_end_that_the_server_does_not_send_ends_by_a_timer(kind: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def refuse(message: Any) -> None:
            if message["type"] == kind:
                raise ValueError("planted")
            await send(message)

        await Closing.as_asgi()(scope, receive, refuse)

    node = make_node(evict_grace_seconds=0.02)
    communicator = connect_to(Closing, node, close={"code": 4000})
    communicator.application = application
    assert (await communicator.connect())[0]
    await communicator.send_to(text_data="x")
    await wait_until(communicator.future.done)
    await assert_nothing_held(node)


async def test_an_end_whose_close_frame_waits_for_ever_ends_by_a_timer() -> None:
    """A kick or an eviction of a client that neither reads nor leaves."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def stall(message: Any) -> None:
            if message["type"] == "websocket.close":
                await asyncio.Event().wait()
            await send(message)

        await Ending.as_asgi()(scope, receive, stall)

    node = make_node(evict_grace_seconds=0.02, buffers={"send_stall_seconds": 600})
    communicator = connect_to(Ending, node, close={})
    communicator.application = application
    assert (await communicator.connect())[0]
    await communicator.send_to(text_data="x")
    await wait_until(communicator.future.done)
    await assert_nothing_held(node)
    await node.hub.sending.stop()


async def test_a_handler_may_finish_after_its_close_but_holds_no_slot() -> None:
    released, finished = asyncio.Event(), asyncio.Event()
    node = make_node(evict_grace_seconds=0.02)
    communicator = await open_connection(
        Hanging, node, released=released, finished=finished
    )
    await communicator.send_to(text_data="x")
    await wait_until(lambda: len(node.hub) == 0)
    await assert_nothing_held(node)
    released.set()
    await communicator.wait()
    assert finished.is_set()


@pytest.mark.parametrize(
    "accept",
    [
        {"subprotocol": "not offered"},
        {"subprotocol": 5},
        {"headers": [("x-name", "text")]},
        {"headers": [(b"x-name", b"line\nbreak")]},
        {"headers": [(b"x-name", b"at the end\n")]},
        {"headers": [(b"x-name", b"\r")]},
        {"headers": [(b"x name", b"value")]},
        {"headers": [(b"", b"value")]},
        {"headers": [(b"x-name",)]},
        {"headers": [(b"x-name", None)]},
        {"headers": {"x-name": "value"}},
        {"headers": 5},
        pytest.param({"headers": [(b"x-name", b"v")] * 65}, id="65 headers"),
        pytest.param({"headers": [(b"x-name", b"v" * 8_000)]}, id="8,006 bytes"),
        *({"headers": [(name, b"value")]} for name in OF_THE_HANDSHAKE),
        *(
            {"headers": [(b"x-name", b"a" + end)]}
            for end in (b"\x01", b"\x1b", b"\x7f")
        ),
    ],
    ids=repr,
)
async def test_an_accept_that_cannot_be_sent_evicts_nobody(
    accept: dict[str, Any],
) -> None:
    node = make_node(max_connections_per_client=1)
    open_one = await open_connection(Echo, node)
    communicator = connect_to(Accepting, node, accept=accept, subprotocols=["chat"])
    assert (await communicator.connect())[0]
    assert (await receive_close(communicator))["code"] == 4500
    await communicator.disconnect()
    await open_one.send_to(text_data="still here")
    assert await open_one.receive_from() == "still here"
    await open_one.disconnect()


async def test_headers_may_come_from_any_iterable() -> None:
    node = make_node()
    headers = (pair for pair in [[b"x-name", b"value"]])
    communicator = connect_to(Accepting, node, accept={"headers": headers})
    await communicator.send_input({"type": "websocket.connect"})
    accepted = await communicator.receive_output()
    assert (b"x-name", b"value") in accepted["headers"]
    await communicator.disconnect()


@pytest.mark.parametrize(
    "sent",
    [
        *({"text": 123}, {"text": b"x"}, {"bytes": "x"}, {"bytes": 5}),
        pytest.param({"bytes": memoryview(array("I", [1, 2]))}, id="larger items"),
    ],
    ids=repr,
)
async def test_a_message_of_the_wrong_type_is_an_error_and_not_counted(
    sent: dict[str, Any],
) -> None:
    class Sending(LimitedConsumer):
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.send(sent.get("text"), sent.get("bytes"))

    node = make_node()
    communicator = await open_connection(Sending, node)
    await communicator.send_to(text_data="x")
    await wait_until(lambda: node.counters.errors == {"internal": 1})
    assert [one.messages_out for one in node.hub] == [0]
    await communicator.disconnect()


@pytest.mark.parametrize("groups", ["chat", 5, {"chat": 1}, ["with space"], [5]])
async def test_groups_that_are_no_list_of_names_refuse_the_connection(
    groups: Any, settings: Any
) -> None:
    backend = "connections.layers.local.LocalLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    consumer = type("Grouped", (LimitedConsumer,), {"groups": groups})
    node = make_node()
    communicator = connect_to(consumer, node)
    assert (await communicator.connect())[0]
    assert (await receive_close(communicator))["code"] == 4500
    await communicator.disconnect()


@pytest.mark.parametrize("result", [2.0, None, 5, {}, "5", ValueError("planted")])
@pytest.mark.parametrize("method", ["get_limits", "get_client_id"])
async def test_a_wrong_hook_refuses_the_connection(method: str, result: Any) -> None:
    if method == "get_client_id" and result in (None, "5"):
        pytest.skip("a client id")

    def hook(self: Any, scope: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    consumer = type("Hooked", (LimitedConsumer,), {method: hook})
    node = make_node()
    communicator = connect_to(consumer, node)
    assert (await communicator.connect())[0]
    assert (await receive_close(communicator))["code"] == 4500
    await communicator.disconnect()
    await assert_nothing_held(node)


@pytest.mark.parametrize("client_id", ["x" * 100_000, "nul\0", "\ud800", ""])
async def test_every_text_is_a_client_id(client_id: str) -> None:
    class Named(LimitedConsumer):
        def get_client_id(self, scope: Any) -> str:
            return client_id

    node = make_node()
    communicator = await open_connection(Named, node)
    assert 0 < len(next(iter(node.hub)).client_id) <= 255
    await communicator.disconnect()
