"""The WebSocket protocol as a whole, its violations and its floods."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import websockets

from connections.testing import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Flooder,
    LiveServer,
    RawClient,
    Servers,
    assert_closed,
    build_frame,
    build_request,
)
from tests.project import ProjectServers

RAW = "tests.integration.applications:application"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path
) -> Iterator[LiveServer]:
    running = ProjectServers(tmp_path_factory.mktemp("protocol"), migrated_database)
    yield running.start(
        command="daphne",
        application=RAW,
        config={
            "max_message_size": "100kB",
            "buffers__unfinished_message_seconds": 1,
            "handshake__timeout_seconds": 1,
            "handshake__max_body_size": "50kB",
        },
    )
    running.stop_all()


@pytest.mark.parametrize("message", ["", b"", "é", b"\0", "x" * 70_000])
async def test_a_message_arrives_as_it_was_sent(
    server: LiveServer, message: str | bytes
) -> None:
    """Empty ones too, which stock daphne drops."""
    async with websockets.connect(f"{server.ws_url}/echo") as ws:
        await ws.send(message)
        assert await ws.recv() == message


async def test_fragments_become_one_message_with_control_frames_between(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/echo")
    await client.send(
        build_frame(TEXT, b"a\xc3", is_final=False),
        build_frame(PING, b"are you there"),
        build_frame(0, b"", is_final=False),
        build_frame(0, b"\xa9b"),
    )
    assert await client.read_frame() == (PONG, b"are you there")
    assert await client.read_frame() == (TEXT, "aéb".encode())


async def test_a_message_of_empty_fragments_is_an_empty_message(
    server: LiveServer,
) -> None:
    client = await RawClient.open(server.port, "/echo")
    for opcode in (TEXT, BINARY):
        await client.send(
            build_frame(opcode, is_final=False),
            build_frame(0, is_final=False),
            build_frame(0),
        )
        assert await client.read_frame() == (opcode, b"")


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("unmasked", build_frame(TEXT, b"x", is_masked=False), 1002),
        ("RSV1", build_frame(TEXT, b"x", reserved=4), 1002),
        ("RSV2", build_frame(TEXT, b"x", reserved=2), 1002),
        ("RSV3", build_frame(PING, b"", reserved=1), 1002),
        ("opcode 3", build_frame(3, b"x"), 1002),
        ("opcode 7", build_frame(7), 1002),
        ("opcode 11", build_frame(11), 1002),
        ("opcode 15", build_frame(15), 1002),
        ("a ping in fragments", build_frame(PING, b"", is_final=False), 1002),
        ("a ping too long", build_frame(PING, b"x" * 126), 1002),
        ("a continuation of nothing", build_frame(0, b"x"), 1002),
        (
            "a message within a message",
            build_frame(TEXT, b"x", is_final=False) + build_frame(TEXT, b"y"),
            1002,
        ),
        ("text that is not UTF-8", build_frame(TEXT, b"\xff"), 1007),
        ("a surrogate", build_frame(TEXT, b"\xed\xa0\x80"), 1007),
        (
            "a character that stays unfinished",
            build_frame(TEXT, b"\xc3", is_final=False) + build_frame(0, b""),
            1007,
        ),
        ("a close of one byte", build_frame(CLOSE, b"x"), 1002),
        ("a close code of nobody", build_frame(CLOSE, b"\x03\xed"), 1002),
        ("a close reason not UTF-8", build_frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
async def test_a_violation_is_answered_with_a_close_frame(
    server: LiveServer, name: str, data: bytes, code: int
) -> None:
    client = await RawClient.open(server.port, "/echo")
    await client.send(data)
    frame = await client.read_close()
    assert (frame.close_code, frame.close_reason) == (code, "protocol_error"), name
    assert await client.read_end() == b"", "an orderly end, not a reset"


@pytest.mark.parametrize(
    "begun",
    [
        build_frame(TEXT, b"x" * 100, is_final=False),
        build_frame(BINARY, b"x" * 100, announced=1000),
        b"\x81",
    ],
)
async def test_a_message_that_does_not_become_whole_has_a_deadline(
    server: LiveServer, begun: bytes
) -> None:
    """Pings in between do not keep it."""
    client = await RawClient.open(server.port, "/echo")
    await client.send(begun)
    frame = await client.read_close(seconds=4)
    assert (frame.close_code, frame.close_reason) == (1008, "policy")


async def test_messages_that_follow_each_other_have_each_their_time(
    server: LiveServer,
) -> None:
    """Always within a message, never for long: nothing is wrong with that."""
    client = await RawClient.open(server.port, "/echo")
    frame = build_frame(TEXT, b"hello")
    stream = frame * 8
    for index in range(0, 8):
        cut = len(frame) * index + 4
        await client.send(stream[max(0, cut - len(frame)) : cut])
        await asyncio.sleep(0.25)
    for _ in range(7):
        assert await client.read_frame() == (TEXT, b"hello")


@contextlib.asynccontextmanager
async def canary(server: LiveServer) -> AsyncIterator[list[float]]:
    """Measure another client's round trips while something goes on."""
    delays: list[float] = []

    async def beat() -> None:
        async with websockets.connect(f"{server.ws_url}/echo") as ws:
            while True:
                began = time.monotonic()
                await ws.send("x")
                await ws.recv()
                delays.append(time.monotonic() - began)
                await asyncio.sleep(0.01)

    task = asyncio.create_task(beat())
    try:
        await asyncio.sleep(0.1)
        yield delays
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("name", "begin", "again"),
    [
        ("empty fragments", build_frame(TEXT, b"x", is_final=False), (0, b"")),
        ("tiny fragments", build_frame(TEXT, b"x", is_final=False), (0, b"y")),
        ("pings", b"", (PING, b"ping")),
        ("pongs", b"", (PONG, b"")),
    ],
)
async def test_a_flood_of_small_frames_costs_its_sender_the_connection(
    server: LiveServer, name: str, begin: bytes, again: tuple[int, bytes]
) -> None:
    """And not the others their latency."""
    flood = build_frame(*again, is_final=again[0] != 0) * 5000
    async with canary(server) as delays:
        client = await Flooder.open(server.port, "/echo")
        await client.send(begin)
        await client.flood(flood)
        await assert_closed(client, 4129, "rate_limited")
    assert statistics.median(delays) < 0.1


async def test_pings_at_a_sane_rate_are_all_answered(server: LiveServer) -> None:
    client = await RawClient.open(server.port, "/echo")
    for index in range(200):
        await client.send(build_frame(PING, str(index).encode()))
        assert await client.read_frame() == (PONG, str(index).encode())


async def test_a_frame_sent_behind_the_handshake_is_not_lost(
    server: LiveServer,
) -> None:
    client = await RawClient.connect(server.port)
    await client.send(build_request("/echo", server.port), build_frame(TEXT, b"early"))
    assert (await client.read_response())[0] == 101
    assert await client.read_frame() == (TEXT, b"early")


@pytest.mark.parametrize(
    ("name", "old", "new", "status"),
    [
        ("no key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        ("short key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 400),
        ("version 8", "Version: 13", "Version: 8", 426),
        ("POST", "GET", "POST", 400),
        ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0", 400),
        ("no Connection", "Connection: Upgrade\r\n", "", 400),
        ("two hosts", "Host:", "Host: evil.example\r\nHost:", 400),
        ("a tab in a name", "Host:", "Ho\tst:", 400),
    ],
)
async def test_a_request_that_is_no_handshake_is_refused(
    server: LiveServer, name: str, old: str, new: str, status: int
) -> None:
    client = await RawClient.connect(server.port)
    request = build_request("/echo", server.port).decode()
    assert old in request
    await client.send(request.replace(old, new, 1).encode())
    answered, headers, _ = await client.read_response()
    assert answered == status, name
    if status == 426:
        assert headers["sec-websocket-version"] == "13"


async def test_a_root_path_of_a_clients_own_is_ignored(server: LiveServer) -> None:
    client = await RawClient.open(server.port, "/echo", "Daphne-Root-Path: /echo")
    await client.send(build_frame(TEXT, b"x"))
    assert await client.read_frame() == (TEXT, b"x")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
async def test_a_foreign_host_is_refused(servers: Servers, host: str) -> None:
    server = servers.start(config={"echo_endpoint": "true"})
    client = await RawClient.connect(server.port)
    request = build_request("/ws/echo/", server.port).decode()
    await client.send(request.replace(f"127.0.0.1:{server.port}", host, 1).encode())
    assert (await client.read_response())[0] == 403
