"""The clients and assertions of the test kit, on a server of the websockets library."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from connections.consumers import LimitedConsumer
from connections.testing import (
    LOST,
    TEXT,
    AttentiveClient,
    DeadPeer,
    Flooder,
    LiveServer,
    RawClient,
    SlowClient,
    assert_closed,
    assert_evicted,
    assert_open,
    build_frame,
    free_port,
    read_close,
    wait_until,
)
from connections.testing.communicators import (
    PATIENCE_SECONDS,
    connect_to,
    make_config,
    make_node,
)
from connections.testing.databases import find_test_databases
from connections.testing.waiting import PATIENCE
from tests.connections.conversations import Echo

Talk = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(talk: Talk) -> AsyncIterator[int]:
    """Serve a conversation; yield the port."""
    async with serve(talk, "127.0.0.1", 0, ping_interval=None) as server:
        (sock,) = server.sockets
        yield sock.getsockname()[1]
        RawClient.close_all()


async def echo(server: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in server:
            await server.send(message)


async def evict(server: ServerConnection) -> None:
    await server.send("a last word")
    await server.close(4005, "evicted")


async def vanish(server: ServerConnection) -> None:
    server.transport.abort()


@pytest.mark.parametrize("kind", [RawClient, AttentiveClient])
async def test_the_close_that_was_expected(kind: type[RawClient]) -> None:
    async with serving(evict) as port:
        client = await kind.open(port, "/")
        await assert_evicted(client)
        # It can be asked for again.
        await assert_closed(client, 4005)
        async with connect(f"ws://127.0.0.1:{port}/") as connection:
            await assert_closed(connection, 4005, "evicted")


async def test_another_close_is_told() -> None:
    async with serving(evict) as port, connect(f"ws://127.0.0.1:{port}/") as connection:
        with pytest.raises(AssertionError) as failed:
            await assert_closed(connection, 4300)
        assert str(failed.value) == "not closed with 4300, but with 4005 evicted"
        with pytest.raises(AssertionError, match=r"4005 idle, but with 4005 evicted"):
            await assert_closed(connection, 4005, "idle")
        with pytest.raises(AssertionError, match=r"^closed with 4005 evicted$"):
            await assert_open(connection)


async def test_an_end_without_a_close_frame_is_told() -> None:
    async with serving(vanish) as port:
        client = await AttentiveClient.open(port, "/")
        assert await read_close(client) == (LOST, "")
        async with connect(f"ws://127.0.0.1:{port}/") as connection:
            assert await read_close(connection) == (LOST, "")


@pytest.mark.parametrize("kind", [RawClient, AttentiveClient])
async def test_what_is_open_still_is_told_with_what_it_got(
    kind: type[RawClient],
) -> None:
    async def send_more(server: ServerConnection) -> None:
        await server.recv()
        await server.send("hello")
        if kind is AttentiveClient:
            await (await server.ping())  # It has read what came before.
        has_sent.set()
        await server.wait_closed()

    has_sent = asyncio.Event()
    async with serving(send_more) as port:
        client = await kind.open(port, "/")
        await assert_open(client)
        await client.send(build_frame(TEXT, b"more"))
        await has_sent.wait()
        with pytest.raises(AssertionError) as failed:
            await assert_closed(client, 4300, "idle", seconds=0.2)
    assert "not closed with 4300 idle, but open after 0.2 s" in str(failed.value)
    assert "b'hello'" in str(failed.value)


async def test_a_communicator_has_no_pings() -> None:
    communicator: Any = connect_to(Echo)
    with pytest.raises(TypeError, match="not a Communicator"):
        await assert_open(communicator)


async def test_a_server_of_this_machine_is_behind_no_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bytes] = []

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with (
        await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy,
        serving(echo) as port,
    ):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        proxy_port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy_port}")
        server = LiveServer(folder=tmp_path, port=port)
        await asyncio.to_thread(server.wait_ready)
        async with server.connect("/") as connection:
            await assert_open(connection)
    assert asked == []


async def test_a_wait_in_vain_shows_what_was_waited_for() -> None:
    with pytest.raises(TimeoutError) as failed:
        await wait_until(lambda: list[int](), seconds=0)
    assert "lambda: list[int]()" in str(failed.value)
    assert str(failed.value).endswith("last it was []")


async def test_a_dead_peer_answers_pings_until_it_vanishes() -> None:
    async def ping(server: ServerConnection) -> None:
        await (await server.ping())
        await server.send("alive")
        with contextlib.suppress(ConnectionClosed):
            await server.recv()
            unanswered.append(await server.ping())
            await server.wait_closed()

    unanswered: list[Awaitable[float]] = []
    async with serving(ping) as port:
        peer = await DeadPeer.open(port, "/")
        assert await peer.read_frame() == (TEXT, b"alive")
        await peer.vanish()
        await peer.send(build_frame(TEXT, b"ping again"))
        await wait_until(lambda: unanswered)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(unanswered[0], 0.2)


async def test_a_slow_client_takes_so_many_bytes_a_second_or_none() -> None:
    written = {"/stuck": 0, "/slow": 0}

    async def pour(server: ServerConnection) -> None:
        assert server.request is not None
        sock = server.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with contextlib.suppress(ConnectionClosed):
            while True:
                await server.send(b"x" * 1000)
                written[server.request.path] += 1000

    async with serving(pour) as port:
        await SlowClient.open(port, "/stuck")
        began = asyncio.get_running_loop().time()
        await SlowClient.open(port, "/slow", bytes_per_second=1_000_000)
        await wait_until(lambda: written["/slow"] > written["/stuck"] + 200_000)
        assert asyncio.get_running_loop().time() - began > 0.15
        assert 0 < written["/stuck"] < 200_000


async def test_a_flooder_keeps_to_its_rate_and_ends_with_the_connection() -> None:
    async def endure(server: ServerConnection) -> None:
        for _ in range(20):
            await server.recv()
        await server.close(4129, "rate_limited")

    async with serving(endure) as port:
        flooder = await Flooder.open(port, "/")
        one, other = build_frame(TEXT, b"one"), build_frame(TEXT, b"other")
        began = asyncio.get_running_loop().time()
        assert await flooder.flood(one, other, per_second=200) >= 20
        assert asyncio.get_running_loop().time() - began >= 0.09
        await assert_closed(flooder, 4129, "rate_limited")


async def test_a_consumer_may_take_its_time_to_disconnect() -> None:
    """Channels' own communicator cancels it after a second."""
    has_ended = asyncio.Event()

    class Slow(Echo):
        async def disconnect(self, code: int) -> None:
            await asyncio.sleep(1.1)
            has_ended.set()

    communicator = connect_to(Slow, make_node())
    assert (await communicator.connect())[0]
    await communicator.disconnect()
    assert has_ended.is_set()


async def test_the_timeouts_of_a_communicator_are_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Undecided(LimitedConsumer):
        async def connect(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setenv(PATIENCE, "0.001")
    loop = asyncio.get_running_loop()
    unscaled = asyncio.Event()
    loop.call_later(PATIENCE_SECONDS, unscaled.set)
    with pytest.raises(TimeoutError):
        await connect_to(Undecided, make_node()).connect()
    assert not unscaled.is_set()


async def test_time_passes_for_a_consumer_when_a_test_says_so() -> None:
    node = make_node(idle_timeout_seconds=3600)
    communicator = connect_to(Echo, node)
    assert (await communicator.connect())[0]
    await node.advance(3599)
    assert await communicator.receive_nothing(0.05)
    await node.advance(1)
    await assert_closed(communicator, 4300, "idle")


def test_a_configuration_that_is_not_allowed_is_named() -> None:
    with pytest.raises(ValueError, match="idle_timeout_seconds: -1 is not allowed"):
        make_config(idle_timeout_seconds=-1)


def test_a_database_that_no_server_could_read_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = "file:memorydb_default?mode=memory&cache=shared"
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", memory)
    with pytest.raises(ValueError, match=r"'default' is in memory"):
        find_test_databases()


def test_no_port_is_given_twice() -> None:
    """A server that listens later finds its port free."""
    ports = [free_port() for _ in range(1000)]
    assert len(set(ports)) == len(ports)
